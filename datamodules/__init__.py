"""What is trained on: data sources, data sets in memory, LightningDataModules."""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

from datamodules.mnist import FashionMNISTDataModule, ImageDataModule, MNISTDataModule
from datamodules.sources import DataUnavailableError

__all__ = [
    "DataUnavailableError",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "MNISTDataModule",
]
