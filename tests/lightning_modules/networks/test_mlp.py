"""The multilayer perceptron: its topology, its options, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lightning_modules import MLP

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

CONFIGS = Path(__file__).parents[3] / "configs"
DEFAULT = (784 * 128 + 128) + (128 * 10 + 10)


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_default_is_784_128_10() -> None:
    network = MLP(**GRAY)
    names = [type(layer).__name__ for layer in network.layers]
    assert names == ["Flatten", "Linear", "ReLU", "Identity", "Dropout", "Linear"]
    sizes = [(m.in_features, m.out_features) for m in network.layers if isinstance(m, nn.Linear)]
    assert sizes == [(784, 128), (128, 10)]
    assert parameters(network) == DEFAULT == 101_770


def test_logits_come_out_not_probabilities() -> None:
    torch.manual_seed(0)
    network = MLP(**GRAY)
    images = torch.rand(5, 1, 28, 28)
    first, last = (layer for layer in network.layers if isinstance(layer, nn.Linear))
    by_hand = (images.flatten(1) @ first.weight.T + first.bias).clamp_min(0) @ last.weight.T
    logits = network(images)
    torch.testing.assert_close(logits, by_hand + last.bias)
    assert logits.min() < 0
    assert (logits.sum(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hidden_size": 7}, (784 * 7 + 7) + (7 * 10 + 10)),
        ({"num_classes": 3}, (784 * 128 + 128) + (128 * 3 + 3)),
        ({"image_shape": (3, 8, 6)}, (144 * 128 + 128) + (128 * 10 + 10)),
        ({"norm": "batch"}, DEFAULT + 2 * 128),
        ({"norm": "layer"}, DEFAULT + 2 * 128),
        ({"norm": "group"}, DEFAULT + 2 * 128),
        ({"norm": "weight"}, DEFAULT + 128),  # a length for each hidden unit
        ({"dropout": 0.5}, DEFAULT),
    ],
    ids=str,
)
def test_an_option_changes_the_size_as_computed_by_hand(
    options: dict[str, Any], expected: int
) -> None:
    network = MLP(**GRAY | options)
    assert parameters(network) == expected
    shape = options.get("image_shape", (1, 28, 28))
    assert network(torch.rand(2, *shape)).shape == (2, options.get("num_classes", 10))


def test_the_activation_is_the_one_given() -> None:
    network = MLP(**GRAY, activation=nn.Tanh)
    assert isinstance(network.layers[2], nn.Tanh)
    assert isinstance(network.gain_activation(), nn.Tanh)


def test_dropout_works_on_hidden_units_in_training_only() -> None:
    torch.manual_seed(0)
    network = MLP(**GRAY, dropout=0.3)
    dropout, hidden = network.layers[4], torch.ones(100, 128)
    kept = dropout(hidden)
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert kept.max().item() == pytest.approx(1 / 0.7)
    network.eval()
    assert torch.equal(dropout(hidden), hidden)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0; expected at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 <= value < 1"),
        ({"dropout": -0.1}, "dropout is -0.1; expected 0 <= value < 1"),
        ({"norm": "spectral"}, "norm is 'spectral'"),
        ({"norm": "instance"}, "norm is 'instance'"),
        ({"norm": "local_response"}, "norm is 'local_response'"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**GRAY | options)


def test_the_configuration_has_the_tutorials_values() -> None:
    config = yaml.safe_load((CONFIGS / "mlp.yaml").read_text())
    assert config["model"] == {
        "class_path": "MLP",
        "init_args": {
            "hidden_size": 128,
            "preprocessing": "MinMaxScaling",
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001}},
        },
    }
