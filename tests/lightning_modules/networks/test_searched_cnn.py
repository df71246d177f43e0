"""The network that a string describes: its layers, its size, and which strings are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from experiment.cli import ExperimentCLI
from lightning_modules import BaselineCNN, SearchedCNN

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

# By hand: conv 1→32 and its norm, conv 32→64 and its norm, linear 3136→128, linear 128→10.
DEFAULT_PARAMETERS = (320 + 64) + (64 * 32 * 9 + 64 + 128) + (3136 * 128 + 128) + 1290


def describe(layer: nn.Module) -> str:
    numbers: list[object]
    match layer:
        case nn.Conv2d():
            assert layer.stride == (1, 1)
            numbers = [layer.in_channels, layer.out_channels, *layer.kernel_size]
        case nn.Linear():
            numbers = [layer.in_features, layer.out_features]
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            numbers = [layer.num_features]
        case nn.MaxPool2d() | nn.AvgPool2d():
            numbers = [layer.kernel_size, layer.stride]
        case nn.Dropout():
            numbers = [layer.p]
        case _:
            numbers = []
    return " ".join(map(str, [type(layer).__name__, *numbers]))


def layers(network: SearchedCNN) -> list[str]:
    return [describe(layer) for layer in (*network.features, *network.head)]


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def images(n: int = 3, shape: tuple[int, int, int] = (1, 28, 28)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)


def test_the_default_is_the_textbook_network_with_batch_norm() -> None:
    network = SearchedCNN(**GRAY)
    assert layers(network) == [
        "Conv2d 1 32 3 3",
        "BatchNorm2d 32",
        "ReLU",
        "MaxPool 2 2",
        "Conv2d 32 64 3 3",
        "BatchNorm2d 64",
        "ReLU",
        "MaxPool 2 2",
        "Flatten",
        "Linear 3136 128",
        "ReLU",
        "Linear 128 10",
    ]
    assert parameters(network) == DEFAULT_PARAMETERS == 421_834


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("conv4k1", ["Conv2d 1 4 1 1", "Flatten", "Linear 3136 10"]),
        (
            "conv4k5-pool-drop25-gelu",
            ["Conv2d 1 4 5 5", "MaxPool 2 2", "Dropout 0.25", "GELU", "Flatten", "Linear 784 10"],
        ),
        (
            "conv2k3-avgpool-silu-elu-bn",
            [
                "Conv2d 1 2 3 3",
                "AvgPool2d 2 2",
                "SiLU",
                "ELU",
                "BatchNorm2d 2",
                "Flatten",
                "Linear 392 10",
            ],
        ),
        ("fc16", ["Flatten", "Linear 784 16", "ReLU", "Linear 16 10"]),
        ("fc16-tanh", ["Flatten", "Linear 784 16", "Tanh", "Linear 16 10"]),
        (
            "fc16-drop50|fc8-bn-gelu",
            [
                "Flatten",
                "Linear 784 16",
                "ReLU",
                "Dropout 0.5",
                "Linear 16 8",
                "BatchNorm1d 8",
                "GELU",
                "Linear 8 10",
            ],
        ),
    ],
    ids=str,
)
def test_each_word_is_its_layer(architecture: str, expected: list[str]) -> None:
    network = SearchedCNN(**GRAY, architecture=architecture)
    assert layers(network) == expected
    logits = network(images())
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()


def test_the_baseline_as_a_string_computes_what_the_baseline_does() -> None:
    searched = SearchedCNN(**GRAY, architecture="conv32k3-relu-pool|conv64k3-relu-pool|fc128")
    baseline = BaselineCNN(**GRAY)
    assert parameters(searched) == parameters(baseline)
    with torch.no_grad():
        for ours, theirs in zip(searched.parameters(), baseline.parameters(), strict=True):
            ours.copy_(theirs)
    assert torch.equal(searched(images()), baseline(images()))


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_only_pooling_shrinks(kernel: int) -> None:
    features = SearchedCNN(
        **GRAY, architecture=f"conv2k{kernel}-pool|conv3k{kernel}-avgpool"
    ).features
    assert features(torch.rand(2, 1, 28, 28)).shape == (2, 3, 7, 7)


def test_the_images_and_classes_are_arguments() -> None:
    network = SearchedCNN(architecture="conv4k3-pool|fc5", image_shape=(3, 9, 6), num_classes=7)
    assert layers(network)[0] == "Conv2d 3 4 3 3"
    assert layers(network)[3:] == ["Linear 48 5", "ReLU", "Linear 5 7"]  # 4 channels of 4×3
    assert network(images(2, (3, 9, 6))).shape == (2, 7)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("conv2k3-gelu|fc8-tanh", nn.GELU),
        ("conv2k3|fc8-tanh", nn.Tanh),
        ("conv2k3|fc8", nn.ReLU),
        ("conv2k3-silu-bn|conv2k3-elu", nn.SiLU),
        ("conv2k3-bn-pool-drop5", type(None)),
    ],
)
def test_the_initializer_learns_the_first_activation(
    architecture: str, expected: type[nn.Module]
) -> None:
    assert type(SearchedCNN(**GRAY, architecture=architecture).gain_activation()) is expected


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("convv32k3", r"token 1 of stage 1, 'convv32k3', is unknown: did you mean conv32k3\? "),
        ("conv32k3-rleu", r"token 2 of stage 1, 'rleu', is unknown: did you mean relu\? "),
        ("conv32k3|fc8-GELU", r"token 2 of stage 2, 'GELU', is unknown: did you mean gelu\? "),
        ("conv32k3 -bn", r"token 1 of stage 1, 'conv32k3 ', is unknown: did you mean conv32k3\? "),
        ("conv32", r"'conv32', is unknown: did you mean conv<channels>k<odd kernel>\? "),
        ("conv8k3-xyz", "'xyz', is unknown: expected one of conv<channels>k<odd kernel>, fc<units"),
        ("", "token 1 of stage 1, '', is empty: expected one of conv<channels>"),
        ("conv8k3|", "token 1 of stage 2, '', is empty: expected one of conv<channels>"),
        ("conv8k3--bn", "token 2 of stage 1, '', is empty: expected one of conv<channels>"),
        ("conv8k4", "token 1 of stage 1, 'conv8k4', has an even kernel: .* e.g. conv8k5"),
        ("conv8k0", "'conv8k0', has an even kernel: expected an odd one, e.g. conv8k1"),
        ("conv0k3", "'conv0k3', has no channels: expected at least 1"),
        ("conv8k3|fc0", "token 1 of stage 2, 'fc0', has no units: expected at least 1"),
        ("fc8-drop0", "token 2 of stage 1, 'drop0', drops 0 %: expected 0 < percent < 100"),
        ("fc8-drop100", "'drop100', drops 100 %: expected 0 < percent < 100"),
        ("bn-conv8k3", "token 1 of stage 1, 'bn', cannot begin a stage: expected conv<channels>"),
        ("conv8k3-conv8k3", r"token 2 of stage 1, 'conv8k3', begins a layer .* expected \| before"),
        ("fc8|conv8k3", "token 1 of stage 2, 'conv8k3', comes after an fc stage: expected it bef"),
        ("conv8k3|fc8-pool", "token 2 of stage 2, 'pool', comes after an fc, .*: expected it in"),
        (
            "|".join(["conv2k3-pool"] * 5),
            "token 2 of stage 5, 'pool', cannot halve 1x1 pixels: expected",
        ),
    ],
)
def test_a_bad_string_is_refused_with_the_word_and_its_place(
    architecture: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        SearchedCNN(**GRAY, architecture=architecture)
    assert str(refused.value).startswith(f"architecture {architecture!r}: ")
    assert "\n" not in str(refused.value)


def test_a_narrow_image_limits_the_poolings() -> None:
    SearchedCNN(num_classes=10, architecture="conv2k3-pool", image_shape=(1, 28, 3))
    with pytest.raises(ValueError, match="token 3 of stage 1, 'pool', cannot halve 14x1 pixels"):
        SearchedCNN(num_classes=10, architecture="conv2k3-pool-pool", image_shape=(1, 28, 3))


QuickFit = Callable[..., ExperimentCLI]


def test_it_trains_from_yaml_and_loads_from_its_checkpoint(
    quick_fit: QuickFit, tmp_path: Path
) -> None:
    path = tmp_path / "network.yaml"
    architecture = "conv2k5-avgpool-bn-silu|conv3k3-pool-drop10|fc6-tanh"
    model = {"class_path": "SearchedCNN", "init_args": {"architecture": architecture}}
    path.write_text(yaml.safe_dump({"model": model}))
    cli = quick_fit(f"--config={path}", "--data.batch_size=8", "--test_best=false", batches=2)
    assert cli.trainer.global_step == 2
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    loaded = SearchedCNN.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    assert layers(loaded) == layers(cli.model)
    assert torch.equal(loaded(images()), cli.model.eval()(images()))


def test_the_command_line_refuses_a_bad_string_without_a_traceback(
    quick_fit: QuickFit, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        quick_fit("--model=SearchedCNN", "--model.architecture=convv32k3-relu")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "did you mean conv32k3?" in error
    assert "Traceback" not in error
