"""Images per second: the counts are right, and only training is timed."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer

from callbacks import Throughput
from datamodules import FashionMNISTDataModule
from lightning_modules import BaselineCNN

SMALL = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16")


class SlowValidation(Callback):
    """Takes its time with everything but training."""

    def on_validation_epoch_start(self, *_: Any) -> None:
        time.sleep(0.6)


@pytest.fixture
def data(data_root: Path) -> FashionMNISTDataModule:
    return FashionMNISTDataModule(str(data_root), batch_size=128, train_fraction=0.01)


def fit(data: FashionMNISTDataModule, *callbacks: Callback, epochs: int) -> None:
    Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    ).fit(BaselineCNN(width=4, hidden_size=16), datamodule=data)


def test_counts_every_image_once(data: FashionMNISTDataModule) -> None:
    speed = Throughput()
    fit(data, speed, epochs=2)
    assert speed.images == 2 * 550  # four full batches and one of 38, twice


def test_times_only_training(data: FashionMNISTDataModule) -> None:
    speed = Throughput()
    start = time.perf_counter()
    fit(data, speed, SlowValidation(), epochs=2)
    assert 0 < speed.seconds < time.perf_counter() - start - 2 * 0.6


def test_is_logged_once_per_epoch(quick_fit: Callable[..., Any], tmp_path: Path) -> None:
    quick_fit(*SMALL, "--test_best=false", epochs=2, batches=3)  # fewer than log_every_n_steps
    run = tmp_path / "runs" / "BaselineCNN" / "version_0"
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["train/images_per_second"]) for row in rows if row["val/loss"] == ""]
    assert len(logged) == 2
    # The whole run's speed is a mean of the epochs' speeds.
    overall = json.loads((run / "summary.json").read_text())["images_per_second"]
    assert min(logged) <= overall * 1.001
    assert max(logged) >= overall * 0.999
