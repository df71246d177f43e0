"""Pixels that are damaged on purpose: missing ones and outliers."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import FashionMNISTDataModule
from experiment.cli import ExperimentCLI

SPLITS = ["train", "val", "test"]
Images = Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="module")
def images(data_root: Path) -> Images:
    """Make the images of every split of a small FashionMNIST."""

    def make(**options: Any) -> dict[str, Tensor]:
        module = FashionMNISTDataModule(root=str(data_root), train_fraction=0.1, **options)
        module.setup()
        return {name: getattr(module, f"{name}_set").images for name in SPLITS}

    return make


@pytest.fixture(scope="module")
def clean(images: Images) -> dict[str, Tensor]:
    return images()


@pytest.fixture(scope="module")
def damaged(images: Images) -> dict[str, Tensor]:
    return images(missing_fraction=0.3, outlier_fraction=0.01)


@pytest.mark.parametrize("name", SPLITS)
def test_the_shares_are_as_asked_for_in_every_split(damaged: dict[str, Tensor], name: str) -> None:
    pixels = damaged[name]
    assert pixels.isnan().float().mean().item() == pytest.approx(0.3, abs=0.002)
    assert (pixels == 10).float().mean().item() == pytest.approx(0.01, abs=0.0005)


@pytest.mark.parametrize("name", SPLITS)
def test_all_other_pixels_are_the_images_own_in_0_to_1(
    clean: dict[str, Tensor], damaged: dict[str, Tensor], name: str
) -> None:
    pixels = damaged[name]
    whole = ~pixels.isnan() & (pixels != 10)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels[whole], (clean[name].float() / 255)[whole])


@pytest.mark.parametrize("name", SPLITS)
def test_damage_falls_on_every_image_and_place_alike(damaged: dict[str, Tensor], name: str) -> None:
    missing = damaged[name].isnan().float()
    by_image, by_place = missing.mean(dim=(1, 2, 3)), missing.mean(dim=0)
    assert 0.2 < by_image.min() < by_image.max() < 0.4
    assert 0.25 < by_place.min() < by_place.max() < 0.35
    assert not torch.equal(missing[0], missing[1])


def test_the_same_pixels_are_damaged_each_time(
    images: Images, damaged: dict[str, Tensor], data_root: Path
) -> None:
    torch.manual_seed(123)  # the run's own seed does not count
    again = images(missing_fraction=0.3, outlier_fraction=0.01)
    other = images(missing_fraction=0.3, outlier_fraction=0.01, split_seed=1)
    for name in SPLITS:
        assert torch.equal(again[name].nan_to_num(nan=-1), damaged[name].nan_to_num(nan=-1))
    assert not torch.equal(other["test"].isnan(), damaged["test"].isnan())


def test_the_images_of_a_stage_do_not_depend_on_the_stages_before(
    damaged: dict[str, Tensor], data_root: Path
) -> None:
    module = FashionMNISTDataModule(
        root=str(data_root), missing_fraction=0.3, outlier_fraction=0.01
    )
    module.setup("test")
    assert module.test_set is not None
    assert torch.equal(
        module.test_set.images.nan_to_num(nan=-1), damaged["test"].nan_to_num(nan=-1)
    )


@pytest.mark.parametrize(
    ("options", "missing", "outliers"),
    [({"missing_fraction": 0.2}, 0.2, 0.0), ({"outlier_fraction": 0.2}, 0.0, 0.2)],
    ids=str,
)
def test_one_kind_of_damage_comes_alone(
    images: Images, options: dict[str, float], missing: float, outliers: float
) -> None:
    pixels = images(**options)["val"]
    assert pixels.isnan().float().mean().item() == pytest.approx(missing, abs=0.002)
    assert (pixels == 10).float().mean().item() == pytest.approx(outliers, abs=0.002)


def test_without_damage_the_images_are_bytes(clean: dict[str, Tensor]) -> None:
    assert {pixels.dtype for pixels in clean.values()} == {torch.uint8}


def test_the_two_shares_may_take_all_pixels_but_not_more(images: Images) -> None:
    pixels = images(missing_fraction=0.5, outlier_fraction=0.5)["val"]
    assert pixels.isnan().float().mean().item() == pytest.approx(0.5, abs=0.002)
    assert (pixels.isnan() | (pixels == 10)).all()
    with pytest.raises(ValueError, match=r"missing_fraction.*outlier_fraction"):
        FashionMNISTDataModule(missing_fraction=0.6, outlier_fraction=0.6)


@pytest.mark.parametrize("name", ["missing_fraction", "outlier_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan])
def test_a_bad_share_is_refused_by_name(name: str, value: float) -> None:
    message = re.escape(f"{name} is {value}; expected 0 <= value < 1")
    with pytest.raises(ValueError, match=message):
        FashionMNISTDataModule(**{name: value})  # type: ignore[arg-type]


def test_the_command_line_trains_on_damaged_images(
    quick_fit: Callable[..., ExperimentCLI],
) -> None:
    cli = quick_fit(
        "--model=BaselineCNN",
        "--model.width=2",
        "--model.hidden_size=4",
        "--model.preprocessing=MinMaxScaling",
        "--data.missing_fraction=0.3",
        "--data.outlier_fraction=0.01",
        "--trainer.logger=false",
        batches=2,
    )
    assert cli.datamodule.train_set.images.isnan().any()
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])


@pytest.mark.parametrize("option", ["augmentation", "mixing"])
def test_damage_is_refused_where_augmentation_would_spread_it(option: str) -> None:
    options: dict[str, Any] = {option: [torch.nn.Identity()]}
    with pytest.raises(ValueError, match="do not go with augmentation or mixing"):
        FashionMNISTDataModule(missing_fraction=0.3, **options)
