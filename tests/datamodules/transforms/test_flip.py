"""The flip: which images, how often, and what is left as it was."""

import pytest
import torch

from datamodules import HorizontalFlip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_each_image_is_mirrored_by_its_own_chance(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (4000, 1, 2, 3), dtype=torch.uint8).to(dtype)
    images[:, 0, 0, 0], images[:, 0, 0, 2] = 1, 2  # no image is its own mirror image
    before = images.clone()
    out = HorizontalFlip(p)(images)
    assert out.dtype == dtype
    assert torch.equal(images, before)
    mirrored = (out == images.flip(3)).all(dim=(1, 2, 3))
    kept = (out == images).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    deviation = (p * (1 - p) / len(images)) ** 0.5
    assert abs(mirrored.float().mean().item() - p) <= 4 * deviation


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match=f"p is {p}; expected 0 <= value <= 1"):
        HorizontalFlip(p)
