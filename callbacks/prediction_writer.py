"""Write predictions to a file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override

from foundation.whole_file import write


class PredictionWriter(BasePredictionWriter):
    """Write one CSV row per image: index, predicted class and name, probability of each class.

    Args:
        path: the CSV file; replaced only once the new one is complete.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    @override
    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        indices = [index for batch in batch_indices[0] for index in batch]
        probabilities = [row for batch in predictions for row in batch.cpu().tolist()]
        rows = list(zip(indices, probabilities, strict=True))
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        if not trainer.is_global_zero:
            return
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["index", "class", "name", *(f"p({name})" for name in names)])
        for index, row in sorted(rows):
            best = row.index(max(row))
            writer.writerow([index, best, names[best], *(f"{p:.6f}" for p in row)])
        write(self.path, text.getvalue())
