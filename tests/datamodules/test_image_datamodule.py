"""MNIST and FashionMNIST: batches, splits, samplers, augmentation and what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from lightning import Trainer, seed_everything
from torch import Tensor, nn
from torchvision import datasets

from datamodules import FashionMNISTDataModule, ImageDataModule, MNISTDataModule
from datamodules.image_datamodule import Batch
from experiment.cli import ExperimentCLI
from foundation.errors import UserError
from lightning_modules import BaselineCNN

MODULES: list[type[ImageDataModule]] = [FashionMNISTDataModule, MNISTDataModule]


@pytest.fixture(scope="session")
def loaded(data_root: Path) -> Callable[..., FashionMNISTDataModule]:
    """Make a FashionMNIST data module that is set up."""

    def make(stage: str | None = "fit", **options: Any) -> FashionMNISTDataModule:
        module = FashionMNISTDataModule(root=str(data_root), **options)
        module.prepare_data()
        module.setup(stage)
        return module

    return make


Loaded = Callable[..., FashionMNISTDataModule]


@pytest.fixture(scope="module")
def fashion(loaded: Loaded) -> FashionMNISTDataModule:
    """FashionMNIST with the defaults; not to be changed."""
    return loaded(None)


def split(module: ImageDataModule, name: str) -> tuple[Tensor, Tensor]:
    """The images and labels of a split."""
    data = {"train": module.train_set, "val": module.val_set, "test": module.test_set}[name]
    assert data is not None
    return data.images, data.labels


def fingerprints(images: Tensor) -> Tensor:
    """A number for each image that tells it from all others of the 70,000 (but for doubles)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(2**20, (images[0].numel(),), generator=generator).double()
    return torch.cat([part.flatten(1).double() @ weights for part in images.split(5000)])


def all_labels(loader: Any) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


# One process and first of all: late in a long test session, each takes 5 s to end.
def test_a_worker_process_gives_the_same_batches(loaded: Loaded) -> None:
    def batches(num_workers: int) -> list[list[int]]:
        seed_everything(0, verbose=False)
        loader = loaded(train_fraction=0.01, num_workers=num_workers).train_dataloader()
        return [labels.tolist() for _, labels in loader]

    assert batches(1) == batches(0)


@pytest.mark.parametrize("module_class", MODULES)
def test_splits_are_torchvisions_images_in_the_documented_sizes(
    module_class: type[ImageDataModule], data_root: Path
) -> None:
    module = module_class(root=str(data_root))
    module.prepare_data()
    module.setup()
    assert module.sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
    reference = getattr(datasets, module_class.__name__.removesuffix("DataModule"))
    images, labels = split(module, "test")
    theirs = reference(str(data_root), train=False)
    assert torch.equal(images[:, 0], theirs.data)
    assert torch.equal(labels, theirs.targets)
    assert list(module.class_names) == [name.split(" - ")[0] for name in theirs.classes]
    assert module.num_classes == 10
    theirs = reference(str(data_root), train=True)
    ours = torch.cat([fingerprints(split(module, name)[0]) for name in ("train", "val")])
    assert torch.equal(ours.sort().values, fingerprints(theirs.data).sort().values)


@pytest.mark.parametrize("loader", ["train", "val", "test", "predict"])
def test_a_batch_is_bytes_and_integer_labels(fashion: FashionMNISTDataModule, loader: str) -> None:
    images, labels = next(iter(getattr(fashion, f"{loader}_dataloader")()))
    size = 128 if loader == "train" else 250
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert (images.shape, labels.shape) == ((size, 1, 28, 28), (size,))
    assert int(images.max()) == 255


def test_only_what_a_stage_needs_is_loaded(loaded: Loaded) -> None:
    assert loaded("fit").sizes == {"train": 55_000, "val": 5_000}
    assert loaded("validate").sizes == {"train": 55_000, "val": 5_000}
    assert loaded("test").sizes == {"test": 10_000}
    assert loaded("predict").sizes == {"test": 10_000}


def test_a_second_setup_keeps_what_is_loaded(loaded: Loaded) -> None:
    module = loaded("fit")
    before = module.train_set
    module.setup("fit")
    module.setup("test")
    assert module.train_set is before
    assert set(module.sizes) == {"train", "val", "test"}


def test_train_and_validation_are_stratified_and_disjoint(fashion: FashionMNISTDataModule) -> None:
    for name, each in (("train", 5500), ("val", 500)):
        assert split(fashion, name)[1].bincount().tolist() == [each] * 10
    doubles = 43  # what FashionMNIST itself has twice or more could lie on both sides
    ours, theirs = (fingerprints(split(fashion, name)[0]) for name in ("train", "val"))
    assert torch.isin(theirs, ours).sum() <= doubles


def test_the_split_is_its_own_seeds_and_not_the_runs(
    loaded: Loaded, fashion: FashionMNISTDataModule
) -> None:
    seed_everything(123, verbose=False)
    again, other = loaded(), loaded(split_seed=1)
    for name in ("train", "val"):
        assert torch.equal(split(again, name)[0], split(fashion, name)[0])
        assert torch.equal(split(again, name)[1], split(fashion, name)[1])
        assert not torch.equal(split(other, name)[0], split(fashion, name)[0])


@pytest.mark.parametrize(
    ("fraction", "size"), [(0.1, 5500), (0.002, 110), (1e-9, 10), (1.0, 55_000)]
)
def test_train_fraction_takes_a_stratified_part_of_the_training_split_alone(
    loaded: Loaded, fashion: FashionMNISTDataModule, fraction: float, size: int
) -> None:
    module = loaded(train_fraction=fraction)
    images, labels = split(module, "train")
    assert module.sizes == {"train": size, "val": 5000}
    assert labels.bincount().tolist() == [size // 10] * 10
    assert torch.isin(fingerprints(images), fingerprints(split(fashion, "train")[0])).all()
    assert torch.equal(split(module, "val")[0], split(fashion, "val")[0])


def test_train_fraction_draws_with_the_split_seed(loaded: Loaded) -> None:
    first, again = (split(loaded(train_fraction=0.01), "train")[0] for _ in range(2))
    assert torch.equal(first, again)


def test_val_size_may_be_a_share(loaded: Loaded) -> None:
    assert loaded(val_size=0.1).sizes == {"train": 54_000, "val": 6_000}


@pytest.mark.parametrize("size", [1, 10, 123, 59_999])
def test_val_size_is_exact(loaded: Loaded, size: int) -> None:
    assert loaded(val_size=size).sizes == {"train": 60_000 - size, "val": size}


def test_every_image_comes_once_an_epoch_in_a_new_order(fashion: FashionMNISTDataModule) -> None:
    images, _ = split(fashion, "train")
    expected = fingerprints(images).sort().values
    loader = fashion.train_dataloader()
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == 430
        assert len(batches[-1][0]) == 55_000 - 429 * 128
        epochs.append(fingerprints(torch.cat([images for images, _ in batches])))
        assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [5500] * 10
    assert not torch.equal(*epochs)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, expected)


def test_the_order_of_training_is_the_runs_seeds(fashion: FashionMNISTDataModule) -> None:
    def order(seed: int) -> list[int]:
        seed_everything(seed, verbose=False)
        return all_labels(fashion.train_dataloader())

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("name", ["val", "test", "predict"])
def test_evaluation_keeps_the_order_and_every_image(
    fashion: FashionMNISTDataModule, name: str
) -> None:
    labels = split(fashion, "test" if name == "predict" else name)[1]
    assert all_labels(getattr(fashion, f"{name}_dataloader")()) == labels.tolist()


def test_drop_last_leaves_out_the_short_batch_of_training_only(loaded: Loaded) -> None:
    module = loaded(train_fraction=0.01, drop_last=True, eval_batch_size=3000)
    assert [len(labels) for _, labels in module.train_dataloader()] == [128] * 4
    assert [len(labels) for _, labels in module.val_dataloader()] == [3000, 2000]


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_a_loader_before_setup_says_what_to_call(loader: str) -> None:
    with pytest.raises(RuntimeError, match=r"not loaded yet: call prepare_data\(\) and setup\(\)"):
        getattr(FashionMNISTDataModule(), loader)()


# Several processes: the trainer of rank r of 3 is an object that says so.


@pytest.mark.parametrize("name", ["val", "test", "predict"])
def test_three_processes_together_evaluate_every_image_once(loaded: Loaded, name: str) -> None:
    module = loaded(None, val_size=5001 if name == "val" else 5000, eval_batch_size=700)
    images, _ = split(module, "test" if name == "predict" else name)
    seen = []
    for rank in range(3):
        module.trainer = SimpleNamespace(world_size=3, global_rank=rank)  # type: ignore[assignment]
        seen.append(torch.cat([i for i, _ in getattr(module, f"{name}_dataloader")()]))
    sizes = [len(part) for part in seen]
    assert sum(sizes) == len(images)
    assert max(sizes) - min(sizes) <= 1
    everything = torch.cat(seen)
    assert torch.equal(fingerprints(everything).sort().values, fingerprints(images).sort().values)


# Augmentation.


class Probe(nn.Module):
    """Write down what comes in; hand on the negative."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return 1 - images


class Recorder(BaselineCNN):
    """Write down the batches of every stage."""

    def __init__(self) -> None:
        super().__init__(width=2, hidden_size=4)
        self.batches: dict[str, list[Batch]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.batches["train"].append(batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.batches["val"].append(batch)
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.batches["test"].append(batch)
        return super().test_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.batches["predict"].append(batch)
        return super().predict_step(batch, batch_idx)


def recorded(module: ImageDataModule) -> dict[str, list[Batch]]:
    """What the model gets in two steps of every stage."""
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=2,
        limit_train_batches=2,
        limit_val_batches=2,
        limit_test_batches=2,
        limit_predict_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=module)
    trainer.test(model, datamodule=module, verbose=False)
    trainer.predict(model, datamodule=module)
    return model.batches


@pytest.fixture
def augmented(loaded: Loaded) -> Loaded:
    """Make a small data module with an augmentation."""

    def make(*augmentation: nn.Module) -> FashionMNISTDataModule:
        return loaded(
            None,
            train_fraction=0.01,
            batch_size=64,
            eval_batch_size=64,
            augmentation=list(augmentation),
        )

    return make


def test_only_training_is_augmented_with_floats_in_0_to_1(augmented: Loaded) -> None:
    probe = Probe()
    module = augmented(probe)
    batches = recorded(module)
    assert len(probe.seen) == len(batches["train"]) == 2
    for given, (images, labels) in zip(probe.seen, batches["train"], strict=True):
        assert (given.dtype, images.dtype, labels.dtype) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )
        assert (given.min().item(), given.max().item()) == (0, 1)
        assert torch.equal(images, 1 - given)
    assert len(batches["val"]) == 4  # two of the sanity check, two of the epoch
    for name in ("val", "test", "predict"):
        images, labels = batches[name][0]
        expected = split(module, "test" if name == "predict" else name)
        assert torch.equal(images, expected[0][:64])
        assert torch.equal(labels, expected[1][:64])


def test_without_augmentation_training_gets_the_bytes(augmented: Loaded) -> None:
    assert {i.dtype for i, _ in recorded(augmented())["train"]} == {torch.uint8}


def test_every_image_draws_its_own_numbers(augmented: Loaded) -> None:
    module = augmented(K.RandomHorizontalFlip(p=0.5))
    originals = {
        print_: i for i, print_ in enumerate(fingerprints(split(module, "train")[0]).tolist())
    }
    flipped = 0
    images = torch.cat([images for images, _ in recorded(module)["train"]])
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0, 1)
    as_bytes = (images * 255).round().to(torch.uint8)
    for plain, mirrored in zip(
        fingerprints(as_bytes).tolist(), fingerprints(as_bytes.flip(3)).tolist(), strict=True
    ):
        assert plain in originals or mirrored in originals
        flipped += plain not in originals
    assert 0.3 * len(images) < flipped < 0.7 * len(images)


def test_augmentations_are_applied_in_order(augmented: Loaded) -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, images: Tensor) -> Tensor:
            return images * 0 + self.value

    images, _ = recorded(augmented(Constant(0.2), Constant(0.7)))["train"][0]
    assert images.unique().tolist() == pytest.approx([0.7])


def test_the_data_sets_own_images_are_never_changed(augmented: Loaded) -> None:
    module = augmented(Probe())
    before = split(module, "train")[0].clone()
    recorded(module)
    assert torch.equal(split(module, "train")[0], before)


def test_on_device_the_images_are_where_the_training_is(loaded: Loaded) -> None:
    module = FashionMNISTDataModule(root=str(loaded().root), on_device=True)
    strategy = SimpleNamespace(  # any device but the CPU
        root_device=torch.device("meta"), broadcast=lambda seed: seed
    )
    module.trainer = SimpleNamespace(strategy=strategy)  # type: ignore[assignment]
    module.setup("fit")
    for name in ("train", "val"):
        assert {part.device.type for part in split(module, name)} == {"meta"}
    assert module.train_set is not None
    images, labels = module.train_set.__getitems__([1, 2])
    assert (images.shape, labels.shape) == ((2, 1, 28, 28), (2,))


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"eval_batch_size": -5}, "eval_batch_size is -5; expected at least 1"),
        ({"val_size": -1}, "val_size is -1; expected at least 0"),
        ({"val_size": 1.0}, "val_size is 1.0; expected a whole number, or a share below 1"),
        ({"val_size": float("nan")}, "val_size is nan; expected a whole number"),
        ({"val_size": 2.5}, "val_size is 2.5; expected a whole number, or a share below 1"),
        ({"val_size": 1e-6}, "val_size is 1e-06, none of the training set's 60000 images"),
        ({"num_workers": -1}, "num_workers is -1; expected at least 0"),
        ({"on_device": True, "num_workers": 2}, "on_device goes with num_workers 0 .* is 2"),
        ({"on_device": True, "pin_memory": True}, "without pin_memory; .* pin_memory True"),
        ({"train_fraction": 0.0}, "train_fraction is 0.0; expected 0 < value <= 1"),
        ({"train_fraction": 1.5}, "train_fraction is 1.5; expected 0 < value <= 1"),
        ({"train_fraction": float("nan")}, "train_fraction is nan; expected"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FashionMNISTDataModule(**options)


@pytest.mark.parametrize("size", [60_000, 100_000])
def test_a_validation_split_that_leaves_nothing_is_refused(loaded: Loaded, size: int) -> None:
    with pytest.raises(ValueError, match=f"val_size is {size}, but the training set has 60000"):
        loaded(val_size=size)


def test_it_is_refused_too_where_the_size_is_known_only_from_the_data(loaded: Loaded) -> None:
    module = loaded()
    module.train_set, module.val_size = None, 60_000
    with pytest.raises(UserError, match="val_size is 60000, but the training set has 60000"):
        module.setup("fit")


def test_fewer_training_images_than_classes_make_no_larger_set(loaded: Loaded) -> None:
    module = loaded(val_size=59_995, train_fraction=0.5)
    assert 1 <= module.sizes["train"] <= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.batch_size=0"], "batch_size is 0; expected at least 1"),
        (["--data.val_size=60000"], "val_size is 60000, but the training set has 60000 images"),
        (["--data.train_fraction=2"], "train_fraction is 2.0; expected 0 < value <= 1"),
        (["--data.split_seed=one"], "split_seed"),
        (["--data.drop_last=true", "--data.batch_size=56000"], "batch_size is 56000"),
    ],
)
def test_the_command_line_refuses_a_bad_value_with_its_name_and_no_traceback(
    quick_fit: Callable[..., ExperimentCLI],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        quick_fit("--model=BaselineCNN", "--model.width=2", *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert "Traceback" not in error


class Own(ImageDataModule):
    """What a user writes: two classes of a few pixels, or something that is wrong."""

    class_names = ("dark", "bright")

    def __init__(self, wrong: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.wrong = wrong

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        labels = torch.arange(20) % 2
        images = torch.full((20, 3, 8, 8), 40, dtype=torch.uint8)
        images[labels == 1] = 200
        return self.wrong(images, labels, train) if self.wrong else (images, labels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda i, y, train: (i.numpy(), y.numpy()), "ndarray and ndarray; expected two tensors"),
        (
            lambda i, y, train: (i[:, 0], y),
            r"images of shape \[20, 8, 8\]; expected \[N, C, H, W\]",
        ),
        (lambda i, y, train: (i.float(), y), "images of torch.float32; expected torch.uint8"),
        (lambda i, y, train: (i, y.int()), "labels of torch.int32, .*expected torch.int64"),
        (lambda i, y, train: (i, y[:-1]), r"labels of torch.int64, shape \[19\]; .*\[20\]"),
        (lambda i, y, train: (i, y + 1), "labels from 1 to 2; expected 0 to 1"),
        (
            lambda i, y, train: (i if train else i[..., :7], y),
            r"the test set has images of \(3, 8, 7\), but the others are \(3, 8, 8\)",
        ),
    ],
)
def test_what_load_must_not_return_is_refused(wrong: Any, message: str) -> None:
    module = Own(wrong, val_size=4)
    with pytest.raises(UserError, match=message) as refused:
        module.setup()
    assert str(refused.value).startswith("Own.load: the t")


def test_without_validation_plain_python_trains_too(tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BaselineCNN(width=2, hidden_size=4), Own(val_size=0))
    assert trainer.global_step == 1
    with pytest.raises(UserError, match=r"image_shape is \(1, 28, 28\), but the data's images"):
        trainer.fit(BaselineCNN(num_classes=2, image_shape=(1, 28, 28)), Own(val_size=0))
