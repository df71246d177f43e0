"""Weight initialization: what the weights are before the first step.

An initializer is called once with a module. It fills the weight of every convolution and linear
layer and sets their biases to zero; normalization layers keep theirs (scale 1, shift 0).
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

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


class Initializer(ABC):
    """Base class: fill every weight of a module's convolutions and linear layers; zero biases."""

    @torch.no_grad()
    def __call__(self, module: nn.Module, activation: nn.Module | None = None) -> None:
        """Initialize ``module`` in place for layers followed by ``activation``."""
        gain = activation_gain(activation)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = torch.empty(layer.weight.shape, device=layer.weight.device)
                self.fill(weight, gain)
                if is_parametrized(layer, "weight"):
                    layer.weight = weight  # weight normalization splits it into length, direction
                else:
                    layer.weight.copy_(weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Initializer":
        return self  # immutable; and jsonargparse's lazy instances cannot be copied

    @abstractmethod
    def fill(self, weight: Tensor, gain: float) -> None:
        """Fill ``weight`` (float, at least 2-D, ``[out, in, ...]``) in place."""


class Gaussian(Initializer):
    """Normal with mean 0 and one standard deviation for every layer, whatever its size.

    Args:
        std: standard deviation. 0.01, the old habit, lets the signal die in a deep network.
    """

    def __init__(self, std: float = 0.01) -> None:
        if std <= 0:
            raise ValueError(f"std is {std}; expected more than 0")
        self.std = std

    def fill(self, weight: Tensor, gain: float) -> None:
        nn.init.normal_(weight, std=self.std)


class Uniform(Initializer):
    """Uniform around 0 with one standard deviation for every layer, whatever its size.

    Args:
        std: standard deviation; the bounds are ±sqrt(3)·std.
    """

    def __init__(self, std: float = 0.01) -> None:
        if std <= 0:
            raise ValueError(f"std is {std}; expected more than 0")
        self.std = std

    def fill(self, weight: Tensor, gain: float) -> None:
        bound = math.sqrt(3) * self.std
        nn.init.uniform_(weight, -bound, bound)


class XavierUniform(Initializer):
    """Uniform with variance gain²·2 / (fan_in + fan_out): a compromise of both directions.

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward networks".
    """

    def fill(self, weight: Tensor, gain: float) -> None:
        nn.init.xavier_uniform_(weight, gain)


class XavierNormal(Initializer):
    """Normal with variance gain²·2 / (fan_in + fan_out). See :class:`XavierUniform`."""

    def fill(self, weight: Tensor, gain: float) -> None:
        nn.init.xavier_normal_(weight, gain)


class HeUniform(Initializer):
    """Uniform in ±gain·sqrt(3 / fan_in), so that a ReLU network keeps the forward variance.

    He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852.
    """

    def fill(self, weight: Tensor, gain: float) -> None:
        bound = gain * math.sqrt(3 / weight[0].numel())
        nn.init.uniform_(weight, -bound, bound)


class HeNormal(Initializer):
    """Normal with standard deviation gain / sqrt(fan_in). See :class:`HeUniform`."""

    def fill(self, weight: Tensor, gain: float) -> None:
        nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


class Orthogonal(Initializer):
    """Rows (or columns, where fewer) orthonormal, times the gain: no direction grows or dies.

    Saxe et al. 2014, arXiv:1312.6120.
    """

    def fill(self, weight: Tensor, gain: float) -> None:
        nn.init.orthogonal_(weight, gain)
