"""What becomes of a trial, however it ends; trainings on real data are in tests/test_search.py."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from foundation.errors import UserError
from studies.queue.queue import Lost, Queue, create_or_load
from studies.queue.storage import open_storage
from studies.runner import Outcome, Runner
from studies.training import SeveralProcesses

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class OneTrial(Runner):
    """A trial whose training is a function."""

    def __init__(self, queue: Queue, training: Callable[[], Any], again: list[str]) -> None:
        super().__init__(queue, queue.folder.parent, again)
        self.training = training

    def prepare(self, trial_id: int) -> None:
        self.queue.storage.set_trial_user_attr(trial_id, "values", {})

    def train(self, trial_id: int, *, child: bool = False) -> Outcome:
        return self.training()

    def run_folder(self, trial_id: int) -> Path:
        return self.folder / "trials" / "0000"


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    queue = Queue(create_or_load(storage, "study", "maximize"), tmp_path)
    queue.fill([None])
    with queue:
        yield queue
    storage.engine.dispose()


def run(queue: Queue, training: Callable[[], Any], again: list[str] | None = None) -> FrozenTrial:
    trial_id = queue.take()
    assert trial_id is not None
    with queue.working_on(trial_id):
        OneTrial(queue, training, again or [])(trial_id)
    return queue.trials()[0]


def raising(error: BaseException) -> Callable[[], Outcome]:
    def training() -> Outcome:
        raise error

    return training


def test_what_was_reached_is_kept(queue: Queue) -> None:
    trial = run(queue, lambda: Outcome(TrialState.COMPLETE, 0.75, {"epochs": 3}))
    assert (trial.state, trial.value, trial.user_attrs["epochs"]) == (TrialState.COMPLETE, 0.75, 3)
    assert 0 < trial.user_attrs["seconds"] < 60


def test_a_pruned_trial_has_its_last_epoch(queue: Queue) -> None:
    def training() -> Outcome:
        queue.storage.set_trial_intermediate_value(1, 2, 0.25)
        return Outcome(TrialState.PRUNED)

    trial = run(queue, training)
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.25)


@pytest.mark.parametrize(
    ("error", "reason", "traceback"),
    [
        (UserError("width is 0\nmore"), "width is 0 more", False),
        (RuntimeError("out of memory\nmore"), "RuntimeError: out of memory", True),
        (MemoryError(), "MemoryError: ", True),
        (KeyError("x" * 9000), "KeyError: '" + "x" * 499, True),
    ],
)
def test_a_failure_has_a_line_and_no_user_s_one_a_traceback(
    queue: Queue, tmp_path: Path, error: Exception, reason: str, traceback: bool
) -> None:
    trial = run(queue, raising(error))
    assert (trial.state, trial.value) == (TrialState.FAIL, None)
    assert trial.user_attrs["reason"] == reason
    file = tmp_path / "trials" / "0000" / "error.txt"
    assert file.is_file() == traceback
    if traceback:
        assert "in training" in file.read_text()


def test_a_sampler_that_fails_fails_the_trial(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*_: object) -> None:
        raise ValueError("no such distribution")

    monkeypatch.setattr(OneTrial, "prepare", prepare)
    trial = run(queue, lambda: Outcome(TrialState.COMPLETE, 1.0))
    assert trial.user_attrs["reason"] == "ValueError: no such distribution"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interruption_is_no_failure(queue: Queue, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(queue, raising(error))
    assert queue.trials()[0].state == TrialState.WAITING


def test_a_storage_that_is_gone_is_not_the_trial_s_failure(queue: Queue) -> None:
    with pytest.raises(optuna.exceptions.StorageInternalError):
        run(queue, raising(optuna.exceptions.StorageInternalError("gone")))
    assert queue.trials()[0].state == TrialState.WAITING


def test_a_lost_trial_is_left_alone(queue: Queue) -> None:
    """Another worker has it: this one neither writes nor stops."""

    def training() -> Outcome:
        queue.storage.set_trial_user_attr(1, "owner", {"host": "elsewhere", "lock": "/x"})
        return Outcome(TrialState.COMPLETE, 0.1, {"epochs": 7})

    trial = run(queue, training)
    assert trial.state == TrialState.RUNNING
    assert "epochs" not in trial.user_attrs
    assert run_lost(queue).state == TrialState.RUNNING


def run_lost(queue: Queue) -> FrozenTrial:
    OneTrial(queue, raising(Lost()), [])(1)
    return queue.trials()[0]


# Trials in processes of their own.


def test_a_process_that_dies_fails_the_trial_with_its_last_words(queue: Queue) -> None:
    code = "import sys; print('NCCL error'); print(); sys.exit(3)"
    trial = run(queue, raising(SeveralProcesses()), [sys.executable, "-c", code])
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "its processes ended with 3: NCCL error"


def test_a_process_without_result_fails_the_trial(queue: Queue) -> None:
    trial = run(queue, raising(SeveralProcesses()), [sys.executable, "-c", ""])
    assert trial.user_attrs["reason"] == "its processes ended with 0: nothing"


def test_the_process_knows_trial_and_parent_and_tells_the_outcome(
    queue: Queue, tmp_path: Path
) -> None:
    code = (
        "import json, sqlite3, sys\n"
        f"assert sys.argv[1:] == ['--trial=1', '--parent={os.getpid()}']\n"
        f"with sqlite3.connect({str(tmp_path / 'study.db')!r}) as database:\n"
        "    outcome = {'state': 1, 'value': 0.5, 'attrs': {'epochs': 2}}\n"
        "    database.execute('insert into trial_user_attributes (trial_id, key, value_json)'\n"
        "        ' values (1, ?, ?)', ('outcome', json.dumps(outcome)))\n"
    )
    trial = run(queue, raising(SeveralProcesses()), [sys.executable, "-c", code])
    assert trial.user_attrs.get("reason") is None
    assert (trial.state, trial.value, trial.user_attrs["epochs"]) == (TrialState.COMPLETE, 0.5, 2)


def test_an_interruption_ends_the_process_too(queue: Queue, tmp_path: Path) -> None:
    """And waits for what it does at its end."""
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    code = (
        "import pathlib, signal, sys\n"
        f"ended = pathlib.Path({str(ended)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(ended.touch()))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "signal.pause()\n"
    )

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(queue, raising(SeveralProcesses()), [sys.executable, "-c", code])
    thread.join()
    assert ended.exists()
    assert queue.trials()[0].state == TrialState.WAITING
