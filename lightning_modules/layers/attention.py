"""Attention for feature maps: over channels and over positions."""

import torch
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Scale each channel by a factor in (0, 1) that the whole image decides.

    Global average pooling, a bottleneck of ``channels // reduction`` units, ReLU, back to one value
    per channel, sigmoid. Hu et al. 2018, arXiv:1709.01507. The bottleneck has at least one unit:
    with one channel and a reduction of 8, plain integer division leaves none, and the layer would
    scale everything by a constant 0.5.

    Args:
        channels: of the input and output, ``[N, channels, H, W]``.
        reduction: channels per bottleneck unit.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"channels is {channels}, reduction {reduction}; expected at least 1")
        units = max(1, channels // reduction)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, units, 1),
            nn.ReLU(),
            nn.Conv2d(units, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features * self.gate(features)


class CrissCrossAttention(nn.Module):
    """Let each position attend to the H + W - 1 positions of its row and its column.

    Queries and keys have ``channels // 8`` channels (at least one), values all of them; one softmax
    over row and column together, in which the position itself counts once; the output is
    ``gamma * attended + input``, with gamma a learned scalar that starts at 0.
    Huang et al. 2019, "CCNet", arXiv:1811.11721.

    Args:
        channels: of the input and output, ``[N, channels, H, W]``.

    Raises:
        ValueError: channels below 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels is {channels}; expected at least 1")
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        # Channels last, [N, H, W, C], copied once: rows are matrices, columns a transpose away.
        query = self.query(features).permute(0, 2, 3, 1).contiguous()
        key = self.key(features).permute(0, 2, 3, 1).contiguous()
        value = self.value(features).permute(0, 2, 3, 1).contiguous()
        row = query @ key.transpose(2, 3)  # [N, H, W, W]
        column = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # [N, W, H, H]
        # The position itself is in its row already.
        itself = torch.eye(height, dtype=torch.bool, device=features.device)
        column = column.masked_fill(itself, float("-inf")).transpose(1, 2)  # [N, H, W, H]
        weights = torch.cat([row, column], dim=3).softmax(dim=3)
        row, column = weights.split([width, height], dim=3)
        attended = row @ value  # [N, H, W, C]
        attended = attended + (column.transpose(1, 2) @ value.transpose(1, 2)).transpose(1, 2)
        return self.gamma * attended.permute(0, 3, 1, 2) + features
