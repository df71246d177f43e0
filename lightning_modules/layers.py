"""Building blocks of the networks."""

from typing import Literal

from torch import nn

NormName = Literal["batch", "layer", "group", "instance"]


def norm_layer(name: NormName | None, channels: int, *, spatial: bool) -> nn.Module:
    """A normalisation layer for ``[N, channels, H, W]`` (spatial) or ``[N, channels]``.

    Args:
        name: ``batch``: per channel over the batch (Ioffe and Szegedy 2015, arXiv:1502.03167);
            ``layer``: per image over everything (Ba et al. 2016, arXiv:1607.06450);
            ``group``: per image over groups of 8 channels (Wu and He 2018, arXiv:1803.08494);
            ``instance``: per image and channel over its pixels (Ulyanov et al. 2016,
            arXiv:1607.08022), which leaves nothing to normalise in a vector: none there;
            None: no normalisation.
        channels: number of channels or features.
        spatial: whether there are pixels beside the channels.
    """
    match name:
        case None:
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "group":
            return nn.GroupNorm(max(1, channels // 8) if channels % 8 == 0 else 1, channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True) if spatial else nn.Identity()
    raise ValueError(f"norm is {name!r}; expected one of batch, layer, group, instance, or none")
