"""Building blocks of the networks."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

NormName = Literal["batch", "layer", "group", "instance", "local_response", "weight"]
Activation = Callable[[], nn.Module]


def norm_layer(name: NormName | None, channels: int, *, spatial: bool) -> nn.Module:
    """A normalisation layer for ``[N, channels, H, W]`` (spatial) or ``[N, channels]``.

    Args:
        name: ``batch``: per channel over the batch (Ioffe and Szegedy 2015, arXiv:1502.03167);
            ``layer``: per image over everything (Ba et al. 2016, arXiv:1607.06450);
            ``group``: per image over groups of 8 channels (Wu and He 2018, arXiv:1803.08494);
            ``instance``: per image and channel over its pixels (Ulyanov et al. 2016,
            arXiv:1607.08022); ``local_response``: per position over 5 neighbouring channels
            (Krizhevsky et al. 2012, "AlexNet", whose alpha of 1e-4 was for activations in the
            hundreds; ours, around 1, take an alpha of 1). The last two have nothing to normalise
            in a vector, and leave it as it is. ``weight`` reparametrises the weights instead, see
            :func:`normed_weight`, and adds no layer; None: no normalisation.
        channels: number of channels or features.
        spatial: whether there are pixels beside the channels.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case None | "weight":
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "group":
            return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True) if spatial else nn.Identity()
        case "local_response":
            return nn.LocalResponseNorm(5, alpha=1.0) if spatial else nn.Identity()
    raise ValueError(f"norm is {name!r}; expected one of {NormName.__args__} or none")


def normed_weight(layer: nn.Module, name: NormName | None) -> nn.Module:
    """Give ``layer``'s weight a length and a direction of their own if ``name`` is ``weight``.

    Salimans and Kingma 2016, arXiv:1602.07868.
    """
    return weight_norm(layer) if name == "weight" else layer


class MaxPool(nn.MaxPool2d):
    """The maximum of each 2×2 pixels, ``[N, C, H, W]`` to ``[N, C, H // 2, W // 2]``.

    It is ``nn.MaxPool2d(2)``. On a CPU ``torch.compile`` has a slow kernel for its gradient: there
    the same in comparisons is used, which merges with the layers before and after it.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, features: Tensor) -> Tensor:
        exporting = torch.compiler.is_exporting()
        if torch.compiler.is_compiling() and not exporting and features.device.type == "cpu":
            return CompilableMaxPool.apply(features)
        return super().forward(features)


class CompilableMaxPool(torch.autograd.Function):
    """2×2 max-pooling by comparisons; the gradient goes to the first of equal pixels, as usual.

    Only where a pixel is NaN, which is the maximum then, its gradient goes elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        height, width = (side // 2 * 2 for side in features.shape[2:])
        pixels = [features[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
        maximum = torch.maximum(
            torch.maximum(pixels[0], pixels[1]), torch.maximum(pixels[2], pixels[3])
        )
        # In the features' own dtype: that is what the compiler makes vector instructions of.
        first = torch.full_like(maximum, 3)
        for number in (2, 1, 0):
            first = torch.where(pixels[number] == maximum, number, first)
        ctx.save_for_backward(first)
        ctx.shape = features.shape
        return maximum

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (first,) = ctx.saved_tensors
        parts = [torch.where(first == number, gradient, 0) for number in range(4)]
        rows = [torch.stack(parts[:2], dim=4), torch.stack(parts[2:], dim=4)]
        whole = torch.stack(rows, dim=3).flatten(4).flatten(2, 3)
        height, width = (side % 2 for side in ctx.shape[2:])
        return F.pad(whole, (0, width, 0, height)) if height or width else whole


class Residual(nn.Module):
    """A convolution that keeps the shape, with a shortcut: x + activation(norm(conv(x))).

    He et al. 2016, arXiv:1512.03385, "deep residual learning".

    Args:
        channels: of ``[N, channels, H, W]``, in and out.
        kernel_size: side of the (odd, square) kernel, in pixels.
        activation: class of the activation.
        norm: see :func:`norm_layer`.
    """

    def __init__(
        self, channels: int, kernel_size: int, activation: Activation, norm: NormName | None
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.branch = nn.Sequential(
            normed_weight(conv, norm), norm_layer(norm, channels, spatial=True), activation()
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.branch(features)


def hidden_layers(
    features: int,
    hidden_size: int,
    num_classes: int,
    activation: Activation,
    norm: NormName | None,
    dropout: float,
    *,
    norm_first: bool = False,
) -> nn.Sequential:
    """From ``[N, …]`` with ``features`` values per image to logits ``[N, num_classes]``.

    Flatten, linear, activation, norm (these two the other way round with ``norm_first``), dropout,
    linear.
    """
    between = [activation(), norm_layer(norm, hidden_size, spatial=False)]
    return nn.Sequential(
        nn.Flatten(),
        normed_weight(nn.Linear(features, hidden_size), norm),
        *(reversed(between) if norm_first else between),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, num_classes),
    )


def check_sizes(**sizes: int) -> None:
    """Refuse a size below 1.

    Raises:
        ValueError: names the argument and its value.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected at least 1")


def check_dropout(dropout: float) -> None:
    """Refuse a probability outside [0, 1).

    Raises:
        ValueError: names the value.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; expected 0 <= value < 1")
