"""Mix the images of a batch, and their labels with them."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Beta


class Mixing(nn.Module, ABC):
    """Mix every image of a batch with another one; the label becomes a mixture as well.

    Every image draws a partner and a share of its own.

    Args:
        alpha: of the Beta(alpha, alpha) distribution that the shares come from.

    Raises:
        ValueError: an alpha of 0 or less.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha is {alpha}; expected more than 0")
        self.alpha = alpha

    def forward(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: float ``[N, C, H, W]``.
            labels: int64 ``[N]``.
            num_classes: K.

        Returns:
            Mixed images, float ``[N, C, H, W]``, and class probabilities, float ``[N, K]``.
        """
        number = len(images)
        share = Beta(self.alpha, self.alpha).sample((number,)).to(images)
        partner = torch.randperm(number, device=images.device)
        mixed, share = self.mix(images, images[partner], share)
        own = F.one_hot(labels, num_classes).to(images)
        return mixed, torch.lerp(own[partner], own, share[:, None])

    @abstractmethod
    def mix(self, images: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Keep about ``share`` (float ``[N]`` in 0…1) of ``images``; return the share kept."""


class MixUp(Mixing):
    """Blend two images: share·a + (1 - share)·b. Zhang et al. 2018, arXiv:1710.09412.

    Args:
        alpha: 0.1…0.4 is usual; 1 mixes strongly.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__(alpha)

    def mix(self, images: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        return torch.lerp(others, images, share.view(-1, 1, 1, 1)), share


class CutMix(Mixing):
    """Paste a rectangle of one image into another. Yun et al. 2019, arXiv:1905.04899.

    The rectangle has the image's proportions and a center anywhere; what lies outside is cut off,
    and the label's share follows the pixels that were really replaced.

    Args:
        alpha: 1, every size alike, is usual.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def mix(self, images: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        number, _, height, width = images.shape

        def inside(size: int) -> Tensor:
            """Mark the positions that the rectangle covers, bool ``[N, size]``."""
            center = torch.rand(number, 1, device=images.device) * size
            half = size * (1 - share).sqrt()[:, None] / 2
            position = torch.arange(size, device=images.device) + 0.5
            return (position - center).abs() < half

        box = (inside(height)[:, None, :, None]) & (inside(width)[:, None, None, :])
        return torch.where(box, others, images), 1 - box.to(images).mean(dim=(1, 2, 3))
