"""The precision of a run that names none."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import chosen_precision
from callbacks.chosen_precision import ChosenPrecision, bfloat16_speed, choice
from experiment.cli import ExperimentCLI
from foundation.checkout import CONFIGS

Fit = Callable[..., ExperimentCLI]
CPU = torch.device("cpu")
BASE = f"--config={CONFIGS / 'baseline_cnn.yaml'}"


def speed(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    monkeypatch.setattr(chosen_precision, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(chosen_precision, "bfloat16_speed", lambda convolutions: times)


def summary(cli: ExperimentCLI) -> dict[str, Any]:
    return json.loads(Path(cli.trainer.loggers[0].log_dir or "", "summary.json").read_text())


@pytest.mark.parametrize("convolutions", [True, False])
def test_the_question_is_answered_at_once_and_draws_no_random_number(convolutions: bool) -> None:
    bfloat16_speed.cache_clear()
    state, began = torch.get_rng_state(), time.perf_counter()
    assert bfloat16_speed(convolutions) > 0
    assert time.perf_counter() - began < 3  # 0.1 s where nobody else works
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_is_chosen_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    speed(monkeypatch, 2.0)
    assert choice(CPU, True) == ("bf16-mixed", "bfloat16 is 2.00 times as fast here")
    speed(monkeypatch, 0.5)
    assert choice(CPU, True)[0] == "32-true"
    assert choice(torch.device("mps"), True)[0] == "32-true"


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_has_what_its_hardware_has(
    native: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert choice(torch.device("cuda"), True)[0] == precision


@pytest.mark.skipif(sys.platform != "linux", reason="oneDNN's switches of an x86 processor")
def test_a_processor_that_emulates_bfloat16_has_float32() -> None:
    code = (
        "from callbacks.chosen_precision import choice, torch\n"
        "print(choice(torch.device('cpu'), True)[0])"
    )
    emulated = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **emulated},
        cwd=CONFIGS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "32-true\n"


@pytest.mark.parametrize(("times", "precision"), [(2.0, "bf16-mixed"), (0.5, "32-true")])
def test_a_run_says_what_was_chosen_and_its_configuration_leaves_it_open(
    times: float,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    quick_fit: Fit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    speed(monkeypatch, times)
    cli = quick_fit(BASE, batches=1)
    reason = f"bfloat16 is {times:.2f} times as fast here"
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        f"cpu, {precision} (chosen: {reason}), 421,642 parameters, 55,000 train"
    )
    assert first.endswith("run " + str(cli.trainer.loggers[0].log_dir))
    found = summary(cli)
    assert (found["precision"], found["precision_reason"]) == (precision, reason)
    assert found["data"]["images"]["train"] == 55_000
    assert found["data"]["class_names"][0] == "T-shirt/top"
    folder = Path(cli.trainer.loggers[0].log_dir or "")
    assert "  precision: null" in (folder / "config.yaml").read_text()


def test_a_precision_that_is_given_is_obeyed(
    monkeypatch: pytest.MonkeyPatch, quick_fit: Fit
) -> None:
    speed(monkeypatch, 9.0)
    cli = quick_fit(BASE, "--trainer.precision=32-true", batches=1)
    assert cli.trainer.precision == "32-true"
    assert summary(cli)["precision_reason"] is None
    assert not any(isinstance(c, ChosenPrecision) for c in cli.trainer.callbacks)  # type: ignore[attr-defined]


def test_a_resumed_run_keeps_its_precision(monkeypatch: pytest.MonkeyPatch, quick_fit: Fit) -> None:
    speed(monkeypatch, 2.0)
    first = quick_fit(BASE, batches=1)
    last = Path(first.trainer.loggers[0].log_dir or "", "checkpoints", "last.ckpt")
    speed(monkeypatch, 0.5)
    again = quick_fit(BASE, f"--ckpt_path={last}", epochs=2, batches=1)
    assert again.trainer.precision == "bf16-mixed"
    assert summary(again)["precision_reason"] == "as before"
