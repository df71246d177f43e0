"""A data set of images that answers a whole batch of indices at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from typing_extensions import override


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels as two tensors in memory.

    ``__getitems__`` is what a DataLoader's fetcher calls with a batch of indices: one indexing
    operation instead of one Python call, one copy and one collation per image. Samplers stay as
    they are.

    Args:
        images: uint8 ``[N, C, H, W]``, 0…255.
        labels: int64 ``[N]``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, but {len(labels)} labels")
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices, device=self.images.device)
        return self.images[chosen], self.labels[chosen]


class EpochSampler(DistributedSampler[Any]):
    """Shuffle by seed and epoch alone, so that a resumed run goes on in the same order.

    Each process gets its share, as from :class:`DistributedSampler`.

    Args:
        data: what is sampled.
        trainer: whose epochs they are.
        seed: of all processes.
    """

    def __init__(self, data: Dataset[Any], trainer: Trainer, seed: int) -> None:
        super().__init__(data, trainer.world_size, trainer.global_rank, seed=seed)
        self._trainer = trainer

    @override
    def __iter__(self) -> Iterator[Any]:
        # Lightning would tell it only after a resumed run's first loader has begun.
        self.set_epoch(self._trainer.current_epoch)
        return super().__iter__()


def already_collated(batch: Any) -> Any:
    """The collate function for batches from ``__getitems__``."""
    return batch


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose ``size`` indices so that every class keeps its share; return (chosen, the rest).

    Shares are rounded by largest remainder, so that exactly ``size`` are chosen.

    Args:
        labels: int64 ``[N]``.
        size: how many to choose, 0…N.
        seed: of the shuffle within each class.

    Returns:
        Two sorted int64 index tensors, ``[size]`` and ``[N - size]``.
    """
    generator = torch.Generator().manual_seed(seed)
    classes, counts = labels.unique(return_counts=True)
    quota = counts * size / len(labels)
    take = quota.floor().long()
    short = size - int(take.sum())
    take[(quota - take).argsort(descending=True, stable=True)[:short]] += 1
    chosen, rest = [], []
    for label, number in zip(classes, take.tolist(), strict=True):
        indices = (labels == label).nonzero().flatten()
        indices = indices[torch.randperm(len(indices), generator=generator)]
        chosen.append(indices[:number])
        rest.append(indices[number:])
    return torch.cat(chosen).sort().values, torch.cat(rest).sort().values
