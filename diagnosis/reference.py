"""The accuracy of the nearest class mean, as a reference: how easy a data set is."""

import math
from typing import Any

import torch
import torch.nn.functional as F


def nearest_mean_accuracy(datamodule: Any) -> float | None:
    """Validation accuracy of the nearest class mean: how easy the data is, without any training.

    Each class is the mean of its training images; an image belongs to the nearest. 0.1 s for
    FashionMNIST on one CPU core.

    Args:
        datamodule: an ``ImageDataModule`` that is set up.

    Returns:
        None where there are no validation images, or the data module is of another kind.
    """
    train, val = getattr(datamodule, "train_set", None), getattr(datamodule, "val_set", None)
    if train is None or val is None or not len(val):
        return None
    classes = datamodule.num_classes
    device = train.images.device
    sums = torch.zeros(classes, train.images[0].numel(), device=device)
    counts = torch.zeros(classes, device=device)
    for images, labels in zip(train.images.split(4096), train.labels.split(4096), strict=True):
        member = F.one_hot(labels, classes).float()
        sums += member.T @ _flat(images)
        counts += member.sum(dim=0)
    means = sums / counts.clamp_min(1)[:, None]
    score = _flat(val.images) @ means.T - means.square().sum(dim=1) / 2
    score[:, counts == 0] = -math.inf
    return float((score.argmax(dim=1) == val.labels).float().mean())


def _flat(images: torch.Tensor) -> torch.Tensor:
    """``[N, C·H·W]``, float; what is missing is black."""
    return images.flatten(1).float().nan_to_num()
