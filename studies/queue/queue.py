"""The queue of trials that workers share: in a SQLite file, or in a database for many machines.

A study's trials are queued before they run. A worker takes one, and nobody else gets it; when the
worker dies, its trial goes back into the queue. So the number of trials is exact however many
workers and restarts there are, and a grid's cells are neither lost nor run twice.
"""

import os
import platform
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from foundation.machine import processor
from studies.queue.patience import StorageAway
from studies.queue.storage import (
    GRACE,
    HEARTBEAT,
    STORAGE_ERRORS,
    PatientStorage,
    alone,
    server_uptime,
)

# How often a trial may take its worker down with it before it counts as failed.
MAX_TRIES = 3


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
        self.storage: PatientStorage = study._storage._backend  # type: ignore[attr-defined]
        self.folder = folder.resolve() / "workers"
        self.folder.mkdir(parents=True, exist_ok=True)
        # A file system lock is let go by the system when its process ends, however it ends.
        self.life = FileLock(self.folder / f"{platform.node()}-{uuid.uuid4().hex}.lock")

    def __enter__(self) -> "Queue":
        self.life.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Put what did not end back into the queue."""
        try:
            for trial in self.trials((TrialState.RUNNING,)):
                self.give_back(trial._trial_id)
        except StorageAway:  # the next worker finds that nobody holds this one's lock
            return
        finally:
            self.life.release()
        Path(self.life.lock_file).unlink(missing_ok=True)

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def unfinished(self) -> list[FrozenTrial]:
        """The trials that run, or are still wanted: a later command may want fewer than before."""
        wanted = self.study.user_attrs.get("wanted")
        return [
            trial
            for trial in self.trials((TrialState.WAITING, TrialState.RUNNING))
            if trial.state == TrialState.RUNNING or wanted is None or trial.number < wanted
        ]

    def total(self) -> int:
        """Number of trials when all are done."""
        return len(self.unfinished()) + sum(trial.state.is_finished() for trial in self.trials())

    def _waiting(self) -> list[FrozenTrial]:
        return [trial for trial in self.unfinished() if trial.state == TrialState.WAITING]

    def fill(self, trials: Sequence[Mapping[str, Any] | None]) -> None:
        """Queue what is missing of these trials; None leaves the parameters to the sampler.

        To be called :func:`alone`.
        """
        there = [trial.system_attrs.get("fixed_params") for trial in self.trials()]
        free = len(there)  # any trial counts where the sampler chooses
        for params in trials:
            if params is None:
                free -= 1
            if free >= 0 if params is None else params in there:
                continue
            attrs = {} if params is None else {"fixed_params": dict(params)}
            self.study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=attrs))

    def bring(self, finished: Sequence[tuple[Mapping[str, Any], float, Mapping[str, Any]]]) -> None:
        """Add what was run elsewhere and is missing here, as complete trials.

        To be called :func:`alone`.

        Args:
            finished: parameters, value and attributes of each.
        """
        there = [trial.system_attrs.get("fixed_params") for trial in self.trials()]
        for params, value, attrs in finished:
            if params not in there:
                trial = create_trial(
                    state=TrialState.COMPLETE,
                    value=value,
                    user_attrs=dict(attrs),
                    system_attrs={"fixed_params": dict(params)},
                )
                self.study.add_trial(trial)

    def take(self, create: bool = False) -> int | None:
        """Take the next trial.

        Args:
            create: whether a new one is made where none waits.

        Returns:
            The trial's id; None where none waits.
        """
        signed: dict[int, int] = {}  # the trials that this call has signed, and their tries

        def attempt() -> int | None:
            with alone(self.storage.engine):
                for trial_id in signed:  # taken, but the server went away before it said so
                    trial = self.storage.get_trial(trial_id)
                    if trial.state == TrialState.RUNNING and self._is_mine(trial):
                        return trial_id
                self.take_back()
                if create and not self._waiting():
                    self.study.add_trial(create_trial(state=TrialState.WAITING))
                while (following := self._next()) is not None:
                    trial_id = following._trial_id
                    tries = signed.setdefault(trial_id, following.user_attrs.get("tries", 0) + 1)
                    self._sign(trial_id, tries)
                    # Not where another worker was faster, which got in when this one's lock was
                    # lost with its connection.
                    if self.storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                        return trial_id
                return None

        return self.storage.patience(attempt)

    def _next(self) -> FrozenTrial | None:
        """The first that waits, of no seed that another kind of machine works on.

        A seed is a block: what is compared under it runs on one kind of machine, where results are
        alike to the last digit; on another only when all of that kind have gone.
        """
        began: dict[Any, str] = {}  # by seed, the kind that began it
        busy: set[str] = set()
        for trial in self.trials():
            seed, machine = _seed(trial), _machine(trial)
            if trial.state != TrialState.WAITING and seed is not None and machine:
                began.setdefault(seed, machine)
                if trial.state == TrialState.RUNNING:
                    busy.add(machine)
        here, left = processor(), None
        for trial in self._waiting():
            kind = began.get(_seed(trial))
            if kind in (None, here):
                return trial
            if kind not in busy:
                left = left or trial
        return left

    def _sign(self, trial_id: int, tries: int) -> None:
        """Before the trial runs, so that none ever runs without a sign of who has it."""
        owner = {"host": platform.node(), "lock": str(self.life.lock_file), "pid": os.getpid()}
        owner["machine"] = processor()
        self.storage.record_heartbeat(trial_id)
        self.storage.set_trial_user_attr(trial_id, "owner", owner)
        self.storage.set_trial_user_attr(trial_id, "tries", tries)

    def give_back(self, trial_id: int) -> None:
        """Put a trial that did not end back into the queue, with its parameters."""
        before: list[int] = []  # its other tries; counted once, however often this begins again

        def attempt() -> None:
            with alone(self.storage.engine):
                trial = self.storage.get_trial(trial_id)
                if trial.state == TrialState.RUNNING and self._is_mine(trial):
                    before.append(trial.user_attrs.get("tries", 1) - 1)
                    self.storage.set_trial_user_attr(trial_id, "tries", before[0])
                    self.storage.set_trial_state_values(trial_id, state=TrialState.WAITING)

        self.storage.patience(attempt)

    def take_back(self) -> None:
        """Queue the trials of dead workers again; one that took several down with it has failed."""
        stale = self._stale()
        for trial in self.trials((TrialState.RUNNING,)):
            if not self._died(trial, trial._trial_id in stale):
                continue
            tries = trial.user_attrs.get("tries", 1)
            if tries < MAX_TRIES:
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
            else:
                reason = f"its worker died {tries} times (killed, or out of memory)"
                self.storage.set_trial_user_attr(trial._trial_id, "reason", reason)
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    def _stale(self) -> set[int]:
        """The running trials whose workers have given no sign of life for too long.

        To a server that was away nobody could give any.
        """
        uptime = server_uptime(self.storage.engine)
        if uptime is not None and uptime < GRACE:
            return set()
        return set(self.storage._get_stale_trial_ids(self.study._study_id))

    def _died(self, trial: FrozenTrial, stale: bool) -> bool:
        """Tell whether a running trial's worker is dead.

        On this machine, where nobody holds its lock; elsewhere, where its last sign of life is old.
        """
        owner = trial.user_attrs.get("owner")
        if owner is None:  # nobody here took it
            return True
        # Two machines may have one name, but not one lock.
        if owner["host"] != platform.node() or not Path(owner["lock"]).exists():
            return stale
        try:
            FileLock(owner["lock"]).acquire(timeout=0).lock.release()
        except Timeout:
            return False
        return True

    def _is_mine(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner") or {}
        return owner.get("lock") == str(self.life.lock_file)

    @contextmanager
    def working_on(self, trial_id: int) -> Iterator[None]:
        """Give signs of life while a trial runs; one that does not end goes back."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(*STORAGE_ERRORS):  # the trial itself will find the storage gone
                    self.storage.record_heartbeat(trial_id)

        try:
            # Optuna's own thread would outlive an interruption that comes while it starts.
            threading.Thread(target=beat, daemon=True).start()
            yield
        finally:
            ended.set()
            with suppress(StorageAway):  # the next worker finds that this one is dead
                self.give_back(trial_id)

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        value: float | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how a trial ended.

        Raises:
            Lost: it was taken back, and may be running elsewhere.
        """
        told = False

        def attempt() -> None:
            nonlocal told
            with alone(self.storage.engine):
                trial = self.storage.get_trial(trial_id)
                if told and trial.state.is_finished() and self._is_mine(trial):
                    return  # recorded, but the server went away before it said so
                if trial.state != TrialState.RUNNING or not self._is_mine(trial):
                    raise Lost
                for name, attr in (attrs or {}).items():
                    self.storage.set_trial_user_attr(trial_id, name, attr)
                told = True
                try:
                    self.study.tell(trial.number, value, state)
                except RuntimeError:
                    # A sampler that has tried everything stops a loop of Optuna's that is not
                    # there.
                    if not self.storage.get_trial(trial_id).state.is_finished():
                        raise

        self.storage.patience(attempt)


def _seed(trial: FrozenTrial) -> Any:
    """The seed that a trial was queued with; None where it was not."""
    return trial.system_attrs.get("fixed_params", {}).get("seed")


def _machine(trial: FrozenTrial) -> str:
    """The kind of machine that took a trial; "" where nobody has."""
    return (trial.user_attrs.get("owner") or trial.user_attrs).get("machine", "")


def create_or_load(
    storage: PatientStorage, name: str, direction: Literal["maximize", "minimize"]
) -> optuna.Study:
    """The study of that name."""
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction=direction,
        sampler=RandomSampler(),  # the definition brings the real one
        load_if_exists=True,
    )
