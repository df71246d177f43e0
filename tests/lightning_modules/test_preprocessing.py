"""Preprocessing: fitted once, on the training split only, and kept in the checkpoint."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from datamodules import FashionMNISTDataModule, ImageDataModule
from datamodules.image_dataset import ImageDataset
from experiment.cli import ExperimentCLI
from foundation.errors import UserError
from lightning_modules import MLP, BaselineCNN, MinMaxScaling, PatchWhitening

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}


def plain(*values: int) -> ImageDataset:
    """An image of one gray value for each of ``values``."""
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 28, 28)
    return ImageDataset(images, torch.arange(len(values)) % 10)


class GreyDataModule(ImageDataModule):
    """Training images between 51 and 204; validation and test have other extremes."""

    class_names = tuple("0123456789")
    image_shape = (1, 28, 28)

    def __init__(self, train: tuple[int, ...] = (51, 102, 204, 153), **options: Any) -> None:
        super().__init__(**{"batch_size": 3, **options})
        self.values = train

    def setup(self, stage: str | None = None) -> None:
        self.train_set = plain(*self.values)
        self.val_set = plain(0, 255)
        self.test_set = plain(0, 255)


def small(**options: Any) -> BaselineCNN:
    options = {**GRAY, "preprocessing": MinMaxScaling(), **options}
    return BaselineCNN(
        width=1, hidden_size=2, optimizer=partial(torch.optim.SGD, lr=0.0), **options
    )


def trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def extremes(model: BaselineCNN) -> list[int]:
    """What the preprocessing has learned, in 0…255."""
    scaling = model.preprocessing
    assert isinstance(scaling, MinMaxScaling)
    return [round(scaling.minimum.item() * 255), round(scaling.maximum.item() * 255)]


def test_min_max_maps_the_training_extremes_to_minus_one_and_one() -> None:
    scaling = MinMaxScaling()
    scaling.fit(plain(51, 204).images)
    given = torch.tensor([51, 204, 127.5, 0, 255]) / 255
    expected = [-1, 1, 0, -1 - 102 / 153, 1 + 102 / 153]
    assert scaling(given).tolist() == pytest.approx(expected, abs=1e-6)


def test_min_max_over_the_full_range_is_the_usual_normalization() -> None:
    scaling = MinMaxScaling()
    scaling.fit(plain(0, 255).images)
    images = torch.rand(5, 1, 28, 28)
    assert torch.allclose(scaling(images), (images - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_min_max_of_blank_images_stays_finite(value: int) -> None:
    scaling = MinMaxScaling()
    images = plain(value).images
    scaling.fit(images)
    assert scaling(images / 255).isfinite().all()


def test_fitting_marks_the_preprocessing_as_fitted() -> None:
    scaling = MinMaxScaling()
    assert not scaling.fitted
    scaling.fit(plain(3).images)
    assert scaling.fitted


def test_only_training_images_are_learnt() -> None:
    model = small()
    trainer().fit(model, datamodule=GreyDataModule())
    assert extremes(model) == [51, 204]


def test_testing_and_predicting_learn_nothing() -> None:
    model, data = small(), GreyDataModule()
    trainer().fit(model, datamodule=data)
    trainer().test(model, datamodule=data, verbose=False)
    trainer().predict(model, datamodule=data)
    assert extremes(model) == [51, 204]


def test_a_second_fit_on_other_data_keeps_what_was_learnt() -> None:
    model = small()
    trainer().fit(model, datamodule=GreyDataModule())
    trainer().fit(model, datamodule=GreyDataModule(train=(5, 240)))
    assert extremes(model) == [51, 204]


def test_images_are_learnt_before_augmentation() -> None:
    class Brighter(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images + 0.5

    model = small()
    trainer().fit(model, datamodule=GreyDataModule(augmentation=[Brighter()]))
    assert extremes(model) == [51, 204]


@pytest.mark.parametrize("seed", range(4))
def test_an_image_that_drop_last_leaves_out_is_learnt_too(seed: int) -> None:
    torch.manual_seed(seed)
    model = small()
    trainer().fit(model, datamodule=GreyDataModule((51, 100, 204), batch_size=2, drop_last=True))
    assert extremes(model) == [51, 204]


def test_learning_leaves_the_random_numbers_of_the_run_alone() -> None:
    model, data = small(), GreyDataModule()
    data.setup()
    model.trainer = trainer()
    model.trainer.datamodule = data  # type: ignore[attr-defined]
    before = torch.get_rng_state()
    model.setup("fit")
    assert extremes(model) == [51, 204]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_carries_what_was_learnt(tmp_path: Path) -> None:
    first = small()
    run = trainer()
    run.fit(first, datamodule=GreyDataModule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert stored["preprocessing.minimum"].item() == pytest.approx(51 / 255)
    assert stored["preprocessing.maximum"].item() == pytest.approx(204 / 255)

    second = small()
    run = trainer()
    run.fit_loop.max_epochs = 2
    other = GreyDataModule(train=(5, 240))
    run.fit(second, datamodule=other, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert extremes(second) == [51, 204]

    third = BaselineCNN.load_from_checkpoint(
        tmp_path / "a.ckpt", preprocessing=MinMaxScaling(), weights_only=True
    )
    assert extremes(third) == [51, 204]
    images = plain(9, 99, 199).images
    assert torch.equal(third.eval()(images), first.eval()(images))


def test_a_checkpoint_with_statistics_does_not_load_without_its_preprocessing(
    tmp_path: Path,
) -> None:
    run = trainer()
    run.fit(small(), datamodule=GreyDataModule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(RuntimeError, match=r"preprocessing\.minimum"):
        BaselineCNN.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)


def test_without_a_data_module_the_message_says_what_to_call() -> None:
    data = GreyDataModule()
    data.setup()
    with pytest.raises(UserError, match=r"fitted on the training images: call"):
        trainer().fit(small(), data.train_dataloader(), data.val_dataloader())


def test_what_was_fitted_by_hand_needs_no_data_module() -> None:
    data, model = GreyDataModule(), small()
    data.setup()
    assert model.preprocessing is not None
    model.preprocessing.fit(plain(1, 2).images)
    trainer().fit(model, data.train_dataloader(), data.val_dataloader())
    assert extremes(model) == [1, 2]


def test_the_first_layer_sees_the_preprocessed_image() -> None:
    model, seen = small(), []
    trainer().fit(model, datamodule=GreyDataModule())
    model.features.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(plain(51, 204).images)
    assert seen[0][:, 0, 0, 0].tolist() == pytest.approx([-1, 1])


def test_the_command_line_fits_real_images_to_minus_one_to_one(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path
) -> None:
    cli = quick_fit(
        "--model=BaselineCNN",
        "--model.width=1",
        "--model.preprocessing=MinMaxScaling",
        "--trainer.logger=false",
        f"--checkpoint.dirpath={tmp_path}",
        "--test_best=false",
        batches=1,
    )
    assert extremes(cli.model) == [0, 255]
    images, _ = next(iter(cli.datamodule.val_dataloader()))
    prepared = cli.model.preprocess(images)
    assert (prepared.min().item(), prepared.max().item()) == (-1, 1)


# Patch whitening.


def real_images(data_root: Path, number: int) -> Tensor:
    return FashionMNISTDataModule(str(data_root)).load(train=True)[0][:number]


def test_whitened_patches_are_decorrelated_with_unit_variance(data_root: Path) -> None:
    """Both signs after a ReLU: their difference is the direction itself."""
    images = real_images(data_root, 5000)
    whitening = PatchWhitening(channels=16, epsilon=1e-6)
    whitening.fit(images)
    out = whitening(images / 255)
    assert (out >= 0).all()
    directions = (out[:, :8] - out[:, 8:]).transpose(0, 1).flatten(1)
    second_moments = directions @ directions.T / directions.shape[1]
    torch.testing.assert_close(second_moments, torch.eye(8), atol=0.02, rtol=0)
    # The first direction is what patches are most of all: bright or dark.
    assert whitening.weight[0].sign().unique().numel() == 1


def test_all_directions_keep_the_patch(data_root: Path) -> None:
    whitening = PatchWhitening(channels=32, kernel_size=4, stride=4, epsilon=1e-9)
    images = real_images(data_root, 50) / 255
    whitening.fit(images)
    out = whitening(images)
    directions = (out[:, :16] - out[:, 16:]).flatten(2)
    back = torch.linalg.solve(whitening.weight[:16].flatten(1), directions)
    restored = nn.functional.fold(back, 28, 4, stride=4)
    torch.testing.assert_close(restored, images, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"channels": 18, "kernel_size": 3}, {"stride": 1}], ids=str
)
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 27, 30)])
def test_what_comes_out_has_the_announced_shape(
    options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    whitening = PatchWhitening(**options)
    out = whitening.adapt(shape)
    assert whitening(torch.rand(2, *shape)).shape == (2, *out)


def test_the_default_halves_the_image() -> None:
    assert PatchWhitening().adapt((1, 28, 28)) == (32, 14, 14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 7}, "channels is 7; expected an even number, at least 2"),
        ({"channels": 34}, "channels is 34; expected an even number, 2 to 32"),
        ({"stride": 5}, "stride is 5; expected 1 to the kernel_size, 4"),
        ({"epsilon": 0}, "epsilon is 0; expected more than 0"),
    ],
)
def test_patch_whitening_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchWhitening(**options).adapt((1, 28, 28))


def test_networks_are_built_for_what_comes_out_of_it() -> None:
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    network = BaselineCNN(**GRAY, preprocessing=PatchWhitening(channels=8), width=4, depth=1)
    assert network.features[0][0].weight.shape == (4, 8, 3, 3)  # type: ignore[index]
    assert network(images).shape == (2, 10)
    assert MLP(**GRAY, preprocessing=PatchWhitening(channels=8))(images).shape == (2, 10)


def test_the_speedrun_learns_its_patches_from_the_training_split(
    quick_fit: Callable[..., ExperimentCLI], data_root: Path
) -> None:
    cli = quick_fit("--config=configs/speedrun.yaml")
    whitening = cli.model.preprocessing
    assert isinstance(whitening, PatchWhitening)
    assert cli.datamodule.train_set is not None
    expected = PatchWhitening()
    expected.fit(cli.datamodule.train_set.images)
    assert whitening.fitted
    torch.testing.assert_close(whitening.weight, expected.weight, atol=1e-4, rtol=1e-4)
    assert not any(weight is whitening.weight for weight in cli.model.parameters())
