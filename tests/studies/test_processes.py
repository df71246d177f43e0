"""Processes of a study: what they import, what they need of the system, what they are given."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.search.search_study import Search
from studies.study import STORAGE

REPOSITORY = Path(__file__).parents[2]
BASE: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
    },
    "model": {"class_path": "MLP", "init_args": {"hidden_size": 4}},
    "data": {"class_path": "FashionMNISTDataModule", "init_args": {"train_fraction": 0.01}},
}
SEARCH = {
    "base": "base.yaml",
    "n_trials": 1,
    "confirmation_seeds": [],
    "space": {"model.init_args.dropout": {"choices": [0.1, 0.2]}},
}
COMPARISON = {"base": "base.yaml", "seeds": [0], "variants": {"a": "model.init_args.dropout=0.5"}}

# One study's trials, run as its workers run them.
WORKER = """
import sys
import foundation, studies
from {module} import {kind} as Kind
from {definition} import define, {parser} as parser

settings = parser().parse_args(["--config=study.yaml"])
definition = define(settings)
stored = Kind("study", __import__("pathlib").Path("runs"), None)
begun = stored.begin(definition{more})
queue = begun[1] if isinstance(begun, tuple) else begun
from studies.queue.workers import work
work(queue, stored.runner(queue, "trials"))
assert {{trial.state.name for trial in queue.trials()}} == {{"COMPLETE"}}, queue.trials()
print(sorted(name for name in sys.modules if name.partition(".")[0] == "matplotlib"))
"""


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = {**BASE["data"], "init_args": {"root": str(data_root), "train_fraction": 0.01}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**BASE, "data": data}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["search", "comparison"])
def test_a_worker_imports_no_matplotlib(place: Path, what: str) -> None:
    search = what == "search"
    Path("study.yaml").write_text(yaml.safe_dump(SEARCH if search else COMPARISON))
    package = "search" if search else "compare"
    code = WORKER.format(
        module=f"studies.{package}.{what}_study",
        kind="Search" if search else "ComparisonStudy",
        definition=f"studies.{package}.{what}_definition",
        parser=f"{what}_parser",
        more=", 1" if search else "",
    )
    assert python(code) == "[]"
    assert python("import search, compare, sys; print('matplotlib' in sys.modules)") == "False"


@pytest.mark.slow
def test_without_what_only_posix_has_a_study_runs_in_one_process(place: Path) -> None:
    Path("study.yaml").write_text(yaml.safe_dump(SEARCH))
    missing = ["SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "SIGSTOP", "pause"]
    code = f"""
import os, signal
import foundation, studies, optuna
from lightning.pytorch.trainer.connectors import signal_connector
signal_connector._IS_WINDOWS = True  # where Lightning asks for fewer signals
signal.valid_signals = lambda: {{signal.SIGINT, signal.SIGTERM}}
for name in {missing}:
    delattr(signal, name)
for name in ("sched_getaffinity", "getppid", "fork", "setsid", "killpg", "getpgid"):
    delattr(os, name)
import search
search.main(["--config=study.yaml"])
"""
    assert "tensorboard --logdir" in python(code)
    assert Path("runs/search/study/report.html").is_file()


def test_a_storage_s_password_goes_to_further_processes_alone(tmp_path: Path) -> None:
    stored = Search("study", tmp_path, None)
    assert STORAGE not in os.environ
    assert stored.environment == {**os.environ, STORAGE: stored.url}
    stored.storage.engine.dispose()
