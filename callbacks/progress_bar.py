"""The progress bar."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from typing_extensions import override


class ProgressBar(TQDMProgressBar):
    """Lightning's bar on one line: loss, accuracy and images per second.

    Drawn ten times a second at most: more often nobody sees, and it takes time from short steps.
    """

    interval = 0.1  # seconds

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0
        self._loss: Tensor | None = None

    @override
    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        due = current == total or now - self._drawn >= self.interval
        if due:
            self._drawn = now
        return due and super()._should_update(current, total)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss = outputs["loss"]
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if "images/s" in metrics:
            metrics["images/s"] = f"{metrics['images/s']:.0f}"
        if self._loss is None:
            return metrics
        # Logging it would cost more in every step than reading it now and then. Lightning has
        # divided it where several batches make one step.
        return {"loss": self._loss.item() * trainer.accumulate_grad_batches, **metrics}
