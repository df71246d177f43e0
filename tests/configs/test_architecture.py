"""The architecture overlays: parameters and feature maps by hand, and what has no meaning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import train

Build = Callable[..., Any]
Shape = tuple[int, ...]


def conv(before: int, after: int, kernel: int) -> int:
    """Parameters of a convolution."""
    return before * after * kernel**2 + after


def linear(before: int, after: int) -> int:
    return before * after + after


def squeeze_excitation(channels: int) -> int:
    return conv(channels, channels // 16, 1) + conv(channels // 16, channels, 1)


def criss_cross(channels: int) -> int:
    return 2 * conv(channels, channels // 8, 1) + conv(channels, channels, 1) + 1


BASE = conv(1, 32, 3) + conv(32, 64, 3) + linear(64 * 7 * 7, 128) + linear(128, 10)
PARAMETERS = {
    "deeper": (
        conv(1, 32, 3) + conv(32, 64, 3) + conv(64, 128, 3) + linear(128 * 9, 128) + linear(128, 10)
    ),
    "wider": conv(1, 64, 3) + conv(64, 128, 3) + linear(128 * 49, 128) + linear(128, 10),
    "kernel_5": conv(1, 32, 5) + conv(32, 64, 5) + linear(64 * 49, 128) + linear(128, 10),
    "squeeze_excitation": BASE + squeeze_excitation(32) + squeeze_excitation(64),
    "criss_cross_attention": BASE + criss_cross(32) + criss_cross(64),
}
USUAL: list[Shape] = [(32, 14, 14), (64, 7, 7)]
MAPS: dict[str, list[Shape]] = {
    "deeper": [*USUAL, (128, 3, 3)],
    "wider": [(64, 14, 14), (128, 7, 7)],
    "kernel_5": USUAL,
    "squeeze_excitation": USUAL,
    "criss_cross_attention": USUAL,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters_is_that_computed_by_hand(name: str, build: Build) -> None:
    assert sum(weight.numel() for weight in build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MAPS)
def test_the_feature_maps_have_their_sizes(name: str, build: Build, images: Tensor) -> None:
    network, shapes = build(name), []
    for block in network.features:
        block.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    assert network(images[:2]).shape == (2, 10)
    assert shapes == MAPS[name]


def reach(network: Any) -> int:
    """Side of the square of pixels that the first convolution looks at."""
    image = torch.zeros(1, 1, 28, 28, requires_grad=True)
    network.features[0][0](image)[0, :, 14, 14].sum().backward()
    assert image.grad is not None
    return int(image.grad[0, 0].any(dim=0).sum())


def test_a_larger_kernel_looks_at_more_pixels(build: Build) -> None:
    assert reach(build()) == 3
    assert reach(build("kernel_5")) == 5


def seen(network: Any, image: Tensor) -> float:
    """Share of the pixels that a corner of the last feature map depends on."""
    image = image.clone().requires_grad_()
    features = network.features(image)
    features[0, :, 0, 0].sum().backward()
    assert image.grad is not None
    return (image.grad != 0).float().mean().item()


def test_criss_cross_lets_a_corner_see_the_other_side(build: Build) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 28, 28)
    plain, crossed = build(), build("criss_cross_attention")
    assert seen(crossed, image) == seen(plain, image) < 0.1  # gamma starts at 0
    for block in crossed.features:
        block[-1].gamma.data.fill_(1.0)
    assert seen(crossed, image) > 0.5


def test_squeeze_excitation_scales_whole_channels(build: Build, images: Tensor) -> None:
    network, pairs = build("squeeze_excitation"), []
    for block in network.features:
        block[-1].register_forward_hook(lambda _, given, output: pairs.append((given[0], output)))
    network(images)
    for before, after in pairs:
        factors = after.sum(dim=(2, 3)) / before.sum(dim=(2, 3))
        there = before.sum(dim=(2, 3)) > 1e-3
        torch.testing.assert_close(after, before * factors.nan_to_num()[:, :, None, None])
        assert factors[there].std() > 1e-3  # and they differ


# The combinations that have no meaning.

MISSING = [
    ("kernel_5", "kernel_size"),
    ("deeper", "depth"),
    ("squeeze_excitation", "attention"),
    ("criss_cross_attention", "attention"),
]


@pytest.mark.parametrize(
    ("base", "name", "option"),
    [
        *((base, name, option) for base in ("mlp", "attention_net") for name, option in MISSING),
        ("mlp", "wider", "width"),
    ],
)
def test_a_network_without_the_option_refuses_it_in_one_line(
    base: str,
    name: str,
    option: str,
    config: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["fit", *config(name, base=base)])
    error = capsys.readouterr().err
    assert stop.value.code not in (0, None)
    (line,) = error.splitlines()
    assert line.startswith("train.py: error: ")
    assert f"'{option}'" in line
    assert "Traceback" not in error
    network = {"mlp": "MLP", "attention_net": "AttentionNet"}[base]
    assert network in line
