"""Workers on a real queue: in this process, and as processes that are killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from studies.queue.queue import Queue, create_or_load
from studies.queue.storage import open_storage
from studies.queue.workers import work

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

REPOSITORY = Path(__file__).parents[3]
PATIENCE = 60  # seconds until something awaited is a failure


FINISHED = (TrialState.COMPLETE,)

# In this process.


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Callable[[], Queue]]:
    opened: list[Queue] = []

    def join() -> Queue:
        storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
        opened.append(Queue(create_or_load(storage, "study", "maximize"), tmp_path))
        return opened[-1]

    yield join
    for queue in opened:
        queue.life.release(force=True)
        queue.storage.engine.dispose()


def finish(queue: Queue) -> Callable[[int], None]:
    return lambda trial_id: queue.finish(trial_id, TrialState.COMPLETE, 0.5)


def counts(queue: Queue) -> dict[str, int]:
    states = [trial.state.name for trial in queue.trials()]
    return {state: states.count(state) for state in states}


def test_all_trials_are_run_and_told(queues: Callable[[], Queue]) -> None:
    queue = queues()
    queue.fill([None] * 3)
    told: list[int] = []
    work(queue, finish(queue), after=lambda: told.append(len(queue.trials(FINISHED))))
    assert told == [1, 2, 3]
    assert not list(queue.folder.glob("*.lock"))


def test_no_trial_starts_after_the_deadline(queues: Callable[[], Queue]) -> None:
    queue = queues()
    queue.fill([None] * 2)
    deadline = time.monotonic() + 1

    def run(trial_id: int) -> None:
        while time.monotonic() < deadline:
            pass
        finish(queue)(trial_id)

    work(queue, run, deadline=deadline)
    assert counts(queue) == {"COMPLETE": 1, "WAITING": 1}


def test_without_a_number_there_is_always_another_trial(queues: Callable[[], Queue]) -> None:
    queue = queues()
    queue.fill([None])
    work(queue, finish(queue), deadline=time.monotonic() + 0.5, create=True)
    assert len(queue.trials(FINISHED)) > 1
    assert len(queue.trials()) == len(queue.trials(FINISHED))


def test_an_error_gives_the_trial_back(queues: Callable[[], Queue]) -> None:
    queue = queues()
    queue.fill([None] * 2)

    def run(_: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        work(queue, run)
    assert counts(queue) == {"WAITING": 2}
    assert queue.trials()[0].user_attrs["tries"] == 0


def test_who_is_idle_waits_for_the_trials_of_others(
    queues: Callable[[], Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last trial's worker dies while the other has nothing to do: it takes over."""
    dying, idle = queues(), queues()
    idle.fill([None])
    taken, waiting = threading.Event(), threading.Event()
    look = idle.unfinished

    def unfinished() -> list[FrozenTrial]:
        left = look()
        if left and all(trial.state.name == "RUNNING" for trial in left):  # nothing to take
            waiting.set()
        return left

    def die() -> None:
        dying.life.acquire()
        dying.take()
        taken.set()
        waiting.wait(PATIENCE)
        dying.life.release()

    thread = threading.Thread(target=die)
    thread.start()
    assert taken.wait(PATIENCE)
    monkeypatch.setattr(idle, "unfinished", unfinished)
    work(idle, finish(idle))
    thread.join()
    assert waiting.is_set()
    assert [trial.user_attrs["tries"] for trial in idle.trials(FINISHED)] == [2]


# Processes.


STUDY: dict[str, Any] = {
    "base": ["base.yaml"],
    "sampler": "optuna.samplers.GridSampler",
    "space": {
        "model.init_args.hidden_size": {"choices": [4, 8, 16]},
        "model.init_args.optimizer.init_args.lr": {"choices": [0.001, 0.01, 0.1]},
    },
    "confirmation_seeds": [],
}


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = {"root": str(data_root), "train_fraction": 0.01}
    base = {
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "limit_val_batches": 1},
        "model": {"class_path": "MLP"},
        "data": {"class_path": "FashionMNISTDataModule", "init_args": data},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "search.py"), "--config=grid.yaml", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def read(query: str) -> list[Any]:
    try:
        with sqlite3.connect("file:runs/search/grid/study.db?mode=ro", uri=True) as database:
            return [row[0] for row in database.execute(query)]
    except sqlite3.OperationalError:
        return []


def states() -> list[str]:
    return read("select state from trials")


def running() -> list[int]:
    """The processes in which trials run now."""
    return read(
        "select json_extract(value_json, '$.pid') from trial_user_attributes a "
        "join trials t on a.trial_id = t.trial_id where t.state = 'RUNNING' and key = 'owner'"
    )


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, children) if "worker" in command_of(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds processes under /proc"
)


@pytest.mark.slow
@needs_proc
def test_a_killed_workers_trial_goes_to_another(place: Path) -> None:
    process = start("--workers=2")
    killed = wait_for(lambda: list(filter(lives, running())), process)
    os.kill(killed[0], signal.SIGKILL)
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (0, "")
    assert "9 trials: 9 completed." in out
    assert_every_cell_once()


@needs_proc
@pytest.mark.slow
def test_whatever_is_killed_every_cell_is_run_once(place: Path) -> None:
    # The parent is killed in the middle of its trials: its workers end by themselves.
    process = start("--workers=2")
    wait_for(running, process)
    orphans = workers_of(process.pid)
    assert len(orphans) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(lives, orphans)))
    assert "RUNNING" not in states()  # put back
    assert "WAITING" in states()

    # All workers are killed: one line, and the state is clean.
    process = start("--workers=2")
    before = states().count("COMPLETE")
    wait_for(lambda: list(filter(lives, running())), process)
    for worker in workers_of(process.pid):
        os.kill(worker, signal.SIGKILL)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, error
    assert error.startswith("search.py: error: all workers died (worker ")
    assert error.count("\n") == 1
    assert "ended with -9" in error
    assert "the same command goes on" in error
    assert before <= states().count("COMPLETE") < 9

    # One of three is killed: its trial goes to another.
    process = start("--workers=3")
    killed = wait_for(lambda: list(filter(lives, running())), process)
    os.kill(killed[0], signal.SIGKILL)
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (0, "")
    assert "9 trials: 9 completed." in out
    assert_every_cell_once()


def assert_every_cell_once() -> None:
    url = "sqlite:///runs/search/grid/study.db"
    trials = optuna.load_study(study_name="grid", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 9
    assert len({tuple(trial.params.values()) for trial in trials}) == 9
    assert not list(Path("runs/search/grid/workers").glob("*claims*"))
