"""The check that a checkpoint belongs to a model."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule

from foundation.errors import UserError


def check_fits(checkpoint: dict[str, Any], model: LightningModule, path: Path) -> None:
    """Refuse a checkpoint whose weights are not ``model``'s.

    Raises:
        UserError: names the network and the first weight that differs.
    """
    theirs, ours = checkpoint["state_dict"], model.state_dict()
    names = sorted(theirs.keys() | ours.keys())

    def shape(weights: dict[str, torch.Tensor], name: str) -> str:
        return str(tuple(weights[name].shape)) if name in weights else "missing"

    for name in names:
        if shape(theirs, name) != shape(ours, name):
            raise UserError(
                f"--ckpt_path {path}: not a checkpoint of this {type(model).__name__}: {name} is "
                f"{shape(theirs, name)} in the checkpoint and {shape(ours, name)} in the model; "
                "leave --config and --model out to use the checkpoint's own configuration"
            )
