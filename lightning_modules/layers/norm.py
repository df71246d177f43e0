"""Normalization layers."""

from typing import Literal

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

NormName = Literal["batch", "layer", "group", "instance", "local_response", "weight"]


def norm_layer(name: NormName | None, channels: int, *, spatial: bool) -> nn.Module:
    """A normalization layer for ``[N, channels, H, W]`` (spatial) or ``[N, channels]``.

    Args:
        name: ``batch``: per channel over the batch (Ioffe and Szegedy 2015, arXiv:1502.03167);
            ``layer``: per image over everything (Ba et al. 2016, arXiv:1607.06450);
            ``group``: per image over groups of 8 channels (Wu and He 2018, arXiv:1803.08494);
            ``instance``: per image and channel over its pixels (Ulyanov et al. 2016,
            arXiv:1607.08022); ``local_response``: per position over 5 neighboring channels
            (Krizhevsky et al. 2012, "AlexNet", whose alpha of 1e-4 was for activations in the
            hundreds; ours, around 1, take an alpha of 1). The last two have nothing to normalize
            in a vector, and leave it as it is. ``weight`` reparametrizes the weights instead, see
            :func:`normed_weight`, and adds no layer; None: no normalization.
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
