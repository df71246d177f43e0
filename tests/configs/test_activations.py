"""The activation overlays: the function each puts behind every layer but the last."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Build = Callable[..., Any]

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "activation_elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "activation_gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "activation_leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "activation_sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "activation_silu": lambda x: x / (1 + math.exp(-x)),
    "activation_tanh": math.tanh,
}
BASES = ["baseline_cnn", "mlp", "attention_net"]


def activations(network: nn.Module) -> list[nn.Module]:
    kinds = (nn.ReLU, nn.ELU, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.SiLU, nn.Tanh)
    modules = network.named_modules()
    return [module for name, module in modules if isinstance(module, kinds) and "gate" not in name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_hidden_layer_has_the_function(name: str, build: Build) -> None:
    found = activations(build(name))
    assert len(found) == 3  # two blocks and the hidden layer
    points = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.tensor([FUNCTIONS[name](x) for x in points.tolist()], dtype=torch.float64)
    for activation in found:
        torch.testing.assert_close(activation(points), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_changes_the_logits_and_nothing_else(name: str, build: Build, images: Tensor) -> None:
    plain, changed = build(), build(name)
    for mine, other in zip(changed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert (plain(images) - changed(images)).abs().max() > 1e-4


@pytest.mark.parametrize("base", BASES)
def test_every_network_takes_it(base: str, build: Build) -> None:
    for found in activations(build("activation_tanh", base=base)):
        assert isinstance(found, nn.Tanh)


def test_sigmoid_shrinks_the_gradient_in_each_layer_and_relu_does_not(
    build: Build, images: Tensor
) -> None:
    def first_to_last(*overlays: str) -> float:
        """The first layer's share of the gradient, against that of the hidden layer."""
        network = build(*overlays)
        nn.functional.cross_entropy(network(images), torch.arange(64) % 10).backward()
        first, hidden = network.features[0][0].weight.grad, network.head[1].weight.grad
        return (first.norm() / hidden.norm()).item()

    assert first_to_last("activation_sigmoid") < first_to_last() / 4
