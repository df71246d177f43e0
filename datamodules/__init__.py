"""What is trained on: data sources, data sets in memory, LightningDataModules."""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

from datamodules.flip import HorizontalFlip
from datamodules.mixing import CutMix, Mixing, MixUp
from datamodules.mnist import FashionMNISTDataModule, ImageDataModule, MNISTDataModule
from datamodules.sources import DataUnavailableError
from datamodules.trivial_augment import TrivialAugment

__all__ = [
    "CutMix",
    "DataUnavailableError",
    "FashionMNISTDataModule",
    "HorizontalFlip",
    "ImageDataModule",
    "MNISTDataModule",
    "MixUp",
    "Mixing",
    "TrivialAugment",
]
