"""The data: sources, data sets in memory, LightningDataModules."""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

from datamodules.image_datamodule import ImageDataModule
from datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
from datamodules.sources import DataUnavailableError
from datamodules.transforms.flip import HorizontalFlip
from datamodules.transforms.mixing import CutMix, Mixing, MixUp
from datamodules.transforms.random_crop import RandomCrop
from datamodules.transforms.trivial_augment import TrivialAugment

__all__ = [
    "CutMix",
    "DataUnavailableError",
    "FashionMNISTDataModule",
    "HorizontalFlip",
    "ImageDataModule",
    "MNISTDataModule",
    "MixUp",
    "Mixing",
    "RandomCrop",
    "TrivialAugment",
]
