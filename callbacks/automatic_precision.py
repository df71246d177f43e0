"""The precision of a run that was given none."""

import functools
import time

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import nn
from typing_extensions import override

# Below it, bfloat16 is not worth its rounding.
_WORTH_IT = 1.05


class AutomaticPrecision(Callback):
    """Choose bfloat16 where this machine is faster in it, and the same on every process.

    On a CPU kernels are timed: some processors have instructions for bfloat16 and are up to three
    times as fast in it, others emulate it and are ten times as slow. A CUDA device has bfloat16 or
    else float16; other accelerators keep float32. A strategy with a precision of its own (FSDP)
    keeps that.

    Attributes:
        speedup: of bfloat16 over float32 on this process's CPU; None where nothing was timed.
    """

    def __init__(self) -> None:
        self.speedup: float | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        if (
            type(strategy.precision_plugin) is not Precision
        ):  # chosen already, or not ours to choose
            return
        device = strategy.root_device.type
        if device == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            if strategy.reduce_boolean_decision(native, all=True):
                strategy.precision_plugin = MixedPrecision("bf16-mixed", device)
            else:
                scaler = torch.amp.GradScaler(device)
                strategy.precision_plugin = MixedPrecision("16-mixed", device, scaler)
        elif device == "cpu":
            convolves = any(isinstance(layer, nn.Conv2d) for layer in pl_module.modules())
            self.speedup = bfloat16_speedup(convolves)
            if strategy.reduce_boolean_decision(self.speedup > _WORTH_IT, all=True):
                strategy.precision_plugin = MixedPrecision("bf16-mixed", device)


@functools.lru_cache  # a study trains many times in one process
def bfloat16_speedup(convolves: bool, budget: float = 0.1) -> float:
    """Time training kernels in float32 and in mixed bfloat16 on this CPU, taking turns.

    Timing is right where flags of the processor are not: under a limit on instruction sets, in a
    virtual machine, or where a library has no kernels for it.

    Args:
        convolves: time convolutions of 32 to 64 channels; else the layers of a small perceptron.
        budget: seconds after which no further turn starts. A turn takes 10 ms where bfloat16 is
            native and up to 100 ms where it is emulated.

    Returns:
        float32's time over bfloat16's, of the best turn of each.
    """
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay as they are
        if convolves:
            layers = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
            images = torch.rand(16, 32, 14, 14)
        else:
            layers = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)]
            images = torch.rand(128, 784)
    network = nn.Sequential(*layers)
    if convolves:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    best = {False: float("inf"), True: float("inf")}
    began = time.perf_counter()
    turns = 0
    while turns < 2 or (turns < 8 and time.perf_counter() - began < budget):
        for low in best:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = network(images).float().square().mean()
            loss.backward()
            if turns:  # the first turn makes the kernels
                best[low] = min(best[low], time.perf_counter() - start)
        turns += 1
    return best[False] / best[True]
