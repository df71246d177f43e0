"""Statistics of activations and gradients by layer, before the first step."""

from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from callbacks.pictures import tensorboard_writer


class SignalStatistics(Callback):
    """Write mean and standard deviation of activations and gradients per layer to TensorBoard.

    Measured on the first training batch, with the weights as they were initialized: the outputs of
    every convolution and linear layer, and the loss's gradient with respect to them. The horizontal
    axis is the layer's position: a curve that falls towards 0 is a vanishing signal, one that grows
    an exploding one.

    Attributes:
        layers: names of the layers, in the order in which the signal passes them.
        statistics: by kind (``activation``, ``gradient``) and layer name: (mean, std).
    """

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.statistics: dict[str, dict[str, tuple[float, float]]] = {}
        self._hooks: list[RemovableHandle] = []
        self._loss_scale = 1.0

    def _record(self, kind: str, name: str, signal: Tensor) -> None:
        scale = self._loss_scale if kind == "gradient" else 1.0
        std, mean = torch.std_mean(signal.detach().float() / scale)
        self.statistics.setdefault(kind, {})[name] = (mean.item(), std.item())

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > 0 or self.statistics:
            return

        scaler = getattr(trainer.precision_plugin, "scaler", None)  # 16-mixed scales the loss
        self._loss_scale = scaler.get_scale() if scaler is not None else 1.0

        def look(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            if name not in self.layers:
                self.layers.append(name)
            self._record("activation", name, output)
            if output.requires_grad:
                output.register_hook(partial(self._record, "gradient", name))

        for name, module in pl_module.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                self._hooks.append(module.register_forward_hook(partial(look, name)))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._write(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        rows = [
            (kind, name, *by_layer[name])
            for kind, by_layer in self.statistics.items()
            for name in by_layer
        ]
        return {"layers": self.layers, "statistics": rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.layers = [str(name) for name in state_dict["layers"]]
        for kind, name, mean, std in state_dict["statistics"]:
            self.statistics.setdefault(str(kind), {})[name] = (float(mean), float(std))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # TensorBoard takes positions for steps, and forgets those that a resumed run does again.
        self._write(trainer, trainer.global_step)

    def _write(self, trainer: Trainer, first: int = 0) -> None:
        """Write the curves from a position on."""
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        for kind, by_layer in self.statistics.items():
            for position, name in enumerate(self.layers):
                if name not in by_layer or position < first:  # a frozen layer has no gradient
                    continue
                mean, std = by_layer[name]
                writer.add_scalar(f"signal/{kind}_mean", mean, position)
                writer.add_scalar(f"signal/{kind}_std", std, position)
