"""MixUp and CutMix: partners, shares and labels of every image, on real batches."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import CutMix, FashionMNISTDataModule, MixUp
from datamodules.transforms.mixing import Mixing

MIXINGS: list[type[Mixing]] = [MixUp, CutMix]


@pytest.fixture(scope="module")
def batch(data_root: Path) -> tuple[Tensor, Tensor]:
    """512 training images, float in 0…1, and their labels."""
    module = FashionMNISTDataModule(root=str(data_root))
    module.setup("fit")
    assert module.train_set is not None
    images = module.train_set.images[:512].float() / 255
    return images, module.train_set.labels[:512]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shares(mixing: Mixing, number: int) -> Tensor:
    """The share of itself that every image of a batch keeps, read off the targets."""
    _, targets = mixing(torch.rand(number, 1, 28, 28), torch.arange(number), number)
    return targets.diagonal()


@pytest.mark.parametrize("mixing_class", MIXINGS)
def test_targets_are_probabilities_of_at_most_two_classes(
    mixing_class: type[Mixing], batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    mixed, targets = mixing_class(1.0)(images, labels, 10)
    assert (mixed.dtype, targets.dtype) == (torch.float32, torch.float32)
    assert (mixed.shape, targets.shape) == (images.shape, (512, 10))
    assert torch.allclose(targets.sum(dim=1), torch.ones(512))
    assert (targets >= 0).all()
    assert (targets > 0).sum(dim=1).max() == 2
    assert 0 <= mixed.min() < mixed.max() <= 1


@pytest.mark.parametrize("mixing_class", MIXINGS)
def test_every_image_is_one_and_partner_once_with_a_share_of_its_own(
    mixing_class: type[Mixing], batch: tuple[Tensor, Tensor]
) -> None:
    images, _ = batch
    # One class for each image, so that the target names both partners.
    _, targets = mixing_class(1.0)(images, torch.arange(512), 512)
    kept = targets.diagonal()
    assert torch.allclose(targets.sum(dim=0) + kept.new_zeros(512), targets.sum(dim=0))
    partners = (targets - kept.diag()).argmax(dim=1)[kept < 1]
    assert len(partners.unique()) == len(partners) > 400
    assert len(kept.unique()) > 150


def test_mixup_blends_each_image_with_its_partner_as_its_target_says(
    batch: tuple[Tensor, Tensor],
) -> None:
    images, _ = batch
    mixed, targets = MixUp(1.0)(images, torch.arange(512), 512)
    by_hand = (targets @ images.flatten(1)).view_as(images)
    assert torch.allclose(mixed, by_hand, atol=1e-5)


def test_cutmix_takes_every_pixel_from_one_of_the_two_in_the_targets_share() -> None:
    # An image of one gray value is told from its partner at every pixel.
    values = torch.arange(512.0) / 512
    images = values.view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    mixed, targets = CutMix()(images, torch.arange(512), 512)
    for index, (image, target) in enumerate(zip(mixed[:, 0], targets, strict=True)):
        kept = image == values[index]
        assert len(image.unique()) <= 2
        assert target[index].item() == pytest.approx(kept.float().mean().item(), abs=1e-6)
        # What was pasted is one filled rectangle.
        rows, columns = (~kept).any(dim=1), (~kept).any(dim=0)
        assert torch.equal(~kept, rows[:, None] & columns[None, :])
        for side in (rows, columns):
            assert (side.int().diff().abs().sum()) <= 2


def test_the_pasted_pixels_are_the_partners_at_the_same_place(
    batch: tuple[Tensor, Tensor],
) -> None:
    images, _ = batch
    mixed, targets = CutMix()(images, torch.arange(512), 512)
    partner = (targets - targets.diagonal().diag()).argmax(dim=1)
    partner = torch.where(targets.diagonal() < 1, partner, torch.arange(512))
    assert ((mixed == images) | (mixed == images[partner])).all()
    assert (mixed != images).any()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_shares_are_drawn_from_beta(alpha: float) -> None:
    kept = torch.cat([shares(MixUp(alpha), 500) for _ in range(20)])
    assert kept.mean().item() == pytest.approx(0.5, abs=0.02)
    # The variance of Beta(a, a) is 1 / (4·(2a + 1)).
    assert kept.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_cutmixs_rectangle_has_the_drawn_area_where_it_is_not_cut_off() -> None:
    share = torch.full((2000,), 0.75)
    images = torch.ones(2000, 1, 28, 28)
    mixed, kept = CutMix().mix(images, images * 0, share)
    assert torch.allclose(kept, mixed.mean(dim=(1, 2, 3)))
    assert kept.min().item() == pytest.approx(0.75, abs=1e-6)  # 14 of 28 pixels each way
    assert kept.max() > 0.9  # a center in a corner leaves a quarter of the rectangle
    # Every pixel is hit, and the center the most often.
    hit = 1 - mixed.mean(dim=(0, 1))
    assert 0 < hit[0, 0] < hit[14, 14]


def test_mixing_leaves_what_it_was_given_alone(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    before = images.clone(), labels.clone()
    for mixing_class in MIXINGS:
        mixing_class(1.0)(images, labels, 10)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("mixing_class", MIXINGS)
def test_an_image_alone_stays_what_it_is(mixing_class: type[Mixing]) -> None:
    image = torch.rand(1, 1, 28, 28)
    mixed, targets = mixing_class(1.0)(image, torch.tensor([3]), 10)
    assert torch.allclose(mixed, image)
    assert torch.allclose(targets, F.one_hot(torch.tensor([3]), 10).float())


@pytest.mark.parametrize("mixing_class", MIXINGS)
@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_a_bad_alpha_is_refused_with_its_value(mixing_class: type[Mixing], alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha is {alpha}; expected more than 0"):
        mixing_class(alpha)
