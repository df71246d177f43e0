"""A run is a folder: which one a checkpoint belongs to, and what is in it.

``runs/<experiment>/version_<N>/`` holds ``config.yaml``, ``checkpoints/best.ckpt`` and
``last.ckpt``, TensorBoard events, ``metrics.csv`` and ``summary.json``.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from errors import UserError

CONFIG_KEY = "config"  # in a checkpoint: the YAML that made it


def run_folder(checkpoint: Path) -> Path | None:
    """The run that ``checkpoint`` lies in; None where it lies alone."""
    run = checkpoint.resolve().parent.parent
    inside = checkpoint.resolve().parent.name == "checkpoints" and (run / "config.yaml").is_file()
    return run if inside else None


def newest_checkpoint(runs_dir: Path, experiment: str | None, name: str) -> Path:
    """The newest ``<name>.ckpt`` (best or last) of an experiment, or of all of them (None).

    Raises:
        UserError: there is none.
    """
    folder = runs_dir / experiment if experiment else runs_dir
    found = folder.glob(f"{'' if experiment else '**/'}version_*/checkpoints/{name}.ckpt")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(f"--ckpt_path {name}: no {name}.ckpt of any run under {folder}; fit first")
    return newest


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, without running any code it may hold.

    Raises:
        UserError: the file is missing, truncated, no checkpoint, or holds code.
    """
    if not path.is_file():
        raise UserError(f"--ckpt_path {path}: there is no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"--ckpt_path {path}: refused, because loading it would run code, or it is no "
            "checkpoint of PyTorch; use one that train.py fit wrote"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"--ckpt_path {path}: truncated or not a checkpoint ({reason}); "
            "use another one of the run, or fit again"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"--ckpt_path {path}: holds no state_dict; expected one that fit wrote")
    return checkpoint


def experiment_name(configs: Sequence[Path]) -> str:
    """``mnist/baseline_cnn+dropout`` of configuration files; empty where there are none."""
    names: list[str] = []
    for config in configs:
        path = config.resolve().with_suffix("")
        parts = path.parts
        inside = parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:]
        names.append("/".join(inside) if not names else path.name)
    return "+".join(names)


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


class LastCheckpoint(ModelCheckpoint):
    """Write ``last.ckpt`` after every epoch, better or not, so that a run can go on from there."""

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__(dirpath, filename="last", enable_version_counter=False)


class SaveConfig(SaveConfigCallback):
    """Save the configuration of a ``fit`` in its run's folder and in every checkpoint.

    So a run can be repeated, and a checkpoint that was moved still knows what it is.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.config = self.config.clone()
        self.config.ckpt_path = None  # repeating a run that was resumed starts at its start
        self.text = self.parser.dump(self.config, skip_none=False)
        self.overwrite = True  # a resumed run says what it was resumed with
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self.text

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell the checkpoint callbacks where the run's folder is now; it may have been moved."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder is None:
            return

        def here(path: str) -> str:
            return str(Path(folder, Path(path).name)) if path else path

        for state in checkpoint.get("callbacks", {}).values():
            if "best_model_path" in state:
                state["dirpath"] = folder
                for name in ("best_model_path", "last_model_path", "kth_best_model_path"):
                    state[name] = here(state[name])
                best = state["best_k_models"]
                state["best_k_models"] = {here(path): score for path, score in best.items()}
