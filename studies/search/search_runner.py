"""Runs of a search: its trials, and the trainings of its confirmation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from foundation.errors import UserError
from studies.names import short_names
from studies.queue.queue import Queue
from studies.runner import NOT_A_FAILURE, Outcome, Runner
from studies.search.search_definition import SearchDefinition
from studies.search.space import Space
from studies.training import EpochReport, FitCLI

# What a schedule such as ReduceLROnPlateau looks at where there is no validation.
_MONITOR = "train/loss"


class TrialRunner(Runner):
    """Run a search's trials; a trial's run is ``trials/<number>`` in the study's folder."""

    def __init__(
        self,
        definition: SearchDefinition,
        queue: Queue,
        folder: Path,
        again: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(queue, folder, again, environment)
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
        except NOT_A_FAILURE:
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
        config = self.queue.study.user_attrs["configs"][values["variant"]]
        options = [
            f"--config={config}",
            f"--seed_everything={values['seed']}",
            "--data.init_args.val_size=0",
            f"--model.init_args.lr_scheduler_monitor={_MONITOR}",
            "--test_best=true",
        ]
        cli = FitCLI(options, self.run_folder(trial_id), keep=True, child=child)
        summary = cli.run_summary.summary
        attrs = {"epochs": summary.get("epochs"), "summary": summary}
        return Outcome(TrialState.COMPLETE, summary["test"]["test/accuracy"], attrs)
