"""The progress bar shows what one looks for, and nothing else."""

import re
from pathlib import Path

import pytest

import train


def test_bar_shows_loss_accuracy_and_speed(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    model = ["--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16"]
    limits = ["--trainer.limit_train_batches=25", "--trainer.limit_val_batches=1"]
    options = ["--trainer.max_epochs=1", "--test_best=false", f"--runs_dir={tmp_path}"]
    train.main(["fit", *data, *model, *limits, *options])
    captured = capsys.readouterr()
    last = (captured.out + captured.err).replace("\r", "\n")
    bars = [line for line in last.splitlines() if line.startswith("Epoch 0: 100%")]
    assert "25/25" in bars[-1]
    for metric in (r"loss=\d", r"val/loss=\d", r"val/accuracy=0\.\d", r"images/s=\d+[,\]]"):
        assert re.search(metric, bars[-1])
    assert "v_num" not in last
