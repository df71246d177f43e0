"""The benchmarks of speed: contestants train the same networks, and short runs end in a table."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import commands, ddp, scaling, step, throughput, time_to_accuracy
from benchmarks.contestants import TutorialLoop, tutorial_mlp, tutorial_network, tutorial_run
from benchmarks.step import GRAY_28
from lightning_modules import MLP, OptimizedCNN
from lightning_modules.image_classifier import cpp_compiler

SHORT = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
)


def report(folder: Path, name: str) -> dict[str, Any]:
    assert (folder / f"{name}.md").read_text().startswith(f"`python -m benchmarks.{name[:4]}")
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("plain", "ours"),
    [(tutorial_network(), OptimizedCNN(**GRAY_28)), (tutorial_mlp(), MLP(**GRAY_28))],
)
def test_contestants_train_the_same_network(plain: nn.Module, ours: nn.Module) -> None:
    theirs, own = ([layer for layer in net.modules() if _computes(layer)] for net in (plain, ours))
    assert [str(layer) for layer in theirs] == [
        str(layer).replace("MaxPool(", "MaxPool2d(") for layer in own
    ]


def _computes(layer: nn.Module) -> bool:
    """No container, no metric, nothing that passes its input on."""
    passes = isinstance(layer, nn.Identity) or (isinstance(layer, nn.Dropout) and layer.p == 0)
    return type(layer).__module__.startswith(("torch.nn", "lightning_modules.layers")) and not (
        passes or isinstance(layer, nn.Sequential | nn.ModuleList)
    )


def test_the_tutorials_weights_are_he_uniform() -> None:
    for layer in tutorial_network().children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = (6 / layer.weight[0].numel()) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is not None
            assert not layer.bias.any()


def test_the_tutorials_rate_halves_after_six_epochs_without_gain() -> None:
    loop = TutorialLoop(nn.Linear(1, 2))
    rates = []
    for loss in (1.0, *[2.0] * 7):
        loop.losses = [loss]
        loop.end_epoch()
        rates.append(loop.optimizer.param_groups[0]["lr"])
    assert rates == [0.001] * 6 + [0.0005] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "contestants"),
    [
        pytest.param(network, list(every), id=network)
        for network, every in throughput.CONTESTANTS.items()
    ],
)
def test_throughput(
    network: str,
    contestants: list[str],
    tmp_path: Path,
    data_root: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = [f"--network={network}", f"--root={data_root}", f"--results={tmp_path}"]
    expected = [
        name for name in contestants if "compiled" not in name or shutil.which(cpp_compiler())
    ]
    throughput.main([*given, "--turns=1", "--images=512", "--contestants", *expected])
    speeds = report(tmp_path, f"throughput_{network}")["images_per_second"]
    assert list(speeds) == expected
    assert all(speed > 0 for each in speeds.values() for speed in each)
    shown = capfd.readouterr().out
    for name in speeds:
        assert f"| {name} | " in shown


@pytest.mark.slow
def test_the_tutorials_run_learns(data_root: Path) -> None:
    torch.manual_seed(0)
    found = tutorial_run(str(data_root), epochs=2, images=3200)
    assert found["seconds"] == pytest.approx(sum(found["epoch_seconds"]))
    assert 0.6 < found["accuracy"][0] < found["accuracy"][1] < 0.9


@pytest.mark.slow
def test_time_to_accuracy(tmp_path: Path, data_root: Path) -> None:
    given = [f"--root={data_root}", f"--results={tmp_path}", "--trainer.limit_test_batches=1"]
    time_to_accuracy.main([*given, "--seeds=1", "--epochs=1", "--images=64", *SHORT])
    found = report(tmp_path, "time_to_accuracy")
    (theirs,), (ours,) = found["tutorial"], found["speedrun"]
    assert 0 < theirs["seconds"] < theirs["wall_seconds"]
    assert 0 < ours["seconds"] < ours["wall_seconds"]
    ratio = theirs["seconds"] / ours["seconds"]
    text = (tmp_path / "time_to_accuracy.md").read_text()
    assert f"| ratio of the means | | {ratio:.1f} | " in text
    assert f"| 1 | {theirs['accuracy'][0]:.4f} ± 0.0000 | {theirs['seconds']:.1f} |" in text


def test_throughput_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        throughput.main(["--network=mlp", "--contestants", "bare loop"])
    assert "--contestants has ['bare loop']; expected some of" in capsys.readouterr().err


@pytest.mark.slow
def test_commands(tmp_path: Path, data_root: Path) -> None:
    given = [f"--root={data_root}", f"--results={tmp_path}", "--turns=1", "--fits=1"]
    commands.main([*given, *SHORT, "--trainer.limit_test_batches=1"])
    turns = report(tmp_path, "commands")["turns"]
    assert list(turns) == [commands.IMPORT, commands.HELP, commands.MLP, commands.FIT]
    for (turn,) in turns.values():
        assert turn["seconds"] > 0.5
        assert turn["MB"] > 0
    assert turns[commands.MLP][0]["seconds"] > turns[commands.IMPORT][0]["seconds"]


@pytest.mark.slow
def test_ddp(tmp_path: Path, data_root: Path) -> None:
    given = [f"--root={data_root}", f"--results={tmp_path}", "--turns=1", "--images=1024"]
    ddp.main(given)
    found = report(tmp_path, "ddp")["images_per_second"]
    assert list(found) == ["tutorial", "configs/optimized_cnn.yaml"]
    text = (tmp_path / "ddp.md").read_text()
    for network, by_batch in found.items():
        assert list(by_batch) == ["256", "1024"]
        for batch, by_name in by_batch.items():
            (one,), (two,) = by_name.values()
            assert one > 0
            assert f"| {network} | {batch} | {one:,.0f} ({one:,.0f} to" in text
            assert f"| {two:,.0f} ({two:,.0f} to {two:,.0f}) | {two / one:.2f} |" in text


def test_step(tmp_path: Path) -> None:
    step.main(["--turns=1", "--steps=2", "--batch=32", "--size=256", f"--results={tmp_path}"])
    found = report(tmp_path, "step")
    # Two convolutions and two linear layers, forwards and, but for the image's own gradient, twice
    # backwards; a multiplication and an addition each.
    conv, second, hidden, last = 9 * 32 * 784, 9 * 32 * 64 * 196, 3136 * 128, 1280
    assert found["flops_per_step"]["tutorial"] == 2 * 32 * (2 * conv + 3 * (second + hidden + last))
    for shares in found["shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["convolution"] > 0.05
        assert shares["other"] < 0.2


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::max_pool2d_with_indices_backward", "pooling"),
        ("autograd::engine::evaluate_function: ToCopyBackward0", "autograd's own"),
        ("aten::_to_copy", "copies, casts, fills"),
        ("aten::native_batch_norm", "batch norm"),
        ("aten::clamp_min", "activation, dropout"),
        ("aten::lerp_", "optimizer"),
        ("aten::index", "other"),
    ],
)
def test_operators_are_of_their_kind(operator: str, kind: str) -> None:
    assert step.kind_of(operator) == kind


def test_scaling(tmp_path: Path, data_root: Path) -> None:
    given = [f"--root={data_root}", f"--results={tmp_path}"]
    scaling.main([*given, "--turns=1", "--images=64", "--most=8"])
    found = report(tmp_path, "scaling")
    assert list(found["width"]["images_per_second"]) == ["8"]
    assert list(found["depth"]["images_per_second"]) == ["1", "2", "3", "4"]
    work = found["depth"]["flops_per_image"]
    assert work["4"] > 0
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "speeds", "work", "end"),
    [
        ("batch size", [100, 180, 200, 201], [1, 1, 1, 1], 4),
        ("batch size", [100, 200, 400, 800], [1, 1, 1, 1], None),
        ("width", [400, 200, 60, 15], [1, 2, 8, 32], 4),
        ("training set, times", [100, 99, 80, 60], [1, 1, 1, 1], 2),
    ],
)
def test_where_it_stops(name: str, speeds: list[float], work: list[float], end: int | None) -> None:
    assert scaling.stops(name, [1, 2, 4, 8], speeds, work) == end
