"""The checks that a checkpoint belongs to a model and a run, and what its restoring may fail at."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.connectors import checkpoint_connector
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from foundation.errors import UserError

_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


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


def check_states(checkpoint: dict[str, Any], trainer: Trainer, path: Path) -> None:
    """Refuse states of loops and callbacks that are not what they would be in this run.

    Raises:
        UserError: names the first value that is of another kind.
    """
    states, loops = checkpoint.get("callbacks", {}), checkpoint.get("loops", {})
    chosen = states.get("ChosenPrecision", {}).get("precision", "32-true")
    wrong = "" if chosen in _PRECISIONS else "ChosenPrecision.precision"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback).__module__.startswith(("lightning.", "callbacks.")):
            theirs, ours = states.get(callback.state_key), callback.state_dict()
            if theirs and ours:
                wrong = wrong or _unlike(theirs, ours, callback.state_key, numbers=True)
    for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop"):
        if name in loops:
            ours = getattr(trainer, name).state_dict()
            wrong = wrong or _unlike(loops[name], ours, name, numbers=False)
    if wrong:
        raise UserError(
            f"--ckpt_path {path}: {wrong} is not what a run keeps there; "
            "use a checkpoint that train.py fit wrote"
        )


def _unlike(theirs: Any, ours: Any, name: str, *, numbers: bool) -> str:
    """The name of the first value that is of another kind than ours; empty for none.

    Args:
        numbers: whether a table that is empty in ours is one of numbers.
    """
    if isinstance(ours, dict):
        if not isinstance(theirs, dict) or not all(isinstance(key, str) for key in theirs):
            return name
        if numbers and not ours:
            return "" if all(map(_is_number, theirs.values())) else name
        shared = sorted(ours.keys() & theirs.keys())
        parts = (_unlike(theirs[k], ours[k], f"{name}.{k}", numbers=numbers) for k in shared)
        return next(filter(None, parts), "")
    if isinstance(ours, bool | str | list):
        alike = isinstance(theirs, type(ours))
    elif isinstance(ours, int):
        alike = isinstance(theirs, int) and not isinstance(theirs, bool)
    elif isinstance(ours, float | Tensor):
        alike = _is_number(theirs)
    else:  # None, until there is one
        alike = theirs is None or isinstance(theirs, str) or _is_number(theirs)
    return "" if alike else name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


@contextmanager
def while_restoring(path: Path | None) -> Iterator[None]:
    """Make one line of what fails while Lightning restores a run from a checkpoint.

    Raises:
        UserError: it fails; an error of the run itself passes as it is.
    """
    try:
        yield
    except (UserError, MisconfigurationException):
        raise
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        names = (frame.f_globals.get("__name__") for frame, _ in frames)
        if path is None or checkpoint_connector.__name__ not in names:
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"--ckpt_path {path}: cannot be restored ({type(error).__name__}: {reason}); "
            "use another checkpoint of the run, or start a new one"
        ) from error
