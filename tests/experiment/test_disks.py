"""Disks that are full or read-only: one line, and nothing half-written."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import sources

REPOSITORY = Path(__file__).parents[2]
SMALL = ("--model=MLP", "--model.hidden_size=4", "--trainer.accelerator=cpu")
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.limit_test_batches=1")


@pytest.fixture
def disk(mount: Callable[[str], Path]) -> Path:
    """A file system of 4 MB."""
    return mount("4m")


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filling").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def start(*args: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *args, *QUIET],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends_with_a_line(process: subprocess.Popen[str]) -> str:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert len(error.splitlines()) == 1, error
    assert error.startswith("train.py: error: ")
    return error


def whole_rows(run: Path) -> int:
    """The number of rows of ``metrics.csv``, each of which has all its columns."""
    text = (run / "metrics.csv").read_text()
    assert text.endswith("\n")
    header, *rows = csv.reader(text.splitlines())
    assert all(len(row) == len(header) for row in rows)
    return len(rows)


def test_a_disk_that_fills_up_ends_a_fit(disk: Path, tmp_path: Path, data_root: Path) -> None:
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}", "--data.batch_size=16"]
    few = ["--trainer.limit_train_batches=100", "--trainer.max_epochs=1000"]
    few += ["--trainer.log_every_n_steps=1", "--trainer.enable_checkpointing=false"]
    process = start("fit", *SMALL, *data, *few, f"--runs_dir={disk}", folder=tmp_path)
    run = disk / "MLP" / "version_0"
    deadline = time.monotonic() + 60
    written = run / "metrics.csv"
    while not (written.exists() and written.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    fill(disk)
    error = ends_with_a_line(process)
    assert f"{run}" in error
    assert "No space left on device" in error
    assert whole_rows(run) > 0
    assert not list(disk.rglob("*.partial"))


@pytest.mark.slow
def test_a_full_disk_keeps_the_predictions_that_were_there(
    disk: Path, tmp_path: Path, data_root: Path
) -> None:
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    few = ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1", f"--runs_dir={disk}"]
    fit = start("fit", *SMALL, *data, *few, folder=tmp_path)
    assert fit.communicate(timeout=120)
    run = disk / "MLP" / "version_0"
    (run / "predictions.csv").write_text("earlier")
    fill(disk)
    predict = start("predict", f"--ckpt_path={run / 'checkpoints/best.ckpt'}", folder=tmp_path)
    assert "No space left on device" in ends_with_a_line(predict)
    assert (run / "predictions.csv").read_text() == "earlier"
    assert not list(disk.rglob("*.partial"))


@pytest.mark.slow
def test_a_read_only_disk(disk: Path, tmp_path: Path, data_root: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    error = ends_with_a_line(start("fit", *SMALL, *data, f"--runs_dir={disk}", folder=tmp_path))
    assert f"{disk}" in error
    assert "Read-only file system" in error


def test_a_data_set_does_not_fit(
    disk: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", data_root / "FashionMNIST/raw")
    with pytest.raises(sources.DataUnavailableError) as stop:
        sources.fetch("FashionMNIST", disk)
    assert "FashionMNIST is not whole under" in str(stop.value)
    assert "No space left on device" in str(stop.value)
    assert len(str(stop.value).splitlines()) == 1
    assert [path.name for path in disk.rglob("*") if path.is_file()] == [".fetch.lock"]


def test_nor_does_what_a_program_fetches(disk: Path) -> None:
    fill(disk)
    with pytest.raises(OSError, match="No space left on device"):
        sources._run(["cp", sys.executable, "copy"], disk)


@pytest.mark.slow
def test_a_full_folder_for_temporary_files_is_not_needed(
    disk: Path, tmp_path: Path, data_root: Path
) -> None:
    fill(disk)
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    few = ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1"]
    fit = start("fit", *SMALL, *data, *few, folder=tmp_path, TMPDIR=str(disk))
    _, error = fit.communicate(timeout=120)
    assert (fit.returncode, error) == (0, "")


def test_a_nul_in_a_path(tmp_path: Path) -> None:
    (tmp_path / "nul.yaml").write_text('model: MLP\nruns_dir: "ru\\0ns"\n')
    error = ends_with_a_line(start("fit", "--config=nul.yaml", folder=tmp_path))
    assert "runs_dir is ru\\0ns" in error
