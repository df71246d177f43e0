"""Training stops where the loss is no number, and the last good checkpoint stays good."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train

SMALL = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16", "--test_best=false")
SGD = (*SMALL, "--model.optimizer=SGD")
STEPS = ("--model.lr_scheduler=StepLR", "--model.lr_scheduler_interval=step")


def assert_finite(path: Path) -> None:
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def stopped(capsys: pytest.CaptureFixture[str], fit: Callable[..., Any], *args: str) -> str:
    """Fit three epochs of four steps, which must end with a message; return it."""
    with pytest.raises(SystemExit) as stop:
        fit(*args, epochs=3)
    assert stop.value.code not in (0, None)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_stops_and_names_the_step_and_the_rate(
    quick_fit: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = stopped(capsys, quick_fit, *SGD, "--model.optimizer.lr=1e10")
    assert re.search(r"loss is (nan|inf) at step [1-4] \(epoch 0, learning rate 1e\+10\)", message)
    assert "no checkpoint was saved yet" in message
    assert "lower learning rate" in message
    assert not list(tmp_path.rglob("*.ckpt"))


def test_keeps_the_last_good_checkpoint(
    quick_fit: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # From the second epoch's second step on, the rate is absurd.
    absurd = ("--model.lr_scheduler.step_size=5", "--model.lr_scheduler.gamma=1e25")
    message = stopped(capsys, quick_fit, *SGD, "--model.optimizer.lr=0.01", *STEPS, *absurd)
    assert "epoch 1" in message
    run = tmp_path / "runs" / "BaselineCNN" / "version_0"
    assert str(run / "checkpoints" / "last.ckpt") in message
    for name in ("best", "last"):
        assert_finite(run / "checkpoints" / f"{name}.ckpt")
    last = str(run / "checkpoints" / "last.ckpt")
    cli = train.main(["validate", f"--ckpt_path={last}"])
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])


def test_weights_broken_by_the_last_step_of_an_epoch_are_not_saved(
    quick_fit: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The eighth step, the second epoch's last, breaks the weights; its own loss is still a number.
    absurd = ("--model.lr_scheduler.step_size=7", "--model.lr_scheduler.gamma=1e30")
    message = stopped(capsys, quick_fit, *SGD, "--model.optimizer.lr=0.01", *STEPS, *absurd)
    assert "learning rate" in message
    checkpoints = list(tmp_path.rglob("*.ckpt"))
    assert {path.name for path in checkpoints} == {"best.ckpt", "last.ckpt"}
    for path in checkpoints:
        assert_finite(path)


def test_a_run_of_one_epoch_that_ends_broken_says_so(
    quick_fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    absurd = ("--model.lr_scheduler.step_size=3", "--model.lr_scheduler.gamma=1e30")
    with pytest.raises(SystemExit):
        quick_fit(*SGD, "--model.optimizer.lr=0.01", *STEPS, *absurd)
    assert "learning rate" in capsys.readouterr().err


def test_a_good_run_is_left_alone(quick_fit: Callable[..., Any]) -> None:
    assert quick_fit(*SMALL, epochs=2).trainer.global_step == 8
