"""How one trial of a study runs, and how one training of its confirmation does."""

import gc
import math
import os
import subprocess
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from lightning.pytorch.utilities import rank_zero_only
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from experiment.main import leave_process_group
from foundation.errors import UserError
from studies.names import short_names
from studies.queue.interruption import at_once
from studies.queue.queue import STORAGE_ERRORS, Lost, Queue
from studies.search.definition import Definition
from studies.search.space import Space
from studies.training import EpochReport, FitCLI, NoSuchMetricError, SeveralProcesses

# What ends a trial without being its fault.
_NOT_A_FAILURE = (
    SeveralProcesses,
    NoSuchMetricError,
    Lost,
    optuna.exceptions.UpdateFinishedTrialError,
    *STORAGE_ERRORS,
)


@dataclass
class Outcome:
    """How a trial ended.

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
    """

    def __init__(self, queue: Queue, folder: Path, again: Sequence[str]) -> None:
        self.queue = queue
        self.folder = folder
        self.again = list(again)

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
        except _NOT_A_FAILURE:
            raise
        except Exception as error:
            return self.failed(trial_id, error)

    def failed(self, trial_id: int, error: Exception, **attrs: Any) -> Outcome:
        """One line for the study; the traceback of what no user can have meant goes to a file."""
        reason = str(error).strip().partition("\n")[0][:500]
        if not isinstance(error, UserError):
            reason = f"{type(error).__name__}: {reason}"
            file = self.run_folder(trial_id) / "error.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(traceback.format_exception(error)))
        return Outcome(TrialState.FAIL, attrs={"reason": reason, **attrs})

    def _in_processes(self, trial_id: int) -> Outcome:
        log = self.queue.folder / f"trial-{trial_id}.log"
        options = [f"--trial={trial_id}", f"--parent={os.getpid()}"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.again, *options],
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C reaches it from here, once
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


class TrialRunner(Runner):
    """Run a search's trials; a trial's run is ``trials/<number>`` in the study's folder."""

    def __init__(
        self, definition: Definition, queue: Queue, folder: Path, again: Sequence[str]
    ) -> None:
        super().__init__(queue, folder, again)
        self.definition = definition
        self.space = Space(definition.space)
        self.names = short_names(parameter.name for parameter in self.space.parameters)
        self.sampler: BaseSampler | None = None
        queue.study.pruner = definition.make_pruner()

    def run_folder(self, trial_id: int) -> Path:
        number = self.queue.storage.get_trial_number_from_id(trial_id)
        return self.folder / "trials" / f"{number:04d}"

    def prepare(self, trial_id: int) -> None:
        study = self.queue.study
        number = self.queue.storage.get_trial_number_from_id(trial_id)
        study.sampler = self.sampler = self.definition.sampler_for(number, self.sampler)
        trial = Trial(study, trial_id)
        trial.set_user_attr("values", self.space.suggest(trial))

    def train(self, trial_id: int, *, child: bool = False) -> Outcome:
        """Train once per seed; the value is the mean of the best epochs."""
        definition = self.definition
        chosen = self.queue.storage.get_trial(trial_id).user_attrs["values"]
        options = definition.options(self.space.arguments(chosen))
        watch = EpochReport(definition.metric, definition.better)
        scores: list[float] = []
        try:
            for seed in definition.seeds:
                # The pruner compares trials by their first seed.
                watch.begin(None if scores else Trial(self.queue.study, trial_id))
                run = self.run_folder(trial_id)
                FitCLI(
                    [*options, f"--seed_everything={seed}"],
                    run.with_name(f"{run.name}-seed{seed}") if len(definition.seeds) > 1 else run,
                    [watch],
                    hparams={self.names[key]: value for key, value in chosen.items()},
                    child=child,
                )
                if watch.best is None:
                    raise UserError("the training ended before its first validation")
                if math.isnan(watch.best):
                    raise UserError(f"{definition.metric} is nan")
                scores.append(watch.best)
                if watch.stopped:
                    break
        except _NOT_A_FAILURE:
            raise
        except Exception as error:
            return self.failed(trial_id, error, epochs=watch.epochs)
        attrs = {"scores": scores, "epochs": watch.epochs}
        if watch.stopped:
            return Outcome(TrialState.PRUNED, None, attrs)
        return Outcome(TrialState.COMPLETE, sum(scores) / len(scores), attrs)


class ConfirmationRunner(Runner):
    """Train a variant on training and validation images, and test it once.

    The queue's trials have the parameters ``variant`` and ``seed``; the variants' configurations
    are the study's attribute ``configs``. A training's run is ``<variant>/seed_<seed>``.
    """

    def run_folder(self, trial_id: int) -> Path:
        values = self.queued(trial_id)
        return self.folder / values["variant"] / f"seed_{values['seed']}"

    def train(self, trial_id: int, *, child: bool = False) -> Outcome:
        values = self.queued(trial_id)
        options = [
            f"--config={self.queue.study.user_attrs['configs'][values['variant']]}",
            f"--seed_everything={values['seed']}",
            "--data.init_args.val_size=0",
            "--model.init_args.lr_scheduler_monitor=train/loss",  # for ReduceLROnPlateau
            "--test_best=true",
        ]
        cli = FitCLI(options, self.run_folder(trial_id), keep=True, child=child)
        summary = cli.run_summary.summary
        attrs = {"epochs": summary.get("epochs"), "summary": summary}
        return Outcome(TrialState.COMPLETE, summary["test"]["test/accuracy"], attrs)
