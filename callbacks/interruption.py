"""Stop between two batches, all processes at the same one."""

import math
import shlex
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import _set_pg_timeout
from typing_extensions import override

from callbacks.last_checkpoint import last_checkpoint
from foundation.interruption import Interrupted, hold, waiting
from foundation.run_folder import as_typed, program


class Interruption(Callback):
    """Let a signal stop a run at the end of a batch, in all of its processes at the same one.

    Signals wait for it from the first batch on (:func:`foundation.interruption.hold`). Several
    processes ask each other in every tenth step whether any of them was told to stop. An epoch that
    is stopped begins anew when the run goes on.

    While batches are worked on, a process that waits for another one does so for
    :attr:`patience` only, unless the strategy has a ``timeout`` of its own
    (``--trainer.strategy DDPStrategy --trainer.strategy.timeout 0:10:00``). Until then, where one
    may be fetching the data, it is PyTorch's 30 minutes.

    Raises:
        Interrupted: at the end of a batch.
    """

    every_n_steps = 10
    patience = timedelta(minutes=2)

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self._saved = 0  # epochs
        self._trained = False
        self._batches = 0  # of this evaluation, so far
        self._common = math.inf  # batches that every process has in it

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer

    # Signals wait from here on.

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hold(True)
        self._wait_less(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.current_epoch  # the last one is on the disk by now

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved, self._trained = trainer.current_epoch, True

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sanity = trainer.sanity_checking
        self._evaluate(
            trainer, trainer.num_sanity_val_batches if sanity else trainer.num_val_batches
        )

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, trainer.num_test_batches)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, trainer.num_predict_batches)

    def _evaluate(self, trainer: Trainer, batches: Iterable[float]) -> None:
        hold(True)
        self._wait_less(trainer)
        self._batches, self._common = 0, math.inf
        if _several(trainer):  # one may have a batch more than another
            fewest = torch.tensor(float(sum(batches)), device=trainer.strategy.root_device)
            distributed.all_reduce(fewest, distributed.ReduceOp.MIN)
            self._common = fewest.item()

    def _wait_less(self, trainer: Trainer) -> None:
        unset = getattr(trainer.strategy, "_timeout", None) == default_pg_timeout
        if _several(trainer) and unset:
            _set_pg_timeout(self.patience)

    # They come through here.

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._come_through(trainer, batch_idx)

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self._evaluated(trainer)

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self._evaluated(trainer)

    @override
    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self._evaluated(trainer)

    def _evaluated(self, trainer: Trainer) -> None:
        self._batches += 1
        if self._batches <= self._common:
            self._come_through(trainer, self._batches - 1)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._come_through(trainer, 0)
        hold(False)

    def _come_through(self, trainer: Trainer, index: int) -> None:
        number = waiting()
        if _several(trainer):
            if index % self.every_n_steps:
                return
            told = torch.tensor(number, device=trainer.strategy.root_device)
            distributed.all_reduce(told, distributed.ReduceOp.MAX)
            number = int(told)
        if number:
            raise Interrupted(number)

    # What there is to say about it.

    def place(self) -> str:
        """The run's place: `` in epoch 3 at step 1,234``."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn is None:
            return " before it began"
        if trainer.state.fn != "fit":
            return f" in {trainer.state.fn.value}"
        epoch = f"after epoch {self._saved}" if self._trained else f"in epoch {self._saved + 1}"
        return f" {epoch} at step {trainer.global_step:,}"

    def way_on(self) -> str:
        """The last saved epoch, and the command that goes on from it."""
        trainer = self.trainer
        path = last_checkpoint(trainer) if trainer is not None and self._saved else None
        if path is None:
            return "nothing new is saved: give the same command again"
        command = f"{program('train.py')} fit --ckpt_path {shlex.quote(as_typed(path))}"
        return f"saved up to epoch {self._saved}: go on with {command}"

    def folders(self) -> list[Path]:
        """The folders that the run writes to."""
        loggers = self.trainer.loggers if self.trainer is not None else []
        return [Path(logger.log_dir) for logger in loggers if logger.log_dir]


def _several(trainer: Trainer) -> bool:
    return trainer.world_size > 1 and distributed.is_initialized()
