"""Batch norm over several processes, which PyTorch has for GPUs only."""

import sys

from lightning import Trainer
from lightning.pytorch.strategies import ParallelStrategy


def leave_out_sync_batchnorm(trainer: Trainer) -> None:
    """Leave it out on CPUs, and say so: what is for many GPUs can then be tried without any."""
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or strategy.root_device.type != "cpu":
        return
    if strategy._layer_sync is not None and trainer.is_global_zero:
        text = "sync_batchnorm is for GPUs: on these CPUs each process normalizes its own batches"
        print(text, file=sys.stderr, flush=True)
    strategy._layer_sync = None
