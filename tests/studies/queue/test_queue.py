"""The queue on real SQLite files: every trial once, whatever dies in between."""

import platform
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from studies.queue.queue import MAX_TRIES, Lost, Queue, create_or_load
from studies.queue.storage import GRACE, alone, open_storage

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

CELLS = [{"width": width, "lr": lr} for width in (8, 16) for lr in (0.1, 1e-3)]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[[], Queue]]:
    """Another worker, with a connection of its own, as another process would have."""
    joined: list[Queue] = []

    def open_queue() -> Queue:
        storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
        queue = Queue(create_or_load(storage, "study", "maximize"), tmp_path)
        queue.life.acquire()
        joined.append(queue)
        return queue

    yield open_queue
    for queue in joined:
        queue.life.release(force=True)
        queue.storage.engine.dispose()


def die(queue: Queue) -> None:
    """What the system does for a process that is killed: its locks open, nothing else happens."""
    queue.life.release()


def state(queue: Queue, trial_id: int) -> TrialState:
    return queue.storage.get_trial(trial_id).state


def silent_since(tmp_path: Path, seconds: int) -> None:
    """Set the last sign of life of all running trials."""
    with sqlite3.connect(tmp_path / "study.db") as database:
        changed = database.execute(
            "update trial_heartbeats set heartbeat = datetime('now', ?)", (f"-{seconds} seconds",)
        )
        assert changed.rowcount > 0


def fixed(queue: Queue) -> list[Any]:
    return [trial.system_attrs.get("fixed_params") for trial in queue.trials()]


def test_filling_stops_anywhere_and_goes_on(join: Callable[[], Queue]) -> None:
    first = join()
    first.fill(CELLS[:2])  # killed here
    second = join()
    second.fill(CELLS)
    second.fill(CELLS)
    assert fixed(second) == CELLS


def test_a_gap_is_filled_and_nothing_twice(join: Callable[[], Queue]) -> None:
    queue = join()
    queue.fill([CELLS[3], CELLS[0]])
    queue.fill(CELLS)
    assert fixed(queue) == [CELLS[3], CELLS[0], CELLS[1], CELLS[2]]


def test_free_trials_are_counted_over_restarts(join: Callable[[], Queue]) -> None:
    join().fill([None] * 2)
    queue = join()
    for number, expected in ((3, 3), (2, 3), (5, 5)):
        queue.fill([None] * number)
        assert len(queue.trials()) == expected
    queue.fill(CELLS)  # a grid after a random search: other trials, none of them left out
    assert fixed(queue)[5:] == CELLS


def test_a_trial_is_taken_once_in_the_order_of_the_queue(join: Callable[[], Queue]) -> None:
    one, two = join(), join()
    one.fill(CELLS)
    taken = [one.take(), two.take(), one.take(), two.take()]
    numbers = [one.storage.get_trial_number_from_id(t) for t in taken if t is not None]
    assert numbers == [0, 1, 2, 3]
    assert one.take() is None
    assert two.take() is None
    assert one.take(create=True) is not None
    assert len(one.trials()) == 5


def test_workers_that_start_at_once_share_a_new_file(join: Callable[[], Queue]) -> None:
    """All make the tables, fill the queue and empty it at the same time."""

    def worker(_: int) -> list[int]:
        queue = join()
        with alone(queue.storage.engine):
            queue.fill([None] * 30)
        taken = []
        while (trial_id := queue.take()) is not None:
            taken.append(trial_id)
            queue.finish(trial_id, TrialState.COMPLETE, 0.5)
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [trial for part in pool.map(worker, range(6)) for trial in part]
    assert len(taken) == 30
    assert max(Counter(taken).values()) == 1
    assert len(join().trials((TrialState.COMPLETE,))) == 30


def test_the_trial_of_a_dead_worker_comes_back(join: Callable[[], Queue]) -> None:
    dead, living = join(), join()
    dead.fill(CELLS[:1])
    trial_id = dead.take()
    assert living.take() is None
    die(dead)
    assert living.take() == trial_id
    assert trial_id is not None
    trial = living.storage.get_trial(trial_id)
    assert trial.user_attrs["tries"] == 2
    assert trial.system_attrs["fixed_params"] == CELLS[0]


def test_a_living_worker_keeps_its_trial_however_silent(
    join: Callable[[], Queue], tmp_path: Path
) -> None:
    """A laptop that slept: all signs of life are old, and the workers go on."""
    one, two = join(), join()
    one.fill(CELLS[:1])
    trial_id = one.take()
    silent_since(tmp_path, 10 * GRACE)
    assert two.take() is None
    assert one.take() is None
    assert trial_id is not None
    one.finish(trial_id, TrialState.COMPLETE, 0.5)
    assert state(two, trial_id) == TrialState.COMPLETE


@pytest.mark.parametrize("name", ["elsewhere", platform.node()])
def test_another_machine_is_judged_by_its_signs_of_life(
    join: Callable[[], Queue], tmp_path: Path, name: str
) -> None:
    """Also one that has this machine's name: its lock is not here."""
    remote, here = join(), join()
    remote.fill(CELLS[:1])
    trial_id = remote.take()
    assert trial_id is not None
    owner = {"host": name, "lock": "/on/another/machine.lock", "pid": 1}
    remote.storage.set_trial_user_attr(trial_id, "owner", owner)
    silent_since(tmp_path, GRACE - 20)
    assert here.take() is None
    silent_since(tmp_path, GRACE + 1)
    assert here.take() == trial_id


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("record_heartbeat", TrialState.WAITING),
        ("set_trial_user_attr", TrialState.WAITING),
        ("set_trial_state_values", TrialState.RUNNING),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_killed_anywhere_while_taking(
    join: Callable[[], Queue],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    left: TrialState,
    before: bool,
) -> None:
    """A trial that runs has its worker's name on it: that one's, and none of an earlier try."""
    first, dead, living = join(), join(), join()
    first.fill(CELLS[:1])
    first.take()
    die(first)
    living.take_back()
    inner = getattr(dead.storage, step)

    def killed(*args: Any, **kwargs: Any) -> None:
        if not before:
            inner(*args, **kwargs)
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(dead.storage, step, killed)
        with pytest.raises(SystemError):
            dead.take()
    trial = living.trials()[0]
    assert trial.state == (TrialState.WAITING if before else left)
    if trial.state == TrialState.RUNNING:
        assert trial.user_attrs["owner"]["lock"] == str(dead.life.lock_file)
        assert living.take() is None
    die(dead)
    assert living.take() == trial._trial_id


# Optuna's ask() does not know of the queue, which sends the heartbeats.
@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used")
def test_a_running_trial_that_nobody_signed_is_taken(join: Callable[[], Queue]) -> None:
    queue = join()
    queue.study.ask()
    assert queue.take() is not None


def test_a_trial_that_kills_its_workers_has_failed(join: Callable[[], Queue]) -> None:
    join().fill(CELLS[:2])
    trial_id = None
    for _ in range(MAX_TRIES):
        victim = join()
        trial_id = victim.take()
        die(victim)
    last = join()
    assert last.take() != trial_id  # the next one
    assert trial_id is not None
    trial = last.storage.get_trial(trial_id)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"].startswith("its worker died 3 times")


def test_an_interruption_is_no_failed_try(join: Callable[[], Queue]) -> None:
    first = join()
    first.fill(CELLS[:1])
    for _ in range(2 * MAX_TRIES):
        queue = join()
        queue.life.release()
        with suppress(KeyboardInterrupt), queue:
            trial_id = queue.take()
            assert trial_id is not None
            with queue.working_on(trial_id):
                assert state(queue, trial_id) == TrialState.RUNNING
                raise KeyboardInterrupt
        (trial,) = queue.trials()
        assert (trial.state, trial.user_attrs["tries"]) == (TrialState.WAITING, 0)
    assert [str(path) for path in queue.folder.glob("*.lock")] == [first.life.lock_file]


def test_interrupted_before_the_trial_began(join: Callable[[], Queue]) -> None:
    queue = join()
    queue.life.release()
    queue.fill(CELLS[:1])
    with suppress(KeyboardInterrupt), queue:
        assert queue.take() is not None
        raise KeyboardInterrupt
    assert [trial.state for trial in queue.trials()] == [TrialState.WAITING]


def test_a_lost_trial_belongs_to_the_other_worker(join: Callable[[], Queue]) -> None:
    slow, other = join(), join()
    slow.fill(CELLS[:1])
    trial_id = slow.take()
    assert trial_id is not None
    die(slow)  # as seen from the other one
    assert other.take() == trial_id
    with pytest.raises(Lost):
        slow.finish(trial_id, TrialState.FAIL, None, {"reason": "of the slow one"})
    slow.give_back(trial_id)
    assert state(other, trial_id) == TrialState.RUNNING
    other.finish(trial_id, TrialState.COMPLETE, 0.7, {"epochs": 3})
    with pytest.raises(Lost):
        slow.finish(trial_id, TrialState.COMPLETE, 0.1)
    trial = other.storage.get_trial(trial_id)
    assert (trial.value, trial.user_attrs["epochs"]) == (0.7, 3)
    assert "reason" not in trial.user_attrs


def test_a_trial_waiting_again_is_lost_too(join: Callable[[], Queue]) -> None:
    slow, other = join(), join()
    slow.fill(CELLS[:1])
    trial_id = slow.take()
    assert trial_id is not None
    die(slow)
    other.take_back()
    with pytest.raises(Lost):
        slow.finish(trial_id, TrialState.COMPLETE, 0.1)
    assert state(other, trial_id) == TrialState.WAITING


def test_parameters_survive_a_death(join: Callable[[], Queue]) -> None:
    dead, living = join(), join()
    dead.fill([None])
    trial_id = dead.take()
    assert trial_id is not None
    dead.study.sampler = optuna.samplers.RandomSampler(seed=1)
    drawn = optuna.Trial(dead.study, trial_id).suggest_float("lr", 0, 1)
    die(dead)
    living.take()
    living.study.sampler = optuna.samplers.RandomSampler(seed=2)
    assert optuna.Trial(living.study, trial_id).suggest_float("lr", 0, 1) == drawn


def test_finished_trials_are_never_taken(join: Callable[[], Queue]) -> None:
    queue = join()
    queue.study.add_trial(create_trial(state=TrialState.FAIL))
    queue.study.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0))
    assert queue.take() is None


def test_a_seed_stays_with_the_kind_of_machine_that_began_it(
    join: Callable[[], Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until nobody of that kind works any more."""
    one, two = join(), join()
    one.fill([{"variant": name, "seed": seed} for seed in (0, 1) for name in ("base", "a")])

    def takes(queue: Queue, kind: str) -> Any:
        monkeypatch.setattr("studies.queue.queue.processor", lambda: kind)
        trial_id = queue.take()
        if trial_id is None:
            return None
        params = queue.storage.get_trial(trial_id).system_attrs["fixed_params"]
        return trial_id, params["variant"], params["seed"]

    first, *of_one = takes(one, "Intel")
    assert of_one == ["base", 0]
    second, *of_two = takes(two, "AMD")
    assert of_two == ["base", 1]
    two.finish(second, TrialState.COMPLETE, 0.5)
    third, *of_two = takes(two, "AMD")
    assert of_two == ["a", 1]
    two.finish(third, TrialState.COMPLETE, 0.5)
    assert takes(two, "AMD") is None  # though a run of seed 0 waits
    one.finish(first, TrialState.COMPLETE, 0.5)
    assert takes(two, "AMD")[1:] == ("a", 0)  # nobody is left who would


def test_what_was_run_elsewhere_is_brought_once(join: Callable[[], Queue]) -> None:
    queue = join()
    queue.fill(CELLS[:1])
    brought = [(cell, 0.5, {"values": cell}) for cell in CELLS[:2]]
    for _ in range(2):
        queue.bring(brought)
        queue.fill(CELLS)
    states = [trial.state.name for trial in queue.trials()]
    assert fixed(queue) == CELLS
    assert states == ["WAITING", "COMPLETE", "WAITING", "WAITING"]
