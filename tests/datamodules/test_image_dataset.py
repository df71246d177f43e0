"""The data set in memory and the stratified split."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, WeightedRandomSampler

from datamodules.image_dataset import ImageDataset, already_collated, stratified_split


@pytest.fixture
def data() -> ImageDataset:
    """Ten images; every pixel of image i is i, and so is its label."""
    labels = torch.arange(10)
    return ImageDataset(labels.to(torch.uint8)[:, None, None, None].expand(10, 1, 4, 4), labels)


def test_one_image_is_its_pixels_and_its_label(data: ImageDataset) -> None:
    image, label = data[3]
    assert len(data) == 10
    assert image.shape == (1, 4, 4)
    assert image.unique().tolist() == [3]
    assert label.item() == 3


@pytest.mark.parametrize("indices", [[0], [7, 2, 2, 9], list(range(10)), [-1]])
def test_a_batch_of_indices_equals_the_images_one_by_one(
    data: ImageDataset, indices: list[int]
) -> None:
    images, labels = data.__getitems__(indices)
    singly = [data[index] for index in indices]
    assert torch.equal(images, torch.stack([image for image, _ in singly]))
    assert torch.equal(labels, torch.stack([label for _, label in singly]))
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


def test_an_index_beyond_the_end_is_refused(data: ImageDataset) -> None:
    with pytest.raises(IndexError):
        data.__getitems__([10])


def test_as_many_labels_as_images_are_needed() -> None:
    with pytest.raises(ValueError, match="3 images, but 2 labels"):
        ImageDataset(torch.zeros(3, 1, 4, 4), torch.zeros(2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_hands_on_whole_batches_with_any_sampler(
    data: ImageDataset, num_workers: int
) -> None:
    weights = [0.0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    loader = DataLoader(
        data,
        batch_size=4,
        sampler=WeightedRandomSampler(weights, 6),
        collate_fn=already_collated,
        num_workers=num_workers,
    )
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 2]
    for images, labels in batches:
        assert set(labels.tolist()) <= {2, 5}
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_a_loader_takes_a_batch_sampler(data: ImageDataset) -> None:
    sampler = BatchSampler(SequentialSampler(data), batch_size=3, drop_last=True)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=already_collated)
    assert [labels.tolist() for _, labels in loader] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def counts(labels: Tensor) -> list[int]:
    return labels.bincount(minlength=3).tolist()


@pytest.mark.parametrize(
    ("classes", "size", "expected"),
    [
        ([60, 30, 10], 10, [6, 3, 1]),
        ([60, 30, 10], 50, [30, 15, 5]),
        ([50, 30, 20], 5, [3, 1, 1]),  # 2.5, 1.5, 1.0: the first of the tied takes the odd one
        ([4, 3, 3], 2, [1, 1, 0]),  # 0.8, 0.6, 0.6
        ([98, 1, 1], 50, [49, 1, 0]),
        ([60, 30, 10], 0, [0, 0, 0]),
        ([60, 30, 10], 100, [60, 30, 10]),
        ([0, 5, 5], 4, [0, 2, 2]),
    ],
    ids=str,
)
def test_every_class_keeps_its_share_by_largest_remainder(
    classes: list[int], size: int, expected: list[int]
) -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor(classes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    chosen, rest = stratified_split(labels, size, seed=0)
    assert counts(labels[chosen]) == expected
    assert counts(labels[rest]) == [n - e for n, e in zip(classes, expected, strict=True)]


def test_the_two_parts_are_sorted_and_hold_every_index_once() -> None:
    labels = torch.randint(7, (1000,), generator=torch.Generator().manual_seed(0))
    chosen, rest = stratified_split(labels, 333, seed=4)
    assert len(chosen) == 333
    assert torch.equal(chosen, chosen.sort().values)
    assert torch.equal(rest, rest.sort().values)
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(1000))


def test_the_split_depends_on_its_own_seed_alone() -> None:
    labels = torch.arange(10).repeat(100)
    torch.manual_seed(1)
    first = stratified_split(labels, 100, seed=0)[0]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(stratified_split(labels, 100, seed=0)[0], first)
    assert not torch.equal(stratified_split(labels, 100, seed=1)[0], first)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_split_shuffles_within_a_class() -> None:
    chosen, _ = stratified_split(torch.zeros(1000, dtype=torch.long), 500, seed=0)
    assert 400 < chosen.double().mean() < 600
