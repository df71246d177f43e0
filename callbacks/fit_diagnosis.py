"""The diagnosis of a run, at its end."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.finite_loss import NonFiniteLossError
from callbacks.pictures import tensorboard_writer
from callbacks.run_summary import RunSummary
from diagnosis.curves import broken_off, read_curves
from diagnosis.diagnosis import Diagnosis, as_markdown, diagnose
from diagnosis.reference import nearest_mean_accuracy
from foundation.run_folder import as_typed
from foundation.run_logger import RunLogger
from foundation.yaml_text import load_yaml


class FitDiagnosis(Callback):
    """Say at the end of ``fit`` what the curves show, and what to try next.

    Written to ``summary.json`` and TensorBoard's text tab; ``train.py`` prints it. A run without
    validation, or without a run's folder, gets none. A run whose loss became NaN is diagnosed too,
    and the error that ends it says so.

    Attributes:
        diagnosis: None before the end, and on other ranks than zero.
        reference: accuracy of the nearest class mean; see :func:`nearest_mean_accuracy`.
    """

    def __init__(self) -> None:
        self.diagnosis: Diagnosis | None = None
        self.reference: float | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.reference = nearest_mean_accuracy(getattr(trainer, "datamodule", None))

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._diagnose(trainer, pl_module)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, NonFiniteLossError):
            return
        self._diagnose(trainer, pl_module, str(exception))
        if self.diagnosis is not None:
            exception.add_note(f"diagnosis: {self.diagnosis.kind}, {self.diagnosis.evidence[0]}")

    def _diagnose(
        self, trainer: Trainer, pl_module: LightningModule, error: str | None = None
    ) -> None:
        logger = trainer.logger
        if not trainer.is_global_zero or not isinstance(logger, RunLogger):
            return
        logger.save()
        run = Path(logger.log_dir)
        curves = read_curves(run / "metrics.csv")
        if error is not None:
            curves = broken_off(curves, trainer.current_epoch)
        if not curves["val/accuracy"]:
            return
        path = run / "config.yaml"
        config = load_yaml(path.read_text()) if path.is_file() else None
        classes: Any = pl_module.num_classes
        self.diagnosis = diagnose(curves, classes, self.reference, config=config)
        entries: dict[str, Any] = {"nearest_mean_accuracy": self.reference}
        entries["diagnosis"] = self.diagnosis.as_dict()
        if error is not None:
            entries["error"] = error
        summary = next((c for c in trainer.callbacks if isinstance(c, RunSummary)), None)  # type: ignore[attr-defined]
        if summary is not None:
            summary.add(trainer, entries)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            text = as_markdown(self.diagnosis, as_typed(path))
            writer.add_text("diagnosis", text, trainer.global_step)
            writer.flush()
