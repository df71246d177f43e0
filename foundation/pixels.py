"""What pixels are: bytes in 0…255, or floats in 0…1."""

from torch import Tensor


def as_float(images: Tensor) -> Tensor:
    """uint8 in 0…255 to float in 0…1; float stays as it is."""
    return images if images.is_floating_point() else images.float() / 255
