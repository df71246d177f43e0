"""Normalisation layers: over what each of them normalises."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.layers import NormName, norm_layer

NORMS: tuple[NormName, ...] = get_args(NormName)


def is_standardised(values: Tensor) -> bool:
    """Whether every row of ``values`` has mean 0 and variance 1."""
    mean, variance = values.mean(dim=1), values.var(dim=1, correction=0)
    return torch.allclose(mean, torch.zeros_like(mean), atol=1e-4) and torch.allclose(
        variance, torch.ones_like(variance), atol=1e-2
    )


@pytest.fixture
def pixels() -> Tensor:
    """Activations whose mean and spread differ by image, channel and pixel."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 16, 5, 5, generator=generator)
    scale = torch.rand(6, 16, 1, 1, generator=generator) * 4 + 1
    return values * scale + torch.randn(6, 16, 1, 1, generator=generator) * 10


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("batch", lambda x: x.transpose(0, 1).flatten(1)),  # a channel, all images
        ("layer", lambda x: x.flatten(1)),  # an image, all channels
        ("group", lambda x: x.reshape(12, -1)),  # an image, 8 channels
        ("instance", lambda x: x.reshape(96, -1)),  # an image, a channel
    ],
)
def test_standardises_exactly_the_described_slice_of_pixels(
    pixels: Tensor, name: NormName, rows: object
) -> None:
    assert callable(rows)
    assert not is_standardised(rows(pixels))
    assert is_standardised(rows(norm_layer(name, 16, spatial=True)(pixels)))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("batch", lambda x: x.T),
        ("layer", lambda x: x),
        ("group", lambda x: x.reshape(12, 8)),
    ],
)
def test_standardises_exactly_the_described_slice_of_a_vector(
    pixels: Tensor, name: NormName, rows: object
) -> None:
    assert callable(rows)
    vectors = pixels[:, :, 0, 0]
    assert not is_standardised(rows(vectors))
    assert is_standardised(rows(norm_layer(name, 16, spatial=False)(vectors)))


@pytest.mark.parametrize("spatial", [True, False])
def test_no_norm_passes_its_input_on(pixels: Tensor, spatial: bool) -> None:
    assert norm_layer(None, 16, spatial=spatial)(pixels) is pixels


def test_instance_norm_passes_vectors_on(pixels: Tensor) -> None:
    vectors = pixels[:, :, 0, 0]
    assert norm_layer("instance", 16, spatial=False)(vectors) is vectors


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_group_norm_takes_all_channels_as_one_group_where_8_do_not_divide_them(
    channels: int,
) -> None:
    images = torch.randn(3, channels, 5, 5) * 3 + 1
    assert is_standardised(norm_layer("group", channels, spatial=True)(images).flatten(1))


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_of_pixels_learns_a_scale_and_a_shift_per_channel(name: NormName) -> None:
    parameters = dict(norm_layer(name, 16, spatial=True).named_parameters())
    assert {key: value.tolist() for key, value in parameters.items()} == {
        "weight": [1.0] * 16,
        "bias": [0.0] * 16,
    }


def test_only_batch_norm_depends_on_the_other_images(pixels: Tensor) -> None:
    alone = {
        name: torch.allclose(layer(pixels)[:2], layer(pixels[:2]), atol=1e-5)
        for name in NORMS
        for layer in [norm_layer(name, 16, spatial=True)]
    }
    assert alone == {"batch": False, "layer": True, "group": True, "instance": True}


def test_batch_norm_uses_running_statistics_in_evaluation(pixels: Tensor) -> None:
    layer = norm_layer("batch", 16, spatial=True)
    assert isinstance(layer, nn.BatchNorm2d)
    layer.momentum = 1.0
    layer(pixels)
    assert torch.allclose(layer.eval()(pixels), layer.train()(pixels), atol=2e-2)


@pytest.mark.parametrize("spatial", [True, False])
def test_an_unknown_norm_is_refused_by_name(spatial: bool) -> None:
    with pytest.raises(ValueError, match=r"norm is 'weight'; expected one of batch, layer"):
        norm_layer("weight", 16, spatial=spatial)  # type: ignore[arg-type]
