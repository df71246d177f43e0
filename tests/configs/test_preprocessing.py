"""The preprocessing and cleaning overlays, fitted and measured on real images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiment.cli import ExperimentCLI
from foundation.pixels import as_float

Fit = Callable[..., ExperimentCLI]

SMALL = (
    "--model.width=4",
    "--model.hidden_size=16",
    "--data.train_fraction=0.2",
    "--test_best=false",
    "--trainer.logger=false",
)


@pytest.fixture
def fit(quick_fit: Fit, config: Callable[..., list[str]], tmp_path: Path) -> Fit:
    """A small network's short run with the overlays, on 11,000 real training images."""

    def run(*arguments: str, batches: int = 1) -> ExperimentCLI:
        overlays = [argument for argument in arguments if not argument.startswith("--")]
        options = [argument for argument in arguments if argument.startswith("--")]
        kept = f"--checkpoint.dirpath={tmp_path}"
        return quick_fit(*config(*overlays), *SMALL, kept, *options, batches=batches)

    return run


def splits(cli: ExperimentCLI) -> tuple[Tensor, Tensor]:
    """The training images and the held-out ones, as the first layer sees them."""
    with torch.no_grad():
        train_set, val_set = cli.datamodule.train_set, cli.datamodule.val_set
        return cli.model.preprocess(train_set.images), cli.model.preprocess(val_set.images)


# Scaling.


def test_min_max_spans_minus_one_to_one(fit: Fit) -> None:
    training, held_out = splits(fit("min_max"))
    for images in (training, held_out):
        assert images.min().item() == pytest.approx(-1)
        assert images.max().item() == pytest.approx(1)


def test_standardize_has_mean_0_and_deviation_1_over_all_pixels(fit: Fit) -> None:
    cli = fit("standardize")
    training, held_out = splits(cli)
    assert cli.model.preprocessing.mean.numel() == 1
    assert training.mean().item() == pytest.approx(0, abs=1e-4)
    assert training.std().item() == pytest.approx(1, abs=1e-4)
    assert held_out.mean().item() == pytest.approx(0, abs=0.02)
    assert held_out.std().item() == pytest.approx(1, abs=0.02)


def test_standardize_pixels_has_mean_0_and_deviation_1_at_every_pixel(fit: Fit) -> None:
    cli = fit("standardize_pixels")
    training, held_out = splits(cli)
    std, mean = torch.std_mean(training, dim=0)
    varied = cli.model.preprocessing.std > 1 / 255
    assert varied.float().mean() > 0.95
    assert mean.abs().max() < 1e-3
    torch.testing.assert_close(std[varied], torch.ones_like(std[varied]), atol=1e-3, rtol=0)
    assert (std[~varied] <= 1).all()  # a border that hardly varies is not blown up
    assert held_out.isfinite().all()
    center = held_out[:, 0, 6:22, 6:22]
    assert center.mean(dim=0).abs().max() < 0.1
    assert (center.std(dim=0) - 1).abs().max() < 0.1


def test_zca_whitens_held_out_images_and_shrinks_what_is_below_epsilon(fit: Fit) -> None:
    cli = fit("zca_whitening")
    pixels = as_float(cli.datamodule.train_set.images).flatten(1).double()
    variances, directions = torch.linalg.eigh(pixels.T.cov())
    epsilon = 0.01
    assert cli.model.preprocessing.epsilon == epsilon
    _, held_out = splits(cli)
    covariance = (held_out.flatten(1).double() @ directions).T.cov()

    strong = variances > 20 * epsilon
    assert strong.sum() > 20
    size = int(strong.sum())
    whitened = covariance[strong][:, strong]
    expected = torch.eye(size, dtype=torch.float64)
    assert (whitened - expected).abs().max() < 0.15
    assert (whitened - expected).abs().mean() < 0.02
    weak = variances < epsilon / 10
    assert weak.sum() > 50
    assert covariance.diagonal()[weak].max() < 0.15

    # Of all whitening matrices the symmetric one stays closest to the image.
    matrix = cli.model.preprocessing.matrix
    torch.testing.assert_close(matrix, matrix.T, atol=1e-4, rtol=0)


# Cleaning.


def test_clipping_leaves_clean_images_alone(fit: Fit) -> None:
    cli = fit("clip_outliers", "--model.preprocessing=null")
    training, held_out = splits(cli)
    assert torch.equal(training, as_float(cli.datamodule.train_set.images))
    assert torch.equal(held_out, as_float(cli.datamodule.val_set.images))


def test_clipping_bounds_outliers_and_leaves_the_other_pixels_alone(fit: Fit) -> None:
    cli = fit("clip_outliers", "--model.preprocessing=null", "--data.outlier_fraction=0.01")
    raw = cli.datamodule.train_set.images
    usual = raw <= 1
    bound = (raw[usual].mean() + 3 * raw[usual].std()).item()  # outliers do not widen the band
    training, held_out = splits(cli)
    assert 1 < bound < 2
    assert training.max().item() == held_out.max().item() == pytest.approx(bound, rel=1e-3)
    assert torch.equal(training[usual], raw[usual])
    assert (training[~usual] == training.max()).all()
    assert (~usual).float().mean().item() == pytest.approx(0.01, abs=0.001)


def damaged(images: Tensor, share: float) -> Tensor:
    """The images with that share of their pixels missing."""
    chance = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return images.masked_fill(chance < share, float("nan"))


def by_hand(image: Tensor, row: int, column: int) -> float:
    """The mean of the neighbors that are there."""
    near = image[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    return near[~near.isnan()].mean().item()


def test_a_missing_pixel_is_the_mean_of_its_neighbors(fit: Fit) -> None:
    cli = fit("impute_missing", "--model.preprocessing=null")
    raw = damaged(as_float(cli.datamodule.val_set.images[:10]), 0.3)
    held_out = cli.model.preprocess(raw)
    assert torch.equal(held_out[~raw.isnan()], raw[~raw.isnan()])
    checked = 0
    for row, column in raw[0, 0].isnan().nonzero().tolist():
        expected = by_hand(raw[0, 0], row, column)
        if expected == expected:
            assert held_out[0, 0, row, column].item() == pytest.approx(expected, abs=1e-6)
            checked += 1
    assert checked > 150


def test_where_no_neighbor_is_left_the_training_mean_stands_in(fit: Fit) -> None:
    cli = fit("impute_missing", "--model.preprocessing=null")
    image = cli.datamodule.val_set.images[:1].float() / 255
    image[:, :, 10:15, 10:15] = float("nan")
    filled = cli.model.preprocess(image)
    expected = as_float(cli.datamodule.train_set.images).mean(dim=0)[0, 12, 12]
    assert filled[0, 0, 12, 12].item() == pytest.approx(expected.item(), rel=1e-4)


def test_imputation_brings_the_accuracy_back(fit: Fit) -> None:
    cli = fit("impute_missing", "--data.batch_size=64", batches=150)
    network, held_out = cli.model.eval(), cli.datamodule.val_set
    clean = as_float(held_out.images)

    @torch.no_grad()
    def accuracy(images: Tensor) -> float:
        return (network(images).argmax(dim=1) == held_out.labels).float().mean().item()

    undamaged, imputed = accuracy(clean), accuracy(damaged(clean, 0.5))
    network.cleaning = nn.ModuleList()
    black = accuracy(damaged(clean, 0.5))
    assert undamaged > 0.65
    assert imputed > undamaged - 0.1
    assert black < imputed - 0.15


# Where the statistics come from and go to.


@pytest.mark.parametrize("overlay", ["standardize", "standardize_pixels"])
def test_statistics_are_the_training_splits_and_in_the_checkpoint(
    overlay: str, fit: Fit, tmp_path: Path
) -> None:
    cli = fit(overlay)
    training = as_float(cli.datamodule.train_set.images)
    held_out = as_float(cli.datamodule.val_set.images)
    over: Any = 0 if overlay == "standardize_pixels" else (0, 2, 3)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state["preprocessing.fitted"]
    mean, std = state["preprocessing.mean"].squeeze(), state["preprocessing.std"].squeeze()
    torch.testing.assert_close(mean, training.mean(dim=over).squeeze(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(std, training.std(dim=over).squeeze(), atol=1e-5, rtol=1e-4)
    other = torch.cat([training, held_out]).mean(dim=over).squeeze()
    assert (mean - other).abs().max() > 1e-4


def test_each_step_is_fitted_on_what_the_steps_before_it_make(fit: Fit) -> None:
    cli = fit(
        "clip_outliers",
        "impute_missing",
        "standardize",
        "--data.missing_fraction=0.3",
        "--data.outlier_fraction=0.01",
    )
    clip, impute = cli.model.cleaning
    raw = cli.datamodule.train_set.images
    there = raw[raw <= 1]  # neither missing nor an outlier
    assert clip.high.item() == pytest.approx((there.mean() + 3 * there.std()).item(), rel=1e-3)
    clipped = raw.clamp(clip.low, clip.high)
    torch.testing.assert_close(impute.pixel_mean, clipped.nanmean(dim=0), atol=1e-5, rtol=1e-4)
    filled = impute(clipped)
    standardize = cli.model.preprocessing
    assert standardize.mean.item() == pytest.approx(filled.mean().item(), rel=1e-4)
    training, held_out = splits(cli)
    assert training.mean().item() == pytest.approx(0, abs=1e-3)
    assert training.std().item() == pytest.approx(1, abs=1e-3)
    assert held_out.std().item() == pytest.approx(1, abs=0.03)
