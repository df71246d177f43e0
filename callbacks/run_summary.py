"""The results of a run, as a file."""

import json
import platform
import time
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from callbacks.chosen_precision import ChosenPrecision
from callbacks.throughput import Throughput
from foundation.checkout import git_commit
from foundation.errors import UserError
from foundation.interruption import Interrupted
from foundation.run_folder import as_typed
from foundation.whole_file import write

Kind = TypeVar("Kind", bound=Callback)


def _metrics(trainer: Trainer, *prefixes: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefixes)
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"


def _callback(trainer: Trainer, kind: type[Kind]) -> Kind | None:
    found = (c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]
    return next(found, None)


def _parameters(model: LightningModule) -> int:
    return sum(p.numel() for p in model.parameters())


def _reason(trainer: Trainer) -> str | None:
    """The reason for the chosen precision; None where it was given."""
    chosen = _callback(trainer, ChosenPrecision)
    return chosen.reason or None if chosen else None


def first_line(trainer: Trainer, model: LightningModule) -> str:
    """Device, precision, parameters, images and the run's folder."""
    kind, reason = model.device.type, _reason(trainer)
    parts = [
        kind if trainer.world_size == 1 else f"{kind}, {trainer.world_size} processes",
        f"{trainer.precision} (chosen: {reason})" if reason else str(trainer.precision),
        f"{_parameters(model):,} parameters",
    ]
    images = getattr(getattr(trainer, "datamodule", None), "description", {}).get("images") or {}
    if images:
        parts.append(", ".join(f"{n:,} {split}" for split, n in images.items()) + " images")
    if isinstance(trainer.logger, TensorBoardLogger):
        parts.append(f"run {as_typed(Path(trainer.logger.log_dir))}")
    return ", ".join(parts)


class RunSummary(Callback):
    """Write ``summary.json`` into the run's folder, and the hyper-parameters to TensorBoard.

    The best epoch is the one that the checkpoint callback's monitor says.

    Args:
        announce: print what is trained where, in one line, before the first step.

    Attributes:
        summary: what the file holds; empty before ``fit`` or ``test`` ends.
    """

    def __init__(self, announce: bool = False) -> None:
        self.announce = announce
        self.summary: dict[str, Any] = {}
        self.best: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.seconds = 0.0
        self._start = 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        seconds = self.seconds + time.perf_counter() - self._start
        return {"best": self.best, "final": self.final, "seconds": seconds}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict.get("best", {})
        if best:
            self.best = {name: float(value) for name, value in best.items()}
            self.best["epoch"] = int(best["epoch"])
        final = state_dict.get("final", {})
        self.final = {name: float(value) for name, value in final.items()}
        self.seconds = float(state_dict["seconds"])

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        if self.announce and trainer.is_global_zero:
            print(first_line(trainer, pl_module), flush=True)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        checkpoint = trainer.checkpoint_callback
        monitor, better = "val/accuracy", max
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.monitor:
            monitor, better = checkpoint.monitor, max if checkpoint.mode == "max" else min
        now = {"epoch": trainer.current_epoch + 1, **_metrics(trainer, "val/")}
        if monitor not in now:
            return
        best = self.best.get(monitor)
        if best is None or better(now[monitor], best) != best:
            self.best = now

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # By now, before the next epoch or the end, an epoch's metrics are all there.
        self.final = _metrics(trainer, "train/", "val/") or self.final

    on_train_end = on_train_epoch_start

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self._start
        speed = _callback(trainer, Throughput)
        self.summary = {
            "best": self.best,
            "final": self.final,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": self.seconds,
            "images_per_second": speed.images / speed.seconds if speed and speed.seconds else None,
            "parameters": _parameters(pl_module),
            "data": getattr(getattr(trainer, "datamodule", None), "description", {}),
            "device": _device_name(pl_module.device),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "precision_reason": _reason(trainer),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "lightning": lightning.__version__,
            },
            "git_commit": git_commit(),
        }
        self._write(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """An interrupted run says what it reached, and where it was."""
        if isinstance(exception, Interrupted) and trainer.state.fn == "fit" and self._start:
            self.on_fit_end(trainer, pl_module)
            place = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
            self.add(trainer, {"interrupted": {"signal": str(exception), **place}})

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)  # so that nothing is computed for a file that cannot take it

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.summary = {**self._read(trainer), "test": _metrics(trainer, "test/")}
        names = getattr(getattr(trainer, "datamodule", None), "class_names", ())
        accuracy = {
            name: self.summary["test"].pop(f"test/accuracy_class_{label}", None)
            for label, name in enumerate(names)
        }
        self.summary["test_accuracy_by_class"] = accuracy
        self._write(trainer)
        self._log_hyperparameters(trainer, pl_module)

    def add(self, trainer: Trainer, entries: dict[str, Any]) -> None:
        """Write more into the file, also of a run that did not end well."""
        self.summary = {**self._read(trainer), **entries}
        self._write(trainer)

    def _path(self, trainer: Trainer) -> Path | None:
        if not isinstance(trainer.logger, TensorBoardLogger) or not trainer.is_global_zero:
            return None
        return Path(trainer.logger.log_dir) / "summary.json"

    def _read(self, trainer: Trainer) -> dict[str, Any]:
        path = self._path(trainer)
        if path is None or not path.is_file():
            return self.summary
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            found = error
        if not isinstance(found, dict):
            raise UserError(f"{path}: not what a run wrote; move it away, and a new one is written")
        return found

    def _write(self, trainer: Trainer) -> None:
        path = self._path(trainer)
        if path is None:
            return
        write(path, json.dumps(self.summary, indent=2) + "\n")

    def _log_hyperparameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """For TensorBoard's HPARAMS tab: what was chosen beside what it reached."""
        if self._path(trainer) is None or not self.summary.get("best"):
            return
        reached = {k: v for k, v in self.summary["best"].items() if k.startswith("val/")}
        reached |= {"test/accuracy": self.summary["test"]["test/accuracy"]}
        chosen = {}
        for group, owner in (("model", pl_module), ("data", trainer.datamodule)):  # type: ignore[attr-defined]
            hparams = dict(getattr(owner, "hparams", {}))
            hparams.pop("_instantiator", None)
            chosen[group] = {"class_path": hparams.pop("_class_path", None), **hparams}
        metrics = {f"reached/{name}": value for name, value in reached.items()}
        trainer.logger.log_hyperparams(chosen, metrics, trainer.global_step)  # type: ignore
