"""Run folders are claimed once, and their metrics go to TensorBoard and to a CSV file."""

import csv
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foundation.run_logger import RunLogger


def read(run: str) -> list[dict[str, str]]:
    with open(Path(run) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_claims_at_once_get_different_folders(tmp_path: Path) -> None:
    together = Barrier(16)

    def claim(_: int) -> str:
        logger = RunLogger(str(tmp_path), "deep/experiment")
        together.wait()
        return logger.log_dir

    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(claim, range(16)))
    wanted = {str(tmp_path / "deep" / "experiment" / f"version_{n}") for n in range(16)}
    assert set(folders) == wanted
    assert all(Path(folder).is_dir() for folder in folders)


def claim_many(save_dir: str, together: Any, claimed: Any) -> None:
    together.wait()
    claimed.put([RunLogger(save_dir, "x").version for _ in range(20)])


def test_processes_at_once_get_different_folders(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, claimed = context.Barrier(2), context.Queue()
    arguments = (str(tmp_path), together, claimed)
    processes = [context.Process(target=claim_many, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    versions = [version for _ in processes for version in claimed.get(timeout=60)]
    assert sorted(versions) == list(range(40))


def test_a_gap_in_the_numbers_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "x" / "version_4").mkdir(parents=True)
    assert RunLogger(str(tmp_path), "x").version == 5


def test_metrics_go_to_both_files(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path), "x")
    logger.log_metrics({"val/loss": 0.5, "epoch": 0}, step=10)
    logger.log_metrics({"train/loss": 0.25}, step=20)
    logger.finalize("success")
    rows = read(logger.log_dir)
    assert [row["step"] for row in rows] == ["10", "20"]
    assert (rows[0]["val/loss"], rows[0]["train/loss"]) == ("0.5", "")
    assert (rows[1]["val/loss"], rows[1]["train/loss"]) == ("", "0.25")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(20, 0.25)]


@pytest.mark.parametrize("name", ["val/loss", "val/new"])
def test_an_existing_run_goes_on_in_its_file(tmp_path: Path, name: str) -> None:
    first = RunLogger(str(tmp_path), "x")
    first.log_metrics({"val/loss": 0.5}, step=1)
    first.finalize("success")
    again = RunLogger(str(tmp_path), "x", "version_0")
    assert again.log_dir == first.log_dir
    again.log_metrics({name: 0.125}, step=2)
    again.finalize("success")
    rows = read(again.log_dir)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert (rows[0]["val/loss"], rows[1][name]) == ("0.5", "0.125")
