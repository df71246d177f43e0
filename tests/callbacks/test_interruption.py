"""A signal stops a run between two batches; the rest of its promises are in test_ends.py."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from experiment.cli import ExperimentCLI
from foundation.interruption import Interrupted, at_once, later

SMALL = ("--model=MLP", "--model.hidden_size=4", "--trainer.accelerator=cpu")

# Sends this process a signal in the middle of an epoch's third batch.
SENDING = """
import os
import signal
from lightning import Callback

class Sending(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_the_batch_is_done_and_the_epoch_is_not(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sending.py").write_text(SENDING)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted) as stop, later(), at_once():
        quick_fit(*SMALL, "--trainer.callbacks+=sending.Sending", epochs=3)
    assert stop.value.number == signal.SIGTERM
    rows = (tmp_path / "runs/MLP/version_0/metrics.csv").read_text()
    header, *epochs = rows.splitlines()
    val = header.split(",").index("val/loss")
    assert len([row for row in epochs if row.split(",")[val]]) == 1
    text = (tmp_path / "runs/MLP/version_0/summary.json").read_text()
    assert '"interrupted": {\n    "signal": "SIGTERM",\n    "epoch": 2,\n    "step": 7' in text


def test_without_a_signal_it_changes_nothing(quick_fit: Callable[..., ExperimentCLI]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with later(), at_once():
        assert quick_fit(*SMALL, epochs=2).trainer.global_step == 8
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
