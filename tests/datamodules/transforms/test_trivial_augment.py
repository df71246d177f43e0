"""TrivialAugment: every image draws its own operation and strength, on real images."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import FashionMNISTDataModule, TrivialAugment

WITHOUT_STRENGTH = {"AutoContrast", "Equalize", "Identity"}


@pytest.fixture(scope="module")
def images(data_root: Path) -> Tensor:
    """600 training images, float in 0…1."""
    module = FashionMNISTDataModule(root=str(data_root))
    module.setup("fit")
    assert module.train_set is not None
    return module.train_set.images[:600].float() / 255


@pytest.fixture(scope="module")
def augment() -> TrivialAugment:
    return TrivialAugment()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def name_of(operation: Any) -> str:
    return type(next(operation.children(), operation)).__name__


def test_every_operation_of_the_list_gets_its_part_of_one_batch(
    augment: TrivialAugment, images: Tensor
) -> None:
    got: Counter[str] = Counter()

    def count(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        got[name_of(module)] += len(inputs[0])

    hooks = [operation.register_forward_hook(count) for operation in augment.operations]
    augment(images)
    for hook in hooks:
        hook.remove()
    assert got.total() == 600  # one operation for each image
    assert len(got) == len(augment.operations) >= 12
    assert all(20 <= number <= 80 for number in got.values())  # some 46 each, on average


def test_identical_images_come_out_differently(augment: TrivialAugment, images: Tensor) -> None:
    copies = images[:1].expand(400, -1, -1, -1)
    different = augment(copies).flatten(1).unique(dim=0)
    # Three operations of thirteen have no strength, and some strengths do nothing.
    assert len(different) > 200


def test_the_strength_is_drawn_for_each_image(augment: TrivialAugment, images: Tensor) -> None:
    copies = images[:1].repeat(40, 1, 1, 1)
    for operation in augment.operations:
        outcomes = len(operation(copies).flatten(1).unique(dim=0))
        name = name_of(operation)
        if name in WITHOUT_STRENGTH:
            assert outcomes == 1, name
        else:
            assert outcomes > (2 if name == "Posterize" else 15), name


def test_images_stay_images(augment: TrivialAugment, images: Tensor) -> None:
    before = images.clone()
    augmented = augment(images)
    assert torch.equal(images, before)
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.float32)
    assert torch.isfinite(augmented).all()
    assert augmented.min() >= 0
    assert augmented.max() <= 1


def test_an_image_comes_out_as_if_it_were_alone(augment: TrivialAugment, images: Tensor) -> None:
    for operation in augment.operations:
        if name_of(operation) in WITHOUT_STRENGTH:
            alone = torch.cat([operation(image[None]) for image in images[:20]])
            assert torch.allclose(operation(images[:20]), alone), name_of(operation)


def test_most_images_can_still_be_recognized(augment: TrivialAugment, images: Tensor) -> None:
    blank = augment(images).flatten(1).std(dim=1) < 0.01
    assert blank.float().mean() < 0.05


@pytest.mark.parametrize("number", [1, 2])
def test_a_small_batch_is_augmented_too(
    augment: TrivialAugment, images: Tensor, number: int
) -> None:
    assert augment(images[:number]).shape == (number, 1, 28, 28)
