"""Max-pooling that ``torch.compile`` can merge with its neighbors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
