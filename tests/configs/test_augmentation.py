"""What each augmentation overlay does to real images, and where."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback
from torch import Tensor, nn

import train
from experiment.cli import ExperimentCLI
from foundation.checkout import technique

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAYS = ["flip", "random_crop", "affine", "random_erasing", "trivial_augment"]
STAGES = ["train", "validation", "test", "predict"]
Runs = Callable[..., ExperimentCLI]


class Batches(Callback):
    """Write down the batches that the model gets, by stage."""

    def __init__(self) -> None:
        self.images: dict[str, list[Tensor]] = {stage: [] for stage in STAGES}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.images["train"].append(batch[0].clone())

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.images["validation"].append(batch[0].clone())

    def on_test_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.images["test"].append(batch[0].clone())

    def on_predict_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.images["predict"].append(batch[0].clone())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Runs:
    """A short fit, test and predict with some overlays on the baseline; each made once."""

    @functools.cache
    def run(*overlays: str) -> ExperimentCLI:
        configs = [technique(name) for name in overlays]
        cli = train.main(
            [
                "fit",
                *(f"--config={path}" for path in (CONFIGS / "baseline_cnn.yaml", *configs)),
                f"--data.root={data_root}",
                "--data.train_fraction=0.02",
                "--model.width=2",
                "--model.hidden_size=4",
                "--trainer.accelerator=cpu",
                "--trainer.logger=false",
                f"--trainer.callbacks+={__name__}.Batches",
                "--trainer.max_epochs=1",
                "--trainer.limit_val_batches=1",
                "--trainer.limit_test_batches=1",
                "--trainer.limit_predict_batches=1",
                "--trainer.enable_progress_bar=false",
            ]
        )
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        cli.trainer.predict(cli.model, datamodule=cli.datamodule)
        return cli

    return run


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batches(cli: ExperimentCLI) -> dict[str, list[Tensor]]:
    [callback] = [each for each in cli.trainer.callbacks if isinstance(each, Batches)]  # type: ignore[attr-defined]
    return callback.images


def augmentation(cli: ExperimentCLI) -> nn.Sequential:
    assert cli.datamodule.augmentation is not None
    return cli.datamodule.augmentation


def lopsided(cli: ExperimentCLI) -> Tensor:
    """The training image least like its mirror image, at 20×20 pixels in a black frame."""
    images = cli.datamodule.train_set.images.float() / 255
    image = images[(images - images.flip(3)).abs().mean(dim=(1, 2, 3)).argmax()][None]
    return F.pad(F.interpolate(image, (20, 20), mode="bilinear"), (4, 4, 4, 4))


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_training_images_are_augmented(runs: Runs, name: str) -> None:
    cli = runs(name)
    images = batches(cli)
    own = cli.datamodule.train_set.images
    seen = torch.cat(images["train"])
    assert seen.shape == own.shape
    if name == "flip":  # the only one that can leave the bytes as they are
        assert seen.dtype == torch.uint8
        seen = seen / 255
    assert seen.dtype == torch.float32
    assert seen.min() >= 0
    assert seen.max() <= 1
    as_stored = {image.numpy().tobytes() for image in own}
    in_bytes = [(image * 255).round().to(torch.uint8) for image in seen]
    untouched = [image.numpy().tobytes() in as_stored for image in in_bytes]
    assert sum(untouched) < 0.6 * len(seen)
    assert torch.equal(images["validation"][-1], cli.datamodule.val_set.images[:250])
    for stage in ("test", "predict"):
        assert torch.equal(images[stage][-1], cli.datamodule.test_set.images[:250])


@pytest.mark.parametrize("name", OVERLAYS)
def test_identical_images_of_one_batch_come_out_differently(runs: Runs, name: str) -> None:
    cli = runs(name)
    out = augmentation(cli)(lopsided(cli).expand(100, -1, -1, -1))
    different = len(out.flatten(1).unique(dim=0))
    assert different == 2 if name == "flip" else different > 15


def test_flip_mirrors_every_second_image(runs: Runs) -> None:
    cli = runs("flip")
    image = lopsided(cli)
    out = augmentation(cli)(image.expand(1000, -1, -1, -1))
    same = (out == image).all(dim=(1, 2, 3))
    mirrored = (out == image.flip(3)).all(dim=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_random_crop_shifts_by_at_most_two_pixels_and_fills_with_black(runs: Runs) -> None:
    cli = runs("random_crop")
    image = torch.rand(1, 1, 28, 28) * 0.9 + 0.1  # bright up to its borders
    out = augmentation(cli)(image.expand(1000, -1, -1, -1))
    padded = F.pad(image, (2, 2, 2, 2))
    found = torch.zeros(1000, dtype=torch.long)
    for top in range(5):
        for left in range(5):
            shifted = padded[:, :, top : top + 28, left : left + 28]
            hits = (out - shifted).abs().amax(dim=(1, 2, 3)) < 1e-5
            found += hits
            assert 0.015 < hits.float().mean() < 0.075, (top, left)  # 0.04 on average
    assert (found == 1).all()


def test_affine_turns_shifts_and_scales_within_its_ranges(runs: Runs) -> None:
    cli = runs("affine")
    image = lopsided(cli)
    out = augmentation(cli)(image.expand(500, -1, -1, -1))
    [affine] = augmentation(cli)
    matrix: Any = affine.transform_matrix
    scale = matrix[:, :2, :2].det().sqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    middle = torch.tensor([13.5, 13.5, 1.0])
    shift = (matrix @ middle)[:, :2] - middle[:2]
    for values, low, high in (
        (scale, 0.95, 1.05),
        (angle, -10.0, 10.0),
        (shift[:, 0], -1.4, 1.4),
        (shift[:, 1], -1.4, 1.4),
    ):
        span = high - low
        assert low - 1e-3 <= values.min() < low + 0.05 * span
        assert high - 0.05 * span < values.max() <= high + 1e-3
    assert ((matrix - torch.eye(3)).abs().amax(dim=(1, 2)) > 1e-3).all()  # every image is moved
    # The pixels follow the matrix: the center of mass goes where the matrix sends it.
    moved = (matrix @ torch.cat([center(image)[0], torch.ones(1)]))[:, :2]
    assert (center(out) - moved).abs().max() < 0.25
    assert (center(out) - center(image)).norm(dim=1).max() < 4
    assert out.sum(dim=(1, 2, 3)).min() > 0.85 * image.sum()


def center(images: Tensor) -> Tensor:
    """The centers of mass (x, y) in pixels, ``[N, 2]``."""
    place = torch.arange(28.0)
    mass = images.sum(dim=(1, 2, 3))
    x, y = (images.sum(dim=(1, over)) @ place / mass for over in (2, 3))
    return torch.stack([x, y], dim=1)


def test_random_erasing_blacks_out_one_rectangle_of_every_second_image(runs: Runs) -> None:
    cli = runs("random_erasing")
    image = torch.rand(1, 1, 28, 28) * 0.9 + 0.1
    out = augmentation(cli)(image.expand(1000, -1, -1, -1))
    erased = (out == 0)[:, 0]
    assert torch.equal(out, torch.where(out == 0, 0.0, image))
    touched = erased.any(dim=(1, 2))
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.06)
    areas = []
    for mask in erased[touched]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        height, width = int(rows.sum()), int(columns.sum())
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        assert rows.int().diff().abs().sum() <= 2
        assert columns.int().diff().abs().sum() <= 2
        # A side is a whole number of pixels, rounded by less than one.
        assert (height - 1) * (width - 1) <= 0.2 * 784
        assert (height + 1) * (width + 1) >= 0.02 * 784
        assert 0.3 * (width - 1) <= height + 1
        assert height - 1 <= 3.3 * (width + 1)
        areas.append(height * width / 784)
    assert min(areas) < 0.04
    assert max(areas) > 0.16
    assert sum(areas) / len(areas) == pytest.approx(0.11, abs=0.02)
    # Every row and column is hit, and no place most of the time.
    hit = erased[touched].float().mean(dim=0)
    assert hit.amax(dim=0).min() > 0
    assert hit.amax(dim=1).min() > 0
    assert hit.max() < 0.3


def test_trivial_augment_uses_many_operations_in_one_batch(runs: Runs) -> None:
    cli = runs("trivial_augment")
    image = lopsided(cli)
    out = augmentation(cli)(image.expand(300, -1, -1, -1))
    assert len(out.flatten(1).unique(dim=0)) > 150
    # Some change where things are and keep the gray values, others the reverse.
    moved = (center(out.clamp_min(1e-6)) - center(image)).norm(dim=1)
    black = (out[:, 0, :3] == 0).all(dim=(1, 2))
    assert 0.1 < (moved > 1.5).float().mean() < 0.6
    assert (black & (moved < 0.7)).float().mean() > 0.2


@pytest.mark.parametrize("names", [("flip", "random_erasing"), ("random_erasing", "flip")])
def test_overlays_compose_in_their_order(runs: Runs, names: tuple[str, str]) -> None:
    cli = runs(*names)
    kinds = {"flip": "HorizontalFlip", "random_erasing": "RandomErasing"}
    assert [type(each).__name__ for each in augmentation(cli)] == [kinds[name] for name in names]
    image = lopsided(cli)
    out = augmentation(cli)(image.expand(400, -1, -1, -1))
    mirrored = ((out == image.flip(3)) | (out == 0)).all(dim=(1, 2, 3))
    plain = ((out == image) | (out == 0)).all(dim=(1, 2, 3))
    assert (mirrored | plain).all()
    whole = (out == image).all(dim=(1, 2, 3)) | (out == image.flip(3)).all(dim=(1, 2, 3))
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert 0.4 < whole.float().mean() < 0.75  # some rectangles lie where the image is black


def test_the_first_overlays_output_is_the_next_ones_input(runs: Runs) -> None:
    cli = runs("random_erasing", "random_crop", "flip")
    first, second, third = augmentation(cli)
    white = torch.ones(200, 1, 28, 28)
    torch.manual_seed(5)
    together = augmentation(cli)(white)
    torch.manual_seed(5)
    assert torch.equal(third(second(first(white))), together)
    assert math.isclose(together.max().item(), 1, rel_tol=1e-5)
