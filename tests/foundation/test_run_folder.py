"""Which run a checkpoint belongs to, which one is the newest, and which ones are refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiment.checkpoint import check_fits
from foundation.checkpoint_file import read_checkpoint
from foundation.errors import UserError
from foundation.run_folder import newest_checkpoint, run_folder
from lightning_modules import BaselineCNN, OptimizedCNN

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}


def place(path: Path, age: float = 0) -> Path:
    """An empty checkpoint in a run's folder, ``age`` seconds old."""
    path.parent.mkdir(parents=True)
    path.touch()
    (path.parent.parent / "config.yaml").touch()
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_run_folder_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place(tmp_path / "runs" / "x" / "version_3" / "checkpoints" / "best.ckpt")
    assert run_folder(path) == tmp_path / "runs" / "x" / "version_3"
    monkeypatch.chdir(path.parent)
    assert run_folder(Path("best.ckpt")) == tmp_path / "runs" / "x" / "version_3"


def test_a_checkpoint_alone_has_no_run(tmp_path: Path) -> None:
    path = place(tmp_path / "runs" / "x" / "version_3" / "checkpoints" / "best.ckpt")
    alone = path.rename(tmp_path / "best.ckpt")
    assert run_folder(alone) is None
    (tmp_path / "runs" / "x" / "version_3" / "config.yaml").unlink()
    assert run_folder(path) is None


def test_newest_by_time_not_by_number(tmp_path: Path) -> None:
    older = place(tmp_path / "a" / "version_10" / "checkpoints" / "best.ckpt", age=20)
    newer = place(tmp_path / "a" / "version_9" / "checkpoints" / "best.ckpt", age=10)
    deep = place(tmp_path / "mnist" / "b" / "version_0" / "checkpoints" / "best.ckpt", age=5)
    assert newest_checkpoint(tmp_path, "a", "best") == newer != older
    assert newest_checkpoint(tmp_path, "mnist/b", "best") == deep
    assert newest_checkpoint(tmp_path, None, "best") == deep


@pytest.mark.parametrize("experiment", [None, "x"])
def test_no_checkpoint_at_all(tmp_path: Path, experiment: str | None) -> None:
    with pytest.raises(UserError, match=r"last.*fit first"):
        newest_checkpoint(tmp_path, experiment, "last")


def test_fitting_weights_are_accepted() -> None:
    model = BaselineCNN(**GRAY, width=4)
    check_fits({"state_dict": model.state_dict()}, BaselineCNN(**GRAY, width=4), Path("x.ckpt"))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (BaselineCNN(**GRAY, width=5), r"\(4, 1, 3, 3\).*\(5, 1, 3, 3\)|\(4,\).*\(5,\)"),
        (OptimizedCNN(**GRAY, width=4), "missing"),
    ],
)
def test_other_weights_are_refused(other: torch.nn.Module, difference: str) -> None:
    weights = BaselineCNN(**GRAY, width=4).state_dict()
    with pytest.raises(UserError, match=difference) as error:
        check_fits({"state_dict": weights}, other, Path("x.ckpt"))  # type: ignore[arg-type]
    assert "x.ckpt" in str(error.value)
    assert type(other).__name__ in str(error.value)


def test_checkpoints_hold_data_only(quick_fit: Callable[..., Any], tmp_path: Path) -> None:
    quick_fit("--model=OptimizedCNN", "--model.width=4", "--test_best=false")
    run = tmp_path / "runs" / "OptimizedCNN" / "version_0"
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt")  # weights_only=True
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert yaml.safe_load(checkpoint["config"]) == saved
    assert saved["model"]["init_args"]["width"] == 4
    assert saved["experiment"] == "OptimizedCNN"
