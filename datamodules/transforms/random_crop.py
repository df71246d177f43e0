"""Shifted crops."""

from torch import Tensor, nn


class RandomCrop(nn.Module):
    """Pad each image with black and cut its own size out of it, at a place drawn for it alone.

    kornia's ``RandomCrop``, made for the size of the images that come. Krizhevsky et al. 2012,
    section 4.1, shifts by cropping.

    Args:
        padding: pixels on every side, the farthest that an image moves.

    Raises:
        ValueError: a padding below 1.
    """

    def __init__(self, padding: int = 2) -> None:
        super().__init__()
        if padding < 1:
            raise ValueError(f"padding is {padding}; expected at least 1")
        self.padding = padding
        self.size: tuple[int, int] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Shift ``images``: float ``[N, C, H, W]`` in 0…1; the same out."""
        height, width = images.shape[-2:]
        if self.size != (height, width):
            # Costs a second of start-up that only this needs.
            from kornia.augmentation import RandomCrop as KorniaRandomCrop

            self.size = (height, width)
            self.crop = KorniaRandomCrop(self.size, padding=self.padding, p=1.0)
        return self.crop(images)
