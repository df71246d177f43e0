"""The benchmark of throughput: contestants train the same network, and a short run ends."""

import json
from pathlib import Path

import pytest

from benchmarks.contestants import tutorial_network
from benchmarks.throughput import CONTESTANTS, main
from lightning_modules import OptimizedCNN


def test_contestants_train_the_same_network() -> None:
    plain, ours = (
        [tuple(weight.shape) for weight in model.parameters()]
        for model in (tutorial_network(), OptimizedCNN())
    )
    assert plain == ours


def test_a_short_run(tmp_path: Path, data_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["--turns=1", "--images=512", f"--root={data_root}", f"--results={tmp_path}"])
    shown = capfd.readouterr().out
    speeds = json.loads((tmp_path / "throughput.json").read_text())["images_per_second"]
    assert list(speeds) == list(CONTESTANTS)
    assert all(speed > 0 for each in speeds.values() for speed in each)
    for name in CONTESTANTS:
        assert f"| {name} | " in shown
