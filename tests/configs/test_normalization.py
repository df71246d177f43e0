"""The normalization overlays: the statistic each promises, on real images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import BaselineCNN

Build = Callable[..., Any]
Rows = Callable[[Tensor], Tensor]

# What has mean 0 and variance 1 after each block: one row for each set of values.
PIXELS: dict[str, Rows] = {
    "batch_norm": lambda x: x.transpose(0, 1).flatten(1),  # a channel, all images
    "layer_norm": lambda x: x.flatten(1),  # an image, all channels
    "group_norm": lambda x: x.reshape(len(x) * x.shape[1] // 8, -1),  # an image, 8 channels
    "instance_norm": lambda x: x.flatten(0, 1).flatten(1),  # an image, a channel
}
# The same after the hidden layer, whose features are channels of one pixel.
HIDDEN: dict[str, Rows] = {
    "batch_norm": lambda x: x.T,
    "layer_norm": lambda x: x,
    "group_norm": lambda x: x.reshape(-1, 8),
}
NORMS = [*PIXELS, "local_response_norm", "weight_norm"]


def record(layer: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Filled with what goes into the layer and what comes out, at every call."""
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda _, given, output: seen.append((given[0], output)))
    return seen


def norms(network: BaselineCNN) -> list[nn.Module]:
    """The normalization of each block and of the hidden layer."""
    return [*(block[2] for block in network.features), network.head[3]]  # type: ignore[index]


def standardized(given: Tensor, output: Tensor, rows: Rows) -> bool:
    """Whether each row came out with mean 0 and variance 1, and was changed as a whole."""
    before = rows(given)
    variance, mean = torch.var_mean(before, dim=1, correction=0, keepdim=True)
    expected = (before - mean) / (variance + 1e-5).sqrt()
    return torch.allclose(rows(output), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", PIXELS)
def test_every_block_is_standardised_over_what_the_overlay_says(
    name: str, build: Build, images: Tensor
) -> None:
    network = build(name)
    seen = [record(layer) for layer in norms(network)[:2]]
    network.train()(images)
    for ((given, output),) in seen:
        found = [other for other in PIXELS if standardized(given, output, PIXELS[other])]
        assert found == [name]


@pytest.mark.parametrize("name", HIDDEN)
def test_the_hidden_layer_is_standardised_likewise(name: str, build: Build, images: Tensor) -> None:
    network = build(name, "--model.norm_hidden=true")
    seen = record(norms(network)[2])
    network.train()(images)
    ((given, output),) = seen
    found = [other for other in HIDDEN if standardized(given, output, HIDDEN[other])]
    assert found == [name]


@pytest.mark.parametrize("name", ["instance_norm", "local_response_norm"])
def test_what_needs_pixels_leaves_the_hidden_layer_alone(name: str, build: Build) -> None:
    hidden = torch.rand(4, 128)
    assert torch.equal(norms(build(name, "--model.norm_hidden=true"))[2](hidden), hidden)


def test_local_response_divides_by_the_strength_of_five_channels(
    build: Build, images: Tensor
) -> None:
    network = build("local_response_norm")
    seen = [record(layer) for layer in norms(network)[:2]]
    network(images)
    for ((given, output),) in seen:
        channels = given.shape[1]
        for channel in (0, 1, 7, channels - 1):
            near = given[:, max(0, channel - 2) : channel + 3]
            strength = 1 + near.square().sum(dim=1) / 5
            expected = given[:, channel] / strength**0.75
            torch.testing.assert_close(output[:, channel], expected)
        assert (output < 0.95 * given).any()  # and the 1 does not hide the rest


def test_weight_norm_trains_a_length_and_a_direction(build: Build, images: Tensor) -> None:
    network = build("weight_norm", "--model.norm_hidden=true", "--model.optimizer=torch.optim.SGD")
    layers = [block[0] for block in network.features] + [network.head[1]]

    def check() -> list[Tensor]:
        parts = []
        for layer in layers:
            length, direction = layer.parametrizations.weight.parameters()
            norm = direction.flatten(1).norm(dim=1).view_as(length)
            torch.testing.assert_close(layer.weight, length * direction / norm)
            torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), length.flatten().abs())
            parts += [length.detach().clone(), direction.detach().clone()]
        return parts

    before = check()
    optimizer = network.make_optimizer(network.parameters())
    optimizer.param_groups[0]["lr"] = 0.1
    nn.functional.cross_entropy(network(images), torch.arange(64) % 10).backward()
    optimizer.step()
    for old, new in zip(before, check(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("name", NORMS)
def test_evaluation_is_repeatable_and_no_image_depends_on_another(
    name: str, build: Build, images: Tensor
) -> None:
    network = build(name)
    network.train()(images)  # batch normalization's running averages leave their start
    network.eval()
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(network(images), logits)
        for some in (slice(0, 1), slice(10, 30)):
            torch.testing.assert_close(network(images[some]), logits[some], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NORMS)
def test_in_training_only_batch_norm_mixes_the_images(
    name: str, build: Build, images: Tensor
) -> None:
    network = build(name).train()
    with torch.no_grad():
        apart = (network(images)[:32] - network(images[:32])).abs().max()
    assert (apart > 1e-3) == (name == "batch_norm")


def test_batch_norm_evaluates_with_running_averages(build: Build, images: Tensor) -> None:
    network = build("batch_norm")
    layer: Any = norms(network)[0]
    seen = record(layer)
    network.train()(images)
    given, _ = seen[0]
    torch.testing.assert_close(layer.running_mean, 0.1 * given.mean(dim=(0, 2, 3)))
    variance = given.transpose(0, 1).flatten(1).var(dim=1)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variance)
    network.eval()(images)
    shape = (1, -1, 1, 1)
    mean, scale = layer.running_mean.view(shape), (layer.running_var + 1e-5).sqrt().view(shape)
    torch.testing.assert_close(seen[1][1], (seen[1][0] - mean) / scale)
