"""The peak memory of a training."""

import ctypes
import gc
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

_PROC = Path("/proc/self")


class PeakMemory(Callback):
    """Measure the most memory in use between a fit's start and its end, beyond that at its start.

    Activations, gradients, the optimizer's state, what augmentation needs; not the interpreter, nor
    the data and the weights, which are there before. On a GPU it is what torch allocated; else
    the growth of this process's resident memory, which only Linux lets one measure.

    Attributes:
        peak: bytes; None where it cannot be measured, and before the end.
    """

    def __init__(self) -> None:
        self.peak: int | None = None
        self._before = 0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
            self._before = torch.cuda.memory_allocated(pl_module.device)
            return
        try:
            # What earlier runs of this process freed would hide what this one needs.
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            self._before = _resident("VmRSS") or 0
            (_PROC / "clear_refs").write_text("5")  # resets the peak: proc(5)
        except (OSError, AttributeError):  # no Linux, no glibc
            self._before = -1

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(pl_module.device) - self._before
        elif self._before >= 0 and (peak := _resident("VmHWM")) is not None:
            self.peak = max(0, peak - self._before)


def _resident(name: str) -> int | None:
    """A line of /proc/self/status, in bytes."""
    try:
        lines = (_PROC / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)
