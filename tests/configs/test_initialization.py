"""The initialization overlays: each layer's variance, and the signal through a deep network."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import HeUniform, XavierUniform

Build = Callable[..., Any]
RELU, TANH = 2.0, (5 / 3) ** 2  # gains, squared

# Variance from fan_in and fan_out.
VARIANCES: dict[str, Callable[[int, int], float]] = {
    "init_gaussian": lambda fan_in, fan_out: 1e-4,
    "init_uniform": lambda fan_in, fan_out: 1e-4,
    "init_he_normal": lambda fan_in, fan_out: RELU / fan_in,
    "init_he_uniform": lambda fan_in, fan_out: RELU / fan_in,
    "init_xavier_normal": lambda fan_in, fan_out: RELU * 2 / (fan_in + fan_out),
    "init_xavier_uniform": lambda fan_in, fan_out: RELU * 2 / (fan_in + fan_out),
    # Each of the fewer of rows and columns has length gain.
    "init_orthogonal": lambda fan_in, fan_out: RELU / fan_in,
}
# Each layer with its fan_in and, for Xavier, its fan_out.
FANS = {
    "features.0.0": (9, 32 * 9),
    "features.1.0": (32 * 9, 64 * 9),
    "head.1": (3136, 128),
    "head.5": (128, 10),
}


@pytest.fixture
def started(build: Build) -> Build:
    """The network as the first training step finds it."""

    def start(*overlays: str) -> Any:
        network = build(*overlays, "--model.preprocessing=null")
        torch.manual_seed(0)
        network.setup("fit")
        return network

    return start


@pytest.mark.parametrize("name", VARIANCES)
def test_every_layer_has_the_variance_and_zero_biases(name: str, started: Build) -> None:
    network = started(name)
    for layer_name, (fan_in, fan_out) in FANS.items():
        layer = network.get_submodule(layer_name)
        weight = layer.weight.detach()
        expected = VARIANCES[name](fan_in, fan_out)
        if name == "init_orthogonal":
            rows, columns = weight.flatten(1).shape
            expected = RELU / max(rows, columns)
        # Five standard deviations of a sample's variance.
        tolerance = 5 * math.sqrt(2 / weight.numel())
        assert weight.square().mean().item() == pytest.approx(expected, rel=tolerance), layer_name
        assert weight.mean().abs() < 5 * math.sqrt(expected / weight.numel())
        assert not layer.bias.any()
        bound = math.sqrt(3 * expected) * (1 + 1e-5)
        if "uniform" in name:
            assert weight.abs().max() <= bound
        elif name != "init_orthogonal":  # 8% of a normal distribution lie beyond sqrt(3)
            beyond = (weight.abs() > bound).float().mean().item()
            assert beyond == pytest.approx(0.083, abs=0.05), layer_name


def test_orthogonal_rows_or_columns_are_orthogonal_with_the_gain(
    started: Build,
) -> None:
    network = started("init_orthogonal")
    for name in FANS:
        weight = network.get_submodule(name).weight.detach().flatten(1)
        rows, columns = weight.shape
        product = weight @ weight.T if rows <= columns else weight.T @ weight
        torch.testing.assert_close(product, RELU * torch.eye(len(product)), atol=1e-4, rtol=0)


def test_the_gain_is_that_of_the_activation_overlay(started: Build) -> None:
    network = started("activation_tanh", "init_xavier_uniform")
    assert isinstance(network.initializer, XavierUniform)
    weight = network.get_submodule("features.1.0").weight
    expected = TANH * 2 / (32 * 9 + 64 * 9)
    assert weight.square().mean().item() == pytest.approx(expected, rel=0.05)
    assert weight.abs().max().item() == pytest.approx(math.sqrt(3 * expected), rel=0.01)


def test_the_order_of_the_two_overlays_does_not_matter(started: Build) -> None:
    first = started("activation_tanh", "init_xavier_uniform").get_submodule("head.1").weight
    second = started("init_xavier_uniform", "activation_tanh").get_submodule("head.1").weight
    assert torch.equal(first, second)


def test_weight_norm_takes_the_initializers_weights(started: Build) -> None:
    network = started("weight_norm", "init_he_uniform", "--model.norm_hidden=true")
    assert isinstance(network.initializer, HeUniform)
    layer = network.get_submodule("head.1")
    bound = math.sqrt(3 * RELU / 3136)
    weight = layer.weight.detach()
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.02)
    length, _ = layer.parametrizations.weight.parameters()
    torch.testing.assert_close(length.flatten(), weight.norm(dim=1))


def through_ten_layers(initializer: Any, activation: type[nn.Module]) -> list[float]:
    """The signal's mean square after each of ten layers, as a share of the first layer's input."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(400, 400), activation()) for _ in range(10)]
    initializer(nn.Sequential(*layers), activation())
    signal: Tensor = torch.randn(300, 400)
    start, powers = signal.square().mean(), []
    with torch.no_grad():
        for layer in layers:
            signal = layer(signal)
            powers.append((signal.square().mean() / start).item())
    return powers


@pytest.mark.parametrize("name", ["init_he_normal", "init_he_uniform", "init_orthogonal"])
def test_the_signal_keeps_its_strength_through_ten_relu_layers(name: str, build: Build) -> None:
    powers = through_ten_layers(build(name, "--model.preprocessing=null").initializer, nn.ReLU)
    assert all(0.5 < power < 2 for power in powers)


@pytest.mark.parametrize("name", ["init_xavier_normal", "init_xavier_uniform", "init_orthogonal"])
def test_the_signal_settles_through_ten_tanh_layers(name: str, build: Build) -> None:
    powers = through_ten_layers(build(name, "--model.preprocessing=null").initializer, nn.Tanh)
    assert all(0.2 < power < 1 for power in powers)  # tanh itself takes some at first
    assert powers[9] / powers[4] > 0.8


@pytest.mark.parametrize("name", ["init_gaussian", "init_uniform"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_one_small_deviation_for_all_layers_loses_the_signal(
    name: str, activation: type[nn.Module], build: Build
) -> None:
    powers = through_ten_layers(build(name, "--model.preprocessing=null").initializer, activation)
    assert powers[9] < 1e-12
