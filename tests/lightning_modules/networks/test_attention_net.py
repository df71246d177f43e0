"""The attention network: its topology, its options, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lightning_modules import AttentionNet, CrissCrossAttention, SqueezeExcitation

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

CONFIGS = Path(__file__).parents[3] / "configs"

# Channel attention over one channel has one unit: 1→1 and 1→1.
SQUEEZE = (1 + 1) + (1 + 1)
# Queries and keys 64→8, values 64→64, gamma.
CRISS_CROSS = 2 * (64 * 8 + 8) + (64 * 64 + 64) + 1
DEFAULT = SQUEEZE + (64 + 64) + CRISS_CROSS + (64 + 1) + (784 * 128 + 128) + (128 * 10 + 10)


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_default_is_the_tutorials_network() -> None:
    network = AttentionNet(**GRAY)
    kinds = [type(layer).__name__ for layer in (*network.features, *network.head)]
    attention = ["SqueezeExcitation", "Conv2d", "Identity", "CrissCrossAttention", "Conv2d"]
    assert kinds == [*attention, "Flatten", "Linear", "ReLU", "Identity", "Dropout", "Linear"]
    convs = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convs] == [
        (1, 64, (1, 1)),
        (64, 1, (1, 1)),
    ]
    linears = [layer for layer in network.head if isinstance(layer, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(784, 128), (128, 10)]
    assert parameters(network) == DEFAULT == 107_168


def test_the_image_keeps_its_size_through_the_attention() -> None:
    network, shapes = AttentionNet(**GRAY), []
    for layer in network.features:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    network(torch.rand(2, 1, 28, 28))
    assert shapes == [(1, 28, 28), *[(64, 28, 28)] * 3, (1, 28, 28)]


def test_logits_come_out_not_probabilities() -> None:
    torch.manual_seed(0)
    network, hidden = AttentionNet(**GRAY), []
    network.head[4].register_forward_hook(lambda _, __, output: hidden.append(output))
    logits = network(torch.rand(5, 1, 28, 28))
    last = network.head[5]
    torch.testing.assert_close(logits, hidden[0] @ last.weight.T + last.bias)
    assert logits.min() < 0


def test_both_attentions_change_the_logits() -> None:
    torch.manual_seed(0)
    network, images = AttentionNet(**GRAY).eval(), torch.rand(4, 1, 28, 28)
    squeeze, criss_cross = network.features[0], network.features[3]
    assert isinstance(squeeze, SqueezeExcitation)
    assert isinstance(criss_cross, CrissCrossAttention)

    def logits() -> Tensor:
        with torch.no_grad():
            return network(images)

    plain = logits()
    nn.init.ones_(criss_cross.gamma)
    crossed = logits()
    (*_, last) = (part for part in squeeze.gate if isinstance(part, nn.Conv2d))
    assert last.bias is not None
    nn.init.constant_(last.bias, -5.0)
    assert (crossed - plain).abs().max() > 1e-3
    assert (logits() - crossed).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"hidden_size": 256},
            DEFAULT - (784 * 128 + 128) - 1290 + (784 * 256 + 256) + (256 * 10 + 10),
        ),
        (
            {"width": 16},
            DEFAULT
            - (64 + 64 + CRISS_CROSS + 65)
            + (16 + 16 + 2 * (16 * 2 + 2) + (16 * 16 + 16) + 1 + 17),
        ),
        ({"reduction": 1}, DEFAULT),  # one channel cannot be squeezed
        ({"image_shape": (8, 28, 28), "reduction": 2}, DEFAULT - SQUEEZE + 76 + 7 * 64),
        ({"norm": "batch"}, DEFAULT + 2 * 64 + 2 * 128),
        ({"norm": "instance"}, DEFAULT + 2 * 64),
        ({"norm": "local_response"}, DEFAULT),
        ({"norm": "weight"}, DEFAULT + 64 + 128),
        ({"dropout": 0.5}, DEFAULT),
    ],
    ids=str,
)
def test_an_option_changes_the_size_as_computed_by_hand(
    options: dict[str, Any], expected: int
) -> None:
    network = AttentionNet(**GRAY | options)
    assert parameters(network) == expected
    assert network(torch.rand(2, *options.get("image_shape", (1, 28, 28)))).shape == (2, 10)


def test_an_image_need_not_be_square() -> None:
    assert AttentionNet(num_classes=10, image_shape=(1, 5, 9))(torch.rand(1, 1, 5, 9)).shape == (
        1,
        10,
    )


def test_the_activation_is_the_one_given() -> None:
    network = AttentionNet(**GRAY, activation=nn.GELU)
    assert isinstance(network.head[2], nn.GELU)
    assert isinstance(network.gain_activation(), nn.GELU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0; expected at least 1"),
        ({"reduction": 0}, "reduction is 0; expected at least 1"),
        ({"hidden_size": -1}, "hidden_size is -1; expected at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 <= value < 1"),
        ({"norm": "spectral"}, "norm is 'spectral'"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionNet(**GRAY | options)


@pytest.mark.parametrize(
    ("name", "hidden_size", "lr"),
    [("attention_net", 128, 0.001), ("mnist/attention_net_tuned", 256, 0.0005)],
)
def test_the_configuration_has_the_tutorials_values(name: str, hidden_size: int, lr: float) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model = config["model"]["init_args"]
    assert config["model"]["class_path"] == "AttentionNet"
    assert model["hidden_size"] == hidden_size
    assert model["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": lr}}
    assert config["data"]["init_args"]["batch_size"] == 64
    assert config["trainer"]["max_epochs"] == 10
