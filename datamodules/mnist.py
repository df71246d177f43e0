"""MNIST and FashionMNIST as LightningDataModules."""

import functools
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from datamodules.image_datamodule import ImageDataModule
from datamodules.sources import fetch


@functools.lru_cache(maxsize=2)  # a process that trains many times reads once
def _read(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    images = read_image_file(str(folder / f"{prefix}-images-idx3-ubyte"))
    labels = read_label_file(str(folder / f"{prefix}-labels-idx1-ubyte"))
    return images[:, None], labels


class _MNISTFamily(ImageDataModule):
    """The data sets that come as MNIST's four IDX files: 60,000 + 10,000 images, 28×28, gray.

    Args:
        root: see :class:`ImageDataModule`.
        val_size: see :class:`ImageDataModule`.
        kwargs: see :class:`ImageDataModule`.
    """

    dataset: ClassVar[str]
    training_images = 60_000
    image_shape = (1, 28, 28)  # known before they are read

    def __init__(self, root: str = "data", val_size: int | float = 5000, **kwargs: Any) -> None:
        super().__init__(root, val_size=val_size, **kwargs)

    def prepare_data(self) -> None:
        fetch(self.dataset, self.root)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        return _read(self.root.resolve() / self.dataset / "raw", "train" if train else "t10k")


class FashionMNISTDataModule(_MNISTFamily):
    """FashionMNIST: ten kinds of clothes. Xiao et al. 2017, arXiv:1708.07747.

    55,000 images train, 5,000 validate and 10,000 test by default.
    """

    dataset = "FashionMNIST"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


class MNISTDataModule(_MNISTFamily):
    """MNIST: handwritten digits. LeCun et al. 1998, doi:10.1109/5.726791.

    55,000 images train, 5,000 validate and 10,000 test by default.
    """

    dataset = "MNIST"
    class_names = tuple("0123456789")
