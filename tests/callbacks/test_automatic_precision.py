"""The precision of a run that was given none, on this processor and on an emulated laptop."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.plugins import MixedPrecision, Precision

from callbacks.automatic_precision import AutomaticPrecision, bfloat16_speedup
from experiment.cli import ExperimentCLI
from foundation.checkout import ROOT

# A processor without bfloat16: kernels obey, whatever the machine has.
LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
FIT = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16")


@pytest.mark.parametrize("convolves", [True, False])
def test_the_look_is_short_and_leaves_the_random_numbers_alone(convolves: bool) -> None:
    bfloat16_speedup.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    began = time.perf_counter()
    assert bfloat16_speedup(convolves) > 0
    assert time.perf_counter() - began < 2  # 0.1 s on an idle machine; tests share it
    assert torch.equal(torch.rand(3), expected)


def test_what_is_not_given_is_chosen_and_stays_unset_in_the_configuration(
    quick_fit: Callable[..., ExperimentCLI],
) -> None:
    cli = quick_fit(*FIT, "--trainer.accelerator=cpu")
    (chosen,) = (c for c in cli.trainer.callbacks if isinstance(c, AutomaticPrecision))  # type: ignore[attr-defined]
    assert chosen.speedup is not None
    expected = "bf16-mixed" if chosen.speedup > 1.05 else "32-true"
    assert cli.trainer.precision == expected
    run = Path(cli.trainer.logger.log_dir)  # type: ignore[union-attr, arg-type]
    assert json.loads((run / "summary.json").read_text())["precision"] == expected
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] is None


@pytest.mark.parametrize(
    ("given", "kind"), [("32-true", Precision), ("bf16-mixed", MixedPrecision)]
)
def test_what_is_given_is_obeyed(
    given: str, kind: type, quick_fit: Callable[..., ExperimentCLI]
) -> None:
    cli = quick_fit(*FIT, "--trainer.accelerator=cpu", f"--trainer.precision={given}")
    assert type(cli.trainer.precision_plugin) is kind


def test_where_bfloat16_is_emulated_it_is_float32(tmp_path: Path, data_root: Path) -> None:
    command = [sys.executable, "train.py", "fit", "--data=FashionMNISTDataModule", *FIT]
    options = [
        f"--data.root={data_root}",
        f"--runs_dir={tmp_path}",
        "--experiment=laptop",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--trainer.limit_val_batches=1",
        "--test_best=false",
    ]
    env = {**os.environ, **LAPTOP}
    subprocess.run([*command, *options], cwd=ROOT, env=env, check=True, capture_output=True)
    summary = json.loads((tmp_path / "laptop" / "version_0" / "summary.json").read_text())
    assert summary["precision"] == "32-true"
