"""Matplotlib is imported when a metric is plotted."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PLOT = """
import torch, torchmetrics
metric = torchmetrics.classification.MulticlassConfusionMatrix(2)
metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
figure, _ = metric.plot()
assert len(figure.axes) == 1
"""
IMPORTED = "import torchmetrics, sys; print('matplotlib' in sys.modules)"


def output(code: str) -> str:
    command = [sys.executable, "-c", f"import foundation\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_it_is_needed() -> None:
    """Without the fault the workaround can go."""
    assert output(IMPORTED) == "True"


def test_a_metric_still_plots() -> None:
    mended = "import foundation.workarounds.torchmetrics_plots"
    assert output(f"{mended}\n{IMPORTED}\n{PLOT}") == "False"
