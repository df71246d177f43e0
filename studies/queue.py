"""The queue of trials that workers share: in a SQLite file, or in a database for many machines.

A study's trials are queued before they run. A worker takes one, and nobody else gets it; when the
worker dies, its trial goes back into the queue. So the number of trials is exact however many
workers and restarts there are, and a grid's cells are neither lost nor run twice.
"""

import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, TrialState, create_trial

from errors import UserError

# Seconds between two signs of life of a worker, and without one until its trial is taken back.
HEARTBEAT, GRACE = 10, 60
# How often a trial may take its worker down with it before it counts as failed.
MAX_TRIES = 3

UNFINISHED = (TrialState.WAITING, TrialState.RUNNING)


def open_storage(url: str) -> RDBStorage:
    """Connect to a database, and make its tables where there are none.

    Raises:
        UserError: there is no such database, driver or permission.
    """
    # Many processes may write one SQLite file: wait for one another instead of failing.
    engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(
            url,
            engine_kwargs=engine,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
        )
    except ImportError as error:
        raise UserError(
            f"--storage {_without_password(url)}: {error}; for PostgreSQL: pip install "
            "'psycopg[binary]', and a URL that begins with postgresql+psycopg://"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise UserError(
            f"--storage {_without_password(url)}: {reason}; expected the URL of a database that "
            "is there, e.g. postgresql+psycopg://user:password@host:5432/name"
        ) from error


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


class Lost(Exception):
    """The trial was taken back from this worker, which had given no sign of life for too long."""


class Queue:
    """A study's trials, as a queue.

    Args:
        study: whose trials they are.
        folder: of the study on this machine; its workers keep a lock each there while they live.
    """

    def __init__(self, study: optuna.Study, folder: Path) -> None:
        self.study = study
        self.storage: RDBStorage = study._storage._backend  # type: ignore[attr-defined]
        self.folder = folder / "workers"
        self.folder.mkdir(parents=True, exist_ok=True)
        # A file system lock is let go by the system when its process ends, however it ends.
        self.life = FileLock(self.folder / f"{platform.node()}-{uuid.uuid4().hex}.lock")
        self.claims = FileLock(self.folder / f"{platform.node()}-claims.lock")

    def __enter__(self) -> "Queue":
        self.life.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.life.release()
        Path(self.life.lock_file).unlink(missing_ok=True)

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def fill(self, trials: Sequence[Mapping[str, Any] | None]) -> None:
        """Queue trials so that there are at least these; None leaves the parameters to the sampler.

        Whoever made the study fills its queue; others that start at the same time wait for it.
        """
        with self.claims:
            for params in trials[len(self.trials()) :]:
                attrs = {} if params is None else {"fixed_params": dict(params)}
                self.study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=attrs))

    def take(self, create: bool = False) -> int | None:
        """Take the next trial.

        Args:
            create: whether a new one is made where none waits.

        Returns:
            The trial's id; None where none waits.
        """
        with self.claims:
            self.take_back()
            for trial in self.trials((TrialState.WAITING,)):
                if self._start(trial._trial_id):
                    break
            else:
                if not create:
                    return None
                trial_id = self.storage.create_new_trial(self.study._study_id)
                self._own(trial_id, 0)
                return trial_id
            self._own(trial._trial_id, trial.user_attrs.get("tries", 0))
            return trial._trial_id

    def _start(self, trial_id: int) -> bool:
        try:
            return self.storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def _own(self, trial_id: int, tries: int) -> None:
        owner = {"host": platform.node(), "lock": str(self.life.lock_file), "pid": os.getpid()}
        self.storage.set_trial_user_attr(trial_id, "owner", owner)
        self.storage.set_trial_user_attr(trial_id, "tries", tries + 1)
        self.storage.record_heartbeat(trial_id)

    def give_back(self, trial_id: int) -> None:
        """Put a trial that did not end back into the queue, with its parameters."""
        with self.claims:
            trial = self.storage.get_trial(trial_id)
            if trial.state == TrialState.RUNNING and self._is_mine(trial):
                tries = trial.user_attrs.get("tries", 1)
                self.storage.set_trial_user_attr(trial_id, "tries", tries - 1)
                self.storage.set_trial_state_values(trial_id, state=TrialState.WAITING)

    def take_back(self) -> None:
        """Queue the trials of dead workers again; one that took several down with it has failed."""
        stale = set(self.storage._get_stale_trial_ids(self.study._study_id))
        for trial in self.trials((TrialState.RUNNING,)):
            if trial._trial_id not in stale and not self._died(trial):
                continue
            tries = trial.user_attrs.get("tries", 1)
            if tries < MAX_TRIES:
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
            else:
                reason = f"its worker died {tries} times (killed, or out of memory)"
                self.storage.set_trial_user_attr(trial._trial_id, "reason", reason)
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    def _died(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is known to be dead: nobody holds its lock."""
        owner = trial.user_attrs.get("owner")
        if owner is None:  # killed between taking the trial and signing for it
            age = datetime.now() - (trial.datetime_start or datetime.now())
            return self._is_local() or age > timedelta(seconds=GRACE)
        if owner["host"] != platform.node() or self._is_mine(trial):
            return False
        lock = FileLock(owner["lock"])
        if not Path(owner["lock"]).exists():
            return True
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        Path(owner["lock"]).unlink(missing_ok=True)
        return True

    def _is_local(self) -> bool:
        return self.storage.url.startswith("sqlite")

    def _is_mine(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner") or {}
        mine = owner.get("lock") == str(self.life.lock_file)
        return mine and owner.get("host") == platform.node()

    @contextmanager
    def working_on(self, trial_id: int) -> Iterator[None]:
        """Give signs of life while a trial runs; one that does not end goes back."""
        try:
            with get_heartbeat_thread(trial_id, self.storage):
                yield
        finally:
            if self.storage.get_trial(trial_id).state == TrialState.RUNNING:
                self.give_back(trial_id)

    def finish(self, trial_id: int, state: TrialState, value: float | None = None) -> None:
        """Record how a trial ended.

        Raises:
            Lost: it was taken back, and may be running elsewhere.
        """
        if not self._is_mine(self.storage.get_trial(trial_id)):
            raise Lost
        number = self.storage.get_trial_number_from_id(trial_id)
        self.study.tell(number, value, state, skip_if_finished=True)


def create_or_load(
    storage: RDBStorage, name: str, direction: Literal["maximize", "minimize"], wait: float = 30.0
) -> tuple[optuna.Study, bool]:
    """The study of that name, and whether this process has just made it.

    A study that another process has just made is waited for until it is ready.
    """
    sampler = RandomSampler()  # the definition brings the real one
    try:
        made = optuna.create_study(
            storage=storage, study_name=name, direction=direction, sampler=sampler
        )
        return made, True
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
    deadline = time.monotonic() + wait
    while not study.user_attrs.get("ready") and time.monotonic() < deadline:
        time.sleep(0.2)
    # Whoever made it died before it was ready: then this process goes on where that one stopped.
    return study, not study.user_attrs.get("ready")
