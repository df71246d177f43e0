"""Averages of the weights, which are validated, tested and saved in place of the last ones."""

import math
from functools import partial
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor
from typing_extensions import override

from foundation.errors import UserError


class _Averaging(WeightAveraging):
    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # The model is not on its device yet; the average belongs there from the start.
        self._device = trainer.strategy.root_device
        # The command line's factories lead back to the trainer with its data and processes, which
        # would be copied with the weights, or fail to be.
        factories = {name: part for name, part in vars(pl_module).items() if type(part) is partial}
        for name in factories:
            delattr(pl_module, name)
        try:
            super().setup(trainer, pl_module, stage)
        finally:
            vars(pl_module).update(factories)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Only a fit goes on with the raw weights. Lightning would also put them back for a test
        # that follows a fit in the same process, and so test other weights than it validated.
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class ExponentialMovingAverage(_Averaging, EMAWeightAveraging):
    """average ← decay·average + (1 - decay)·weights, after every step.

    Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv:1703.01780.

    Args:
        decay: about 1 / (1 - decay) steps are averaged.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; expected 0 <= value < 1")
        super().__init__(decay=decay)


class StochasticWeightAveraging(_Averaging):
    """The mean of the weights at the ends of the last epochs.

    Before that, the weights are their own average. The running statistics of batch norm are
    averaged too. Lightning's own callback of this name takes over the schedule, and its average is
    in no checkpoint; this one leaves the schedule alone: the paper's is high to the end.
    Izmailov et al. 2018, arXiv:1803.05407.

    Args:
        start: share of the epochs after which collecting begins, in [0, 1).

    Raises:
        ValueError: a start outside [0, 1).
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise ValueError(f"start is {start}; expected 0 <= value < 1")
        super().__init__(avg_fn=self._average)
        self.start = start
        self._first_epoch = 0
        self._steps_per_epoch = 1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.max_epochs or trainer.max_epochs < 0:
            raise UserError("averaging begins at a share of the run: set --trainer.max_epochs")
        self._first_epoch = math.floor(self.start * trainer.max_epochs)
        batches = float(trainer.num_training_batches)
        self._steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self._steps_per_epoch == 0

    def _average(self, average: Tensor, current: Tensor, epochs: Tensor | int) -> Tensor:
        """``epochs`` is how many have been averaged: AveragedModel's count of updates."""
        collected = int(epochs) - self._first_epoch
        if collected <= 0 or not average.is_floating_point():  # counters and flags have no mean
            return current
        return average + (current - average) / (collected + 1)
