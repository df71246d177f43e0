"""The networks: their default topology, what each option changes, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from experiment.cli import ExperimentCLI
from lightning_modules import BaselineCNN, HeUniform, MinMaxScaling, OptimizedCNN
from lightning_modules.layers.pooling import MaxPool
from lightning_modules.layers.residual import Residual

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

ORDERS = [
    "activation-norm-pool",
    "activation-pool-norm",
    "norm-activation-pool",
    "norm-pool-activation",
    "pool-activation-norm",
    "pool-norm-activation",
]

NORMS = ["batch", "layer", "group", "instance", "local_response", "weight"]

# By hand: weights and biases of conv 1→32, conv 32→64, linear 3136→128, linear 128→10.
BASELINE_PARAMETERS = (32 * 9 + 32) + (64 * 32 * 9 + 64) + (3136 * 128 + 128) + (128 * 10 + 10)
# A scale and a shift for each of 32 and 64 channels and 128 hidden units.
NORM_PARAMETERS = 2 * (32 + 64)


def layers(network: BaselineCNN) -> list[str]:
    """The layers in order, each with the numbers that define it."""
    flat = [*network.features.modules(), *network.head.modules()]
    return [describe(layer) for layer in flat if not isinstance(layer, nn.Sequential)]


def describe(layer: nn.Module) -> str:
    numbers: list[Any]
    match layer:
        case nn.Conv2d():
            numbers = [layer.in_channels, layer.out_channels, *layer.kernel_size]
            assert layer.stride == (1, 1)
        case nn.MaxPool2d():
            numbers = [layer.kernel_size, layer.stride]
        case nn.Linear():
            numbers = [layer.in_features, layer.out_features]
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            numbers = [layer.num_features]
        case nn.GroupNorm():
            numbers = [layer.num_groups, layer.num_channels]
        case nn.Dropout():
            numbers = [layer.p]
        case nn.LeakyReLU():
            numbers = [layer.negative_slope]
        case _:
            numbers = []
    return " ".join(map(str, [type(layer).__name__, *numbers]))


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def images(n: int = 3, shape: tuple[int, int, int] = (1, 28, 28)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)


def test_the_default_baseline_is_the_textbook_network() -> None:
    network = BaselineCNN(**GRAY)
    assert layers(network) == [
        "Conv2d 1 32 3 3",
        "ReLU",
        "Identity",
        "MaxPool 2 2",
        "Conv2d 32 64 3 3",
        "ReLU",
        "Identity",
        "MaxPool 2 2",
        "Flatten",
        "Linear 3136 128",
        "ReLU",
        "Identity",
        "Dropout 0.0",
        "Linear 128 10",
    ]
    assert parameters(network) == BASELINE_PARAMETERS == 421_642


def test_the_default_optimized_network_adds_norm_and_dropout_only() -> None:
    network = OptimizedCNN(**GRAY)
    assert layers(network) == [
        "Conv2d 1 32 3 3",
        "ReLU",
        "BatchNorm2d 32",
        "MaxPool 2 2",
        "Conv2d 32 64 3 3",
        "ReLU",
        "BatchNorm2d 64",
        "MaxPool 2 2",
        "Flatten",
        "Linear 3136 128",
        "ReLU",
        "Identity",  # the tutorial does not normalize the hidden layer
        "Dropout 0.5",
        "Linear 128 10",
    ]
    assert network.features[0][0].padding == network.features[1][0].padding == (1, 1)  # type: ignore[index]
    assert isinstance(network.initializer, HeUniform)
    assert parameters(network) == BASELINE_PARAMETERS + 2 * (32 + 64) == 421_834


def test_the_optimized_network_with_its_techniques_off_is_the_baseline() -> None:
    off = OptimizedCNN(**GRAY, norm=None, dropout=0.0, initializer=None)
    assert layers(off) == layers(BaselineCNN(**GRAY))
    assert off.initializer is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"width": 4}, (4 * 9 + 4) + (8 * 4 * 9 + 8) + (8 * 49 * 128 + 128) + 1290),
        ({"depth": 1}, 320 + (32 * 14 * 14 * 128 + 128) + 1290),
        ({"depth": 4}, 320 + 18_496 + (128 * 64 * 9 + 128) + (256 * 128 * 9 + 256) + 32_896 + 1290),
        ({"kernel_size": 1}, (32 + 32) + (64 * 32 + 64) + 401_536 + 1290),
        ({"kernel_size": 5}, (32 * 25 + 32) + (64 * 32 * 25 + 64) + 401_536 + 1290),
        ({"hidden_size": 7}, 320 + 18_496 + (3136 * 7 + 7) + (7 * 10 + 10)),
        ({"activation": nn.PReLU}, BASELINE_PARAMETERS + 3),
        ({"activation": nn.GELU}, BASELINE_PARAMETERS),
        ({"residual": 2}, BASELINE_PARAMETERS + 2 * (32 * 32 * 9 + 32 + 64 * 64 * 9 + 64)),
        ({"norm": "batch"}, BASELINE_PARAMETERS + NORM_PARAMETERS),
        ({"norm": "layer"}, BASELINE_PARAMETERS + NORM_PARAMETERS),
        ({"norm": "group"}, BASELINE_PARAMETERS + NORM_PARAMETERS),
        ({"norm": "instance"}, BASELINE_PARAMETERS + 2 * (32 + 64)),
        ({"norm": "local_response"}, BASELINE_PARAMETERS),
        ({"norm": "weight"}, BASELINE_PARAMETERS + 32 + 64),  # a length for each output
        ({"norm": "batch", "norm_hidden": True}, BASELINE_PARAMETERS + NORM_PARAMETERS + 2 * 128),
        ({"norm": "layer", "norm_hidden": False}, BASELINE_PARAMETERS + 2 * (32 + 64)),
        ({"dropout": 0.9}, BASELINE_PARAMETERS),
        ({"num_classes": 2}, BASELINE_PARAMETERS - 8 * 129),
        ({"image_shape": (3, 32, 32)}, BASELINE_PARAMETERS + 2 * 32 * 9 + 64 * (64 - 49) * 128),
        ({"image_shape": (1, 30, 17)}, BASELINE_PARAMETERS + 64 * (7 * 4 - 49) * 128),
        ({"channels_last": True}, BASELINE_PARAMETERS),
        ({"preprocessing": MinMaxScaling()}, BASELINE_PARAMETERS),
    ],
    ids=str,
)
def test_an_option_changes_the_size_as_computed_by_hand_and_the_logits_fit(
    options: dict[str, Any], expected: int
) -> None:
    network = BaselineCNN(**GRAY | options)
    assert parameters(network) == expected
    logits = network(images(3, network.image_shape))
    assert logits.shape == (3, network.num_classes)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("order", ORDERS)
def test_the_parts_of_a_block_follow_the_order(order: Any) -> None:
    network = BaselineCNN(**GRAY, order=order, norm="batch", width=4)
    classes = {"activation": nn.ReLU, "norm": nn.BatchNorm2d, "pool": MaxPool}
    expected = [nn.Conv2d, *(classes[part] for part in order.split("-"))]
    for block in network.features:
        assert isinstance(block, nn.Sequential)
        assert [type(layer) for layer in block] == expected
    assert network(images()).shape == (3, 10)


def test_residual_convolutions_add_to_what_comes_in() -> None:
    network = BaselineCNN(**GRAY, width=2, depth=1, residual=1, norm="batch")
    (whole,) = network.features
    assert isinstance(whole, nn.Sequential)
    *block, residual = whole
    assert isinstance(residual, Residual)
    kinds = [type(layer) for layer in residual.branch]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    features = nn.Sequential(*block)(torch.rand(4, 1, 28, 28))
    for weight in residual.parameters():
        nn.init.zeros_(weight)
    assert torch.equal(residual(features), features)
    norm = residual.branch[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.ones_(norm.bias)  # its shift alone: one is added
    torch.testing.assert_close(residual(features), features + 1)


def test_the_hidden_layer_follows_its_own_order() -> None:
    def head(**options: Any) -> list[type]:
        options |= {"norm": "batch", "norm_hidden": True, "width": 4}
        return [type(layer) for layer in BaselineCNN(**GRAY | options).head]

    usual = [nn.Flatten, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear]
    assert head() == usual
    usual[2:4] = reversed(usual[2:4])
    assert head(hidden_order="norm-activation") == usual


def test_pooling_before_a_monotonic_activation_changes_no_logit() -> None:
    first, second = BaselineCNN(**GRAY, order="pool-activation-norm"), BaselineCNN(**GRAY)
    second.load_state_dict(first.state_dict())
    assert torch.allclose(first(images()), second(images()), atol=1e-6)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU, nn.LeakyReLU])
def test_the_activation_follows_every_layer_but_the_last(
    activation: Callable[[], nn.Module],
) -> None:
    network = BaselineCNN(**GRAY, activation=activation)
    kinds = [layer.split()[0] for layer in layers(network)]
    assert kinds.count(type(activation()).__name__) == 3
    assert "ReLU" not in kinds
    assert kinds[-1] == "Linear"
    assert str(network.gain_activation()) == str(activation())


def test_the_kernel_keeps_the_size_so_that_only_pooling_shrinks() -> None:
    for kernel_size in (1, 3, 5, 7):
        features = BaselineCNN(**GRAY, kernel_size=kernel_size, width=2).features
        assert features(torch.rand(2, 1, 28, 28)).shape == (2, 4, 7, 7)


@pytest.mark.parametrize("network_class", [BaselineCNN, OptimizedCNN])
@pytest.mark.parametrize("preprocessing", [None, MinMaxScaling()])
def test_bytes_and_the_same_floats_give_equal_logits(
    network_class: type[BaselineCNN], preprocessing: MinMaxScaling | None
) -> None:
    network = network_class(**GRAY, preprocessing=preprocessing).eval()
    assert torch.equal(network(images()), network(images().float() / 255))


def test_channels_last_changes_the_layout_and_no_logit() -> None:
    plain, last = BaselineCNN(**GRAY), BaselineCNN(**GRAY, channels_last=True)
    last.load_state_dict(plain.state_dict())
    last.setup("fit")
    assert torch.allclose(last(images()), plain(images()), atol=1e-5)
    activations = last.features(last.preprocess(images()))
    assert activations.is_contiguous(memory_format=torch.channels_last)
    assert not activations.is_contiguous()


def test_dropout_zeroes_its_share_of_hidden_units_in_training_only() -> None:
    network = BaselineCNN(**GRAY, dropout=0.75, hidden_size=1000, width=1)
    dropped: list[Tensor] = []
    dropout = next(layer for layer in network.head if isinstance(layer, nn.Dropout))
    dropout.register_forward_hook(lambda module, given, out: dropped.append(out / given[0]))
    torch.manual_seed(0)
    network(images(8))
    kept = dropped[0][~dropped[0].isnan()]  # 0/0 where ReLU was zero already
    assert kept.count_nonzero() / len(kept) == pytest.approx(0.25, abs=0.03)
    assert kept[kept > 0].mean().item() == pytest.approx(4)
    network.eval()
    assert torch.equal(network(images()), network(images()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0; expected at least 1"),
        ({"depth": 0}, "depth is 0; expected at least 1"),
        ({"hidden_size": -3}, "hidden_size is -3; expected at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4; expected an odd number"),
        ({"kernel_size": -1}, "kernel_size is -1; expected an odd number"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 <= value < 1"),
        ({"dropout": -0.1}, "dropout is -0.1; expected"),
        ({"dropout": float("nan")}, "dropout is nan; expected"),
        ({"depth": 5}, "depth is 5, but 28x28 pixels can be halved only 4 times"),
        ({"image_shape": (1, 28, 3), "depth": 2}, "28x3 pixels can be halved only 1 times"),
        ({"norm": "spectral"}, "norm is 'spectral'; expected one of .*batch.*layer.*group"),
        ({"order": "pool-activation"}, "order is .*pool-activation"),
        ({"order": "pool-pool-norm"}, "order is .*pool-pool-norm"),
        ({"order": "conv-pool-norm"}, "order is .*conv-pool-norm"),
        ({"residual": -1}, "residual is -1; expected at least 0"),
        ({"hidden_order": "norm"}, "hidden_order is 'norm'; expected activation-norm or"),
        ({"num_classes": 1}, "num_classes is 1; a classifier needs at least 2"),
        ({"image_shape": (1, 0, 28)}, r"image_shape is \(1, 0, 28\); expected"),
        ({"image_shape": (28, 28)}, r"image_shape is \(28, 28\); expected"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected"),
        ({"label_smoothing": -0.5}, "label_smoothing is -0.5; expected"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaselineCNN(**GRAY | options)


QuickFit = Callable[..., ExperimentCLI]


@pytest.fixture
def from_yaml(quick_fit: QuickFit, tmp_path: Path) -> Callable[..., BaselineCNN]:
    """The network of a YAML file, trained for two small steps by the real command line."""

    def run(model: dict[str, Any]) -> BaselineCNN:
        path = tmp_path / "network.yaml"
        path.write_text(yaml.safe_dump({"model": model}))
        cli = quick_fit(
            f"--config={path}",
            "--data.batch_size=8",
            "--data.eval_batch_size=50",
            "--trainer.logger=false",
            f"--checkpoint.dirpath={tmp_path}",
            "--test_best=false",
            batches=2,
        )
        assert cli.trainer.global_step == 2
        assert cli.trainer.callback_metrics["train/loss"].isfinite()
        return cli.model

    return run


def test_every_option_comes_from_yaml(from_yaml: Callable[..., BaselineCNN]) -> None:
    network = from_yaml(
        {
            "class_path": "BaselineCNN",
            "init_args": {
                "width": 3,
                "depth": 3,
                "kernel_size": 5,
                "hidden_size": 6,
                "activation": {
                    "class_path": "torch.nn.LeakyReLU",
                    "init_args": {"negative_slope": 0.2},
                },
                "norm": "group",
                "norm_hidden": False,
                "dropout": 0.25,
                "order": "pool-norm-activation",
                "channels_last": True,
                "preprocessing": "MinMaxScaling",
            },
        }
    )
    expected = []
    for channels_in, channels in ((1, 3), (3, 6), (6, 12)):
        expected += [
            f"Conv2d {channels_in} {channels} 5 5",
            "MaxPool 2 2",
            f"GroupNorm 1 {channels}",
            "LeakyReLU 0.2",
        ]
    expected += [
        "Flatten",
        "Linear 108 6",
        "LeakyReLU 0.2",
        "Identity",
        "Dropout 0.25",
        "Linear 6 10",
    ]
    assert layers(network) == expected
    assert isinstance(network.preprocessing, MinMaxScaling)


@pytest.mark.parametrize("activation", ["torch.nn.GELU", "torch.nn.Tanh"])
def test_an_activation_is_named_by_its_class_alone(
    from_yaml: Callable[..., BaselineCNN], activation: str
) -> None:
    network = from_yaml(
        {"class_path": "OptimizedCNN", "init_args": {"activation": activation, "width": 2}}
    )
    name = activation.rsplit(".", 1)[1]
    assert layers(network).count(name) == 3


@pytest.mark.parametrize(
    ("argument", "messages"),
    [
        ("--model.kernel_size=4", ["kernel_size is 4; expected an odd number"]),
        ("--model.depth=9", ["depth is 9, but 28x28 pixels"]),
        ("--model.order=pool-activation", ["order", "pool-activation", "pool-norm-activation"]),
        ("--model.norm=spectral", ["norm", "spectral", "instance"]),
        ("--model.widht=3", ["widht"]),
    ],
)
def test_the_command_line_refuses_a_bad_value_with_its_name_and_no_traceback(
    quick_fit: QuickFit,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    messages: list[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        quick_fit("--model=BaselineCNN", argument)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert all(message in error for message in messages), error
    assert "Traceback" not in error


@pytest.mark.parametrize("residual", [0, 1])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_deepest_network_trains_with_every_norm_in_every_order(
    norm: Any, order: Any, residual: int
) -> None:
    if norm == "instance" and (residual or order.index("pool") < order.index("norm")):
        # One pixel is left, which cannot be normalized by itself: refused before training.
        with pytest.raises(ValueError, match=r"norm is 'instance', but"):
            BaselineCNN(**GRAY, depth=4, width=1, norm=norm, order=order, residual=residual)
        return
    network = BaselineCNN(**GRAY, depth=4, width=1, norm=norm, order=order, residual=residual)
    network.training_loss(network(images()), torch.tensor([0, 1, 2])).backward()


@pytest.mark.parametrize("norm", [None, *NORMS[1:]])
def test_a_last_batch_of_one_image_trains_without_batch_norm(norm: Any) -> None:
    network = BaselineCNN(**GRAY, norm=norm, width=2)
    network.training_loss(network(images(1)), torch.tensor([0])).backward()


def test_a_last_batch_of_one_image_with_batch_norm_ends_with_what_to_do(
    quick_fit: QuickFit, capsys: pytest.CaptureFixture[str]
) -> None:
    eleven = "--data.train_fraction=0.0002"
    normed = ("--model=OptimizedCNN", "--model.width=2", "--model.norm_hidden=true")
    with pytest.raises(SystemExit) as stop:
        quick_fit(*normed, eleven, "--data.batch_size=10")
    assert stop.value.code == 2
    assert "drop_last" in capsys.readouterr().err
