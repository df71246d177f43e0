"""Runs of a queue's trials, one after another, each with its end recorded."""

import gc
import os
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from lightning.pytorch.utilities import rank_zero_only
from optuna.trial import TrialState

from experiment.main import leave_process_group
from foundation.errors import UserError
from foundation.interruption import APART, at_once
from foundation.whole_file import write
from studies.queue.queue import Lost, Queue
from studies.queue.storage import STORAGE_ERRORS
from studies.training import NoSuchMetricError, SeveralProcesses

# What ends a trial without being its fault.
NOT_A_FAILURE = (
    SeveralProcesses,
    NoSuchMetricError,
    Lost,
    optuna.exceptions.UpdateFinishedTrialError,
    *STORAGE_ERRORS,
)


@dataclass
class Outcome:
    """The end of a trial.

    Args:
        state: complete, pruned or failed.
        value: of the objective, where it is complete.
        attrs: what else is kept with the trial.
    """

    state: TrialState
    value: float | None = None
    attrs: dict[str, Any] = field(default_factory=dict)


class Runner:
    """Run a queue's trials in this process, one after another.

    A trial that trains in several processes (DDP) runs in processes of its own: Lightning starts
    them by running a command again, and the command is ``trial``, whose parameters are drawn
    already.

    Args:
        queue: where the trials come from, and where their results go.
        folder: of the study.
        again: the command that runs a trial, whose id follows.
        environment: of that command; this process's unless given.
    """

    def __init__(
        self,
        queue: Queue,
        folder: Path,
        again: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.queue = queue
        self.folder = folder
        self.again = list(again)
        self.environment = environment

    def queued(self, trial_id: int) -> dict[str, Any]:
        """The parameters that the trial was queued with."""
        return self.queue.storage.get_trial(trial_id).system_attrs["fixed_params"]

    def prepare(self, trial_id: int) -> None:
        """Choose what the trial does, and write it down."""
        self.queue.storage.set_trial_user_attr(trial_id, "values", self.queued(trial_id))

    def train(self, trial_id: int, *, child: bool = False) -> Outcome:
        """Do what was chosen."""
        raise NotImplementedError

    def run_folder(self, trial_id: int) -> Path:
        raise NotImplementedError

    def __call__(self, trial_id: int) -> None:
        """Run a trial, and record its end, whatever it is."""
        began = time.perf_counter()
        try:
            try:
                outcome = self._attempt(trial_id)
            except SeveralProcesses:
                outcome = self._in_processes(trial_id)
            outcome.attrs["seconds"] = time.perf_counter() - began
            self.queue.finish(trial_id, outcome.state, outcome.value, outcome.attrs)
        except (Lost, optuna.exceptions.UpdateFinishedTrialError):
            return  # another worker has it now
        finally:
            gc.collect()  # a trainer and its model hold each other, and the data
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _attempt(self, trial_id: int, *, child: bool = False) -> Outcome:
        """Prepare and train; what that dies of is its outcome."""
        try:
            if not child:
                self.prepare(trial_id)
            return self.train(trial_id, child=child)
        except NOT_A_FAILURE:
            raise
        except Exception as error:
            return self.failed(trial_id, error)

    def failed(self, trial_id: int, error: Exception, **attrs: Any) -> Outcome:
        """One line for the study; the traceback of what no user can have meant goes to a file."""
        reason = str(error).strip().partition("\n")[0][:500]
        if not isinstance(error, UserError):
            reason = f"{type(error).__name__}: {reason}"
            file = self.run_folder(trial_id) / "error.txt"
            write(file, "".join(traceback.format_exception(error)))
        return Outcome(TrialState.FAIL, attrs={"reason": reason, **attrs})

    def _in_processes(self, trial_id: int) -> Outcome:
        log = self.queue.folder / f"trial-{trial_id}.log"
        options = [f"--trial={trial_id}", f"--parent={os.getpid()}"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.again, *options], env=self.environment, stdout=out, stderr=out, **APART
            )
            try:
                with at_once():
                    process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        attrs = self.queue.storage.get_trial(trial_id).user_attrs
        if process.returncode or not attrs.get("outcome"):
            lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            error = UserError(f"its processes ended with {process.returncode}: {lines[-1]}")
            return self.failed(trial_id, error)
        outcome = Outcome(**attrs["outcome"])
        outcome.state = TrialState(outcome.state)
        return outcome

    def run_child(self, trial_id: int) -> None:
        """The command ``trial``: train in this process and those that Lightning adds to it."""
        outcome = asdict(self._attempt(trial_id, child=True))
        failed = outcome["state"] == TrialState.FAIL
        if getattr(rank_zero_only, "rank", 0) != 0 and failed:
            raise SystemExit(1)  # so that Lightning ends the others, who would wait for this one
        outcome["state"] = int(outcome["state"])
        if getattr(rank_zero_only, "rank", 0) == 0:
            self.queue.storage.set_trial_user_attr(trial_id, "outcome", outcome)
        if not failed:
            leave_process_group()
