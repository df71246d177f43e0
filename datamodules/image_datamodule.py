"""The base of the data modules: splits, loaders, augmentation."""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from datamodules.image_dataset import (
    EpochSampler,
    ImageDataset,
    already_collated,
    stratified_split,
)
from datamodules.transforms.mixing import Mixing
from foundation.errors import UserError
from foundation.pixels import as_float
from foundation.seeds import derived_seed

Batch = tuple[Tensor, Tensor]


class ImageDataModule(LightningDataModule):
    """Base of data modules whose images fit in memory as one uint8 tensor.

    A subclass names its classes, ``class_names``, and says how to get the data: :meth:`load` and,
    where it must be fetched first, :meth:`prepare_data` (once per machine; what is there already is
    left alone). The images' shape is that of the loaded ones.
    Every loader's batch is ``(images: uint8 [N, C, H, W] in 0…255, labels: int64 [N])``.

    Args:
        root: folder of all data sets.
        batch_size: training images per step and process.
        eval_batch_size: images per step and process in validation, test and predict. On a CPU, more
            than a few hundred do not fit its caches; a GPU takes thousands.
        val_size: images split off the training set for validation, stratified by class: a number,
            or a share in (0, 1). With 0, all of them train: nothing is validated, stopped early or
            chosen by the best epoch.
        split_seed: of that split, and of the choice that ``train_fraction`` makes; apart from the
            run's own seed, so that runs with different seeds share their splits.
        train_fraction: share of the training split that is used, in (0, 1], stratified by class.
        augmentation: modules applied one after another to every training batch on its device,
            float ``[N, C, H, W]`` in 0…1 to the same, e.g. from ``kornia.augmentation``. One that
            ``takes_bytes``, and comes before those that do not, gets and returns uint8.
        mixing: applied after it, to training batches only; labels become class probabilities,
            float ``[N, num_classes]``. Of several, every batch draws one.
        missing_fraction: damage on purpose: this share of all pixels is missing, in every split.
            Images are then float32 in 0…1 instead of uint8, NaN where missing.
        outlier_fraction: likewise, a share of pixels with a value of 10, far above white (1).
        on_device: keep the images where the training runs, so that a GPU gathers its own batches;
            goes with ``num_workers`` 0.
        num_workers: loader processes. With the data in memory, 0 is the fastest.
        pin_memory: page-locked batches, for a faster copy to a GPU; without one, left out.
        drop_last: leave out a training epoch's last batch where it is smaller than the others.

    Raises:
        ValueError: an argument is out of range.
        UserError: in ``setup``, where only then it is known that ``val_size`` leaves nothing.
    """

    class_names: tuple[str, ...]
    training_images: ClassVar[int | None] = None  # where known before the data is there

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        eval_batch_size: int = 250,
        val_size: int | float = 0.1,
        split_seed: int = 0,
        train_fraction: float = 1.0,
        augmentation: list[nn.Module] | None = None,
        mixing: list[Mixing] | None = None,
        missing_fraction: float = 0.0,
        outlier_fraction: float = 0.0,
        on_device: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("val_size", val_size, 0),
            ("num_workers", num_workers, 0),
        ):
            if size < least:
                raise ValueError(f"{name} is {size}; expected at least {least}")
        if not math.isfinite(val_size) or (isinstance(val_size, float) and val_size >= 1):
            raise ValueError(f"val_size is {val_size}; expected a whole number, or a share below 1")
        self.val_size = val_size
        if self.training_images is not None:
            try:
                self._held_out(self.training_images)
            except UserError as error:
                raise ValueError(str(error)) from None
        if not 0 < train_fraction <= 1:
            raise ValueError(f"train_fraction is {train_fraction}; expected 0 < value <= 1")
        for name, share in (
            ("missing_fraction", missing_fraction),
            ("outlier_fraction", outlier_fraction),
        ):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}; expected 0 <= value < 1")
        if missing_fraction + outlier_fraction > 1:
            raise ValueError(
                f"missing_fraction and outlier_fraction are {missing_fraction} and "
                f"{outlier_fraction}; expected at most 1 together"
            )
        if (missing_fraction or outlier_fraction) and (augmentation or mixing):
            raise ValueError(
                "missing_fraction and outlier_fraction do not go with augmentation or mixing, "
                "which would spread the damage before the model can clean it; choose one of the two"
            )
        self.save_hyperparameters(ignore=["augmentation", "mixing"])
        self.root = Path(root)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.split_seed = split_seed
        self.train_fraction = train_fraction
        self.augmentation = nn.Sequential(*augmentation) if augmentation else None
        self.mixing = mixing or []
        self.missing_fraction = missing_fraction
        self.outlier_fraction = outlier_fraction
        if on_device and (num_workers or pin_memory):
            raise ValueError(
                f"on_device goes with num_workers 0 and without pin_memory; num_workers is "
                f"{num_workers}, pin_memory {pin_memory}"
            )
        self.on_device = on_device
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.drop_last = drop_last
        self._image_shape: tuple[int, int, int] | None = None
        self._training_set: tuple[Tensor, Tensor] | None = None  # loaded, but not yet split
        self._order_seed = 0  # of the training images' order, equal in all processes
        self.train_set: ImageDataset | None = None
        self.val_set: ImageDataset | None = None
        self.test_set: ImageDataset | None = None

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """The training or test set: images uint8 ``[N, C, H, W]``, labels int64 ``[N]``."""
        raise NotImplementedError

    def _held_out(self, images: int) -> int:
        """The number of validation images, of so many training images.

        Raises:
            UserError: all or, where some should, none.
        """
        size = int(self.val_size if self.val_size >= 1 else round(self.val_size * images))
        if size >= images:
            raise UserError(
                f"val_size is {self.val_size}, but the training set has {images} images; expected "
                "fewer, so that some are left to train on"
            )
        if self.val_size and not size:
            raise UserError(
                f"val_size is {self.val_size}, none of the training set's {images} images; "
                "expected more, or 0 for no validation"
            )
        return size

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images, in pixels; loads them where nothing is yet."""
        if self._image_shape is None:
            self.prepare_data()
            self._training_set = self._load(train=True)
        assert self._image_shape is not None
        return self._image_shape

    @property
    def description(self) -> dict[str, Any]:
        """The facts of the data that a checkpoint and a run's summary keep."""
        return {
            "images": self.sizes,
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images by split, for the splits that ``setup`` has loaded."""
        sets = {"train": self.train_set, "val": self.val_set, "test": self.test_set}
        return {name: len(data) for name, data in sets.items() if data is not None}

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit" and self.trainer is not None:
            seed = derived_seed(torch.initial_seed(), "order")
            self._order_seed = self.trainer.strategy.broadcast(seed)
        if stage in ("fit", "validate", None) and self.train_set is None:
            images, labels = self._training_set or self._load(train=True)
            self._training_set = None
            val, train = stratified_split(labels, self._held_out(len(images)), self.split_seed)
            if self.train_fraction < 1:
                size = max(self.num_classes, round(self.train_fraction * len(train)))
                train = train[stratified_split(labels[train], size, self.split_seed)[0]]
            if self.drop_last and self.batch_size > len(train):
                raise UserError(
                    f"batch_size is {self.batch_size}, but there are {len(train)} training images "
                    "and drop_last leaves out what fills no batch: nothing is left to train on"
                )
            self.train_set = self._data_set(images[train], labels[train])
            self.val_set = self._data_set(images[val], labels[val])
        self._training_set = None  # where only its shape was asked for
        if stage in ("test", "predict", None) and self.test_set is None:
            self.test_set = self._data_set(*self._load(train=False))

    def _data_set(self, images: Tensor, labels: Tensor) -> ImageDataset:
        if self.on_device and self.trainer is not None:
            device = self.trainer.strategy.root_device
            images, labels = images.to(device), labels.to(device)
        return ImageDataset(images, labels)

    def _load(self, train: bool) -> tuple[Tensor, Tensor]:
        """:meth:`load`, damaged as asked for; the same pixels each time."""
        images, labels = self.load(train)
        self._check(images, labels, "training" if train else "test")
        channels, height, width = images.shape[1:]
        self._image_shape = (channels, height, width)
        if self.missing_fraction or self.outlier_fraction:
            generator = torch.Generator().manual_seed(2 * self.split_seed + train)
            images = images.float() / 255
            chance = torch.rand(images.shape, generator=generator)
            images[chance < self.outlier_fraction] = 10.0
            images[chance > 1 - self.missing_fraction] = float("nan")
        return images, labels

    def _check(self, images: Tensor, labels: Tensor, name: str) -> None:
        """Refuse what :meth:`load` must not return, before anything is trained on it.

        Raises:
            UserError: says what is wrong with which set, and what was expected.
        """
        wrong = ""
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            wrong = f"{type(images).__name__} and {type(labels).__name__}; expected two tensors"
        elif images.ndim != 4 or not len(images):
            wrong = f"images of shape {list(images.shape)}; expected [N, C, H, W], N at least 1"
        elif images.dtype != torch.uint8:
            wrong = f"images of {images.dtype}; expected torch.uint8, 0…255"
        elif labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            wrong = f"labels of {labels.dtype}, shape {list(labels.shape)}; expected torch.int64, "
            wrong += f"[{len(images)}]"
        elif labels.min() < 0 or labels.max() >= self.num_classes:
            wrong = f"labels from {labels.min()} to {labels.max()}; expected 0 to "
            wrong += f"{self.num_classes - 1}, an index of class_names"
        elif self._image_shape not in (None, tuple(images.shape[1:])):
            wrong = f"images of {tuple(images.shape[1:])}, but the others are {self._image_shape}"
        if wrong:
            raise UserError(f"{type(self).__name__}.load: the {name} set has {wrong}")

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """The validation images, in order; no loader where ``val_size`` is 0."""
        if self.val_size == 0:
            return []
        return self._loader(self.val_set, self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test_set, self.eval_batch_size, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test images, in order."""
        return self.test_dataloader()

    def _loader(
        self, data: ImageDataset | None, batch_size: int, *, shuffle: bool
    ) -> DataLoader[Batch]:
        if data is None:
            raise RuntimeError("the data is not loaded yet: call prepare_data() and setup() first")
        sampler: Sampler[int] | None = None
        if shuffle and self.trainer is not None:
            sampler = EpochSampler(data, self.trainer, self._order_seed)
        elif self.trainer is not None and self.trainer.world_size > 1:
            # Lightning's own choice would repeat images to even out the processes, and so count
            # some of them twice in the metrics.
            sampler = UnrepeatedDistributedSampler(
                data,
                num_replicas=self.trainer.world_size,
                rank=self.trainer.global_rank,
                shuffle=False,
            )
        return DataLoader(
            data,
            batch_size=batch_size,
            shuffle=shuffle and sampler is None,
            sampler=sampler,
            # In a run, a loader's first draw would shift the run's own numbers.
            generator=None if self.trainer is None else torch.Generator(),
            drop_last=shuffle and self.drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory and self._has_gpu(),
            collate_fn=already_collated,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"order_seed": self._order_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        seed = int(state_dict["order_seed"])
        if not 0 <= seed < 2**32:
            raise ValueError(f"order_seed is {seed}; expected 0 to {2**32 - 1}")
        self._order_seed = seed

    def _has_gpu(self) -> bool:
        """Tell whether batches go to another device than the CPU."""
        return self.trainer is None or self.trainer.strategy.root_device.type != "cpu"

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment and mix training batches, where they are: every image draws its own numbers."""
        if self.trainer is None or not self.trainer.training:
            return batch
        if self.augmentation is None and not self.mixing:
            return batch
        images, labels = batch
        with torch.no_grad():
            for step in self.augmentation or ():
                if not getattr(step, "takes_bytes", False):
                    images = as_float(images)
                images = step(images)
            if self.mixing:
                images = as_float(images)
                mix = self.mixing[int(torch.randint(len(self.mixing), ()))]
                images, labels = mix(images, labels, self.num_classes)
        return images, labels
