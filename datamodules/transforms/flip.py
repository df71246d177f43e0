"""Mirror images."""

import torch
from torch import Tensor, nn


class HorizontalFlip(nn.Module):
    """Mirror each image left to right, by chance.

    kornia's ``RandomHorizontalFlip``, for bytes, so that nothing need be made float for it.

    Args:
        p: probability, for each image by itself.

    Raises:
        ValueError: a probability outside 0…1.
    """

    takes_bytes = True  # the data module need not make floats first

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}; expected 0 <= value <= 1")
        self.p = p

    def forward(self, images: Tensor) -> Tensor:
        """Flip ``images``: ``[N, C, H, W]``, of any dtype; the same out."""
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
        return torch.where(chosen, images.flip(-1), images)
