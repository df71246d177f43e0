"""Weight initialisation: what the weights are before the first step.

An initialiser is called once with a module. It fills the weight of every convolution and linear
layer and sets their biases to zero; normalisation layers keep their own start (scale 1, shift 0).
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

# Names torch.nn.init.calculate_gain knows, by the activation's class name.
_NONLINEARITIES = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "SELU": "selu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}


def activation_gain(activation: nn.Module | None) -> float:
    """The factor that keeps the signal's variance through ``activation`` (1 for none).

    From :func:`torch.nn.init.calculate_gain`. The smooth relatives of ReLU (ELU, GELU, SiLU),
    for which it has no value, take ReLU's.
    """
    if activation is None or isinstance(activation, nn.Identity):
        return 1.0
    name: Any = _NONLINEARITIES.get(type(activation).__name__, "relu")
    slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else None
    return nn.init.calculate_gain(name, slope)


class Initialiser(ABC):
    """Base class: fill every weight of a module's convolutions and linear layers; zero biases."""

    @torch.no_grad()
    def __call__(self, module: nn.Module, activation: nn.Module | None = None) -> None:
        """Initialise ``module`` in place for layers followed by ``activation``."""
        gain = activation_gain(activation)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                self.fill(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @abstractmethod
    def fill(self, weight: Tensor, gain: float) -> None:
        """Fill ``weight`` (float, at least 2-D, ``[out, in, ...]``) in place."""


class HeUniform(Initialiser):
    """Uniform in ±gain·sqrt(3 / fan_in), so that a ReLU network keeps the forward variance.

    He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852.
    """

    def fill(self, weight: Tensor, gain: float) -> None:
        bound = gain * math.sqrt(3 / weight[0].numel())
        nn.init.uniform_(weight, -bound, bound)
