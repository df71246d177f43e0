"""Pixels: bytes in 0…255, or floats in 0…1."""

import torch
from torch import Tensor


def as_float(images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """uint8 in 0…255 to float in 0…1; float keeps its values.

    Args:
        images: of any shape.
        dtype: of the result; None keeps a float's own, and makes float32 of bytes.
    """
    if images.is_floating_point():
        return images if dtype is None else images.to(dtype)
    return images.to(dtype or torch.float32) / 255
