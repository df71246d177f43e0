"""The precision of a run that names none."""

import functools
import time
from collections.abc import Callable

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

_WORTHWHILE = 1.1  # times as fast; below, the clock may err


class ChosenPrecision(Callback):
    """Choose ``bf16-mixed`` where it is faster on this machine, else ``32-true``.

    A CPU's kernels are timed, once in a process: a convolution's for a model that has any, else a
    small MLP's. CUDA has ``bf16-mixed`` where its hardware has bfloat16, else ``16-mixed``;
    other devices have ``32-true``. All processes of a run choose alike. Strategies that bring a
    precision of their own (FSDP, DeepSpeed) keep it.

    A run that is resumed on a device of the same kind goes on with the precision it had.

    Args:
        resumed: state of this callback in the checkpoint that the run goes on from.

    Attributes:
        reason: why; empty where nothing was chosen.
    """

    def __init__(self, resumed: dict[str, str] | None = None) -> None:
        self.resumed = resumed or {}
        self.reason = ""
        self._state: dict[str, str] = {}

    @override
    def state_dict(self) -> dict[str, str]:
        return self._state

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        plain = type(strategy.precision_plugin) is Precision
        if self.reason or not plain or not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            return
        device = strategy.root_device
        kind = _kind(device)
        if strategy.reduce_boolean_decision(self.resumed.get("kind") == kind):
            precision, self.reason = self.resumed["precision"], "as before"
        else:
            precision, self.reason = choice(device, _has_convolutions(pl_module))
            alike = strategy.reduce_boolean_decision(precision == "bf16-mixed")
            if precision == "bf16-mixed" and not alike:
                precision = "16-mixed" if device.type == "cuda" else "32-true"
                self.reason = "another process has no faster bfloat16"
        self._state = {"kind": kind, "precision": precision}
        if precision != "32-true":
            strategy.precision_plugin = MixedPrecision(precision, device.type)  # type: ignore[arg-type]


def choice(device: torch.device, convolutions: bool) -> tuple[str, str]:
    """A precision and the reason for it.

    Args:
        device: where the model is trained.
        convolutions: whether the model has any.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU has bfloat16"
        return "16-mixed", "this GPU has no bfloat16"
    if device.type != "cpu":
        return "32-true", f"the default on {device.type}"
    if not _has_bfloat16():
        return "32-true", "this processor has no bfloat16"
    speed = bfloat16_speed(convolutions)
    reason = f"bfloat16 is {speed:.2f} times as fast here"
    return ("bf16-mixed" if speed >= _WORTHWHILE else "32-true"), reason


@functools.cache
def bfloat16_speed(convolutions: bool) -> float:
    """Time a small layer's training step: how many times as fast bfloat16 is as float32.

    Takes less than 0.1 s, and no random number.
    """
    layer: Callable[[Tensor, Tensor], Tensor]
    if convolutions:
        batch = torch.full((16, 32, 14, 14), 0.5).to(memory_format=torch.channels_last)
        weights = torch.full((64, 32, 3, 3), 0.5).to(memory_format=torch.channels_last)
        layer = F.conv2d
        batch.requires_grad_()  # as behind another convolution
    else:
        batch, weights = torch.full((64, 784), 0.5), torch.full((128, 784), 0.5)
        classes = torch.full((10, 128), 0.5)

        def layer(batch: Tensor, weights: Tensor) -> Tensor:
            return F.linear(F.linear(batch, weights).relu(), classes)

    weights.requires_grad_()
    seconds = {True: float("inf"), False: float("inf")}
    for turn in range(6):
        for bf16 in (True, False):
            began = time.perf_counter()
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = layer(batch, weights)
            output.float().sum().backward()
            if turn:  # the first makes the kernels
                seconds[bf16] = min(seconds[bf16], time.perf_counter() - began)
    return seconds[False] / seconds[True]


def _has_bfloat16() -> bool:
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False  # a build without oneDNN


def _has_convolutions(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def _kind(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
