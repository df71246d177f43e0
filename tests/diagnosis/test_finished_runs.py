"""``train.py diagnose`` in a folder that somebody else filled."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagnosis import finished_runs

METRICS = "epoch,step,train/loss,train/accuracy,val/loss,val/accuracy\n" + "".join(
    f"{epoch},{epoch},{1 / epoch},{1 - 0.5 / epoch},{1 / epoch},{1 - 0.5 / epoch}\n"
    for epoch in range(1, 5)
)
CONFIG: dict[str, Any] = {
    "model": {"class_path": "lightning_modules.MLP", "init_args": {}},
    "data": {"class_path": "datamodules.MNISTDataModule", "init_args": {"root": "nowhere"}},
    "trainer": {"max_epochs": 4},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run; it is the current folder's."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def diagnosed(capsys: pytest.CaptureFixture[str], run: Path) -> str:
    """What is printed; one line where the run is refused."""
    capsys.readouterr()
    try:
        finished_runs.main([str(run)])
    except SystemExit as stop:
        assert stop.code == 2  # noqa: PT017
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == (not said.out)
    return said.out + said.err


def test_a_run_is_diagnosed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "fit" in diagnosed(capsys, run)


@pytest.mark.parametrize(
    "data",
    [
        {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "ran"]}},
        {"class_path": "side_effect.Data"},
        {"class_path": "datamodules.MNISTDataModule", "init_args": {"root": {"class_path": "x.y"}}},
        "side_effect.Data",
        3,
    ],
)
def test_no_class_that_is_not_on_the_list_is_made(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    data: Any,
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "side_effect.py").write_text("open('ran', 'w')\nclass Data: pass\n")
    monkeypatch.syspath_prepend(str(site))
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": data}))
    diagnosed(capsys, run)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": 3},
        {"model": {"init_args": {"num_classes": "many"}}},
        {"model": {"init_args": {"width": "wide", "hidden_size": [], "dropout": {}}}},
        {"trainer": ["callbacks"]},
        {"trainer": {"callbacks": 3}},
        {"data": {"init_args": {"augmentation": 3, "batch_size": "x"}}},
    ],
)
def test_junk_in_a_configuration_is_one_line_or_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    (run / "summary.json").write_text(json.dumps({"data": {"class_names": list("abc")}}))
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **change}))
    diagnosed(capsys, run)


@pytest.mark.parametrize(
    "summary", [{"data": 3}, {"data": {"class_names": 5}}, {"nearest_mean_accuracy": "x"}, [1], 3]
)
def test_junk_in_a_summary_is_one_line_or_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], summary: Any
) -> None:
    (run / "summary.json").write_text(json.dumps(summary))
    diagnosed(capsys, run)


def test_nothing_is_written_to_the_terminal_but_text(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = run.rename(run.with_name("\x1b[2Jrun"))
    said = diagnosed(capsys, hostile)
    assert "\x1b" not in said
    (hostile / "config.yaml").write_bytes(b"model: \x1b]0;title\x07\xff\n")
    assert "\x1b" not in diagnosed(capsys, hostile)
