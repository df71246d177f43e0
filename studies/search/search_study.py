"""A search from its first trial to its report."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from jsonargparse import Namespace
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from foundation.errors import UserError
from foundation.whole_file import write
from studies.compare.paired_statistics import t_interval
from studies.progress import StudyProgress
from studies.queue.queue import Queue, create_or_load
from studies.queue.storage import alone, repeated
from studies.runner import Runner
from studies.search.search_definition import SearchDefinition, define
from studies.search.search_report import best_first, write_report
from studies.search.search_runner import ConfirmationRunner, TrialRunner
from studies.search.space import Space
from studies.study import StoredStudy, check_same
from studies.training import complete_config


class Search(StoredStudy[SearchDefinition]):
    """A search, its folder and its storage."""

    program = "search.py"
    definition_type = SearchDefinition
    own_setting = "space"

    @repeated
    def begin(
        self, definition: SearchDefinition, n_trials: int | None
    ) -> tuple[optuna.Study, Queue]:
        """Make the study, or go on with the one that is there; fill its queue.

        Raises:
            UserError: the study that is there searched something else.
        """
        # Done again from the start by the next one where this process dies in between.
        with alone(self.storage.engine):
            study = create_or_load(self.storage, self.name, definition.direction)
            was = self.begun(study)
            if was is not None:
                check_same(self.folder, was, definition, SearchDefinition.FIXED)
            study.set_user_attr("definition", asdict(definition))
            queue = Queue(study, self.folder)
            if definition.is_grid:
                queue.fill(list(Space(definition.space).cells())[:n_trials])
            else:
                queue.fill([None] * (n_trials or 0))
            study.set_user_attr("wanted", n_trials)
        return study, queue

    @repeated
    def confirmation(self, study: optuna.Study, definition: SearchDefinition) -> Queue | None:
        """The queue of the last step's trainings: the winner and the base, each over the seeds.

        Of another winner it is another queue; None where no trial was completed.
        """
        best = best_first(study)
        if not definition.confirmation_seeds or not _complete(best):
            return None
        winner = best[0]
        name = f"{self.name}/confirmation-{winner.number}"
        with alone(self.storage.engine):
            confirmed = create_or_load(self.storage, name, "maximize")
            queue = Queue(confirmed, self.folder)
            configs = {"base": definition.full_config, "winner": winner_config(definition, winner)}
            confirmed.set_user_attr("configs", configs)
            queue.fill(
                [
                    {"variant": variant, "seed": seed}
                    for seed in definition.confirmation_seeds
                    for variant in configs
                ]
            )
        return queue

    @override
    def runner(self, queue: Queue, kind: str) -> Runner:
        again = self.command("trial", queue, kind)
        if kind == "confirmation":
            folder = self.folder / "confirmation"
            return ConfirmationRunner(queue, folder, again, self.environment)
        return TrialRunner(self.load()[1], queue, self.folder, again, self.environment)


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def winner_config(definition: SearchDefinition, trial: FrozenTrial) -> str:
    """The base configuration, without the proxy's overlays, with a trial's values."""
    space = Space(definition.space)
    chosen = space.arguments(space.values(trial.params))
    return complete_config([f"--config={definition.full_config}", *chosen])


def trial_config(definition: SearchDefinition, trial: FrozenTrial) -> str:
    """The complete configuration of a trial: ``train.py fit`` with it repeats the trial."""
    space = Space(definition.space)
    options = definition.options(space.arguments(space.values(trial.params)))
    return complete_config([*options, f"--seed_everything={definition.seeds[0]}"])


def run(settings: Namespace, command: Sequence[str]) -> Search:
    """Search, confirm, report."""
    definition = define(settings)
    if settings.n_trials is None and settings.timeout is None and not definition.is_grid:
        raise UserError("n_trials and timeout are not set; give one, e.g. --n_trials 10")
    folder = Path(settings.runs_dir) / definition.name
    search = Search(definition.name, folder, settings.storage)
    deadline = None if settings.timeout is None else time.monotonic() + settings.timeout
    study, queue = search.begin(definition, settings.n_trials)
    search.save(settings.storage, command)
    endless = settings.n_trials is None and not definition.is_grid
    try:
        progress = StudyProgress(
            "trial",
            definition.metric,
            maximize=definition.direction == "maximize",
            total=None if endless else queue.total(),
            workers=settings.workers,
        )
        search.work_on(
            queue,
            "trials",
            progress,
            workers=settings.workers,
            deadline=deadline,
            endless=endless,
        )
        finished = endless or not queue.unfinished()
        confirmation = search.confirmation(study, definition) if finished else None
        if confirmation is not None:
            total = len(confirmation.trials())
            progress = StudyProgress(
                "run", "test/accuracy", maximize=True, total=total, workers=settings.workers
            )
            search.work_on(confirmation, "confirmation", progress, workers=settings.workers)
    finally:
        report(search, study, definition)
    return search


def confirmed(search: Search, study: optuna.Study) -> dict[str, Any] | None:
    """The result of the last step; None where there is none yet.

    The difference is winner - base, paired by seed, with a 95% interval of Student's t.
    """
    best = _complete(best_first(study))
    if not best:
        return None
    try:
        name = f"{search.name}/confirmation-{best[0].number}"
        runs = optuna.load_study(study_name=name, storage=search.storage)
    except KeyError:
        return None
    reached: dict[str, dict[int, float]] = {"base": {}, "winner": {}}
    finished = [trial for trial in runs.get_trials(deepcopy=False) if trial.state.is_finished()]
    for trial in _complete(finished):
        values = trial.system_attrs["fixed_params"]
        reached[values["variant"]][values["seed"]] = trial.value or 0.0
    seeds = sorted({trial.system_attrs["fixed_params"]["seed"] for trial in finished})
    if not seeds:
        return None
    base, winner = reached.values()
    pairs = [winner[seed] - base[seed] for seed in seeds if seed in base and seed in winner]
    difference: dict[str, Any] = {"mean": None, "low": None, "high": None, "n": len(pairs)}
    if pairs:
        difference["mean"] = statistics.fmean(pairs)
        if len(pairs) > 1:
            difference["low"], difference["high"] = t_interval(pairs)
    return {
        "variants": {name: [by.get(seed) for seed in seeds] for name, by in reached.items()},
        "seeds": seeds,
        "difference": difference,
        "config": runs.user_attrs["configs"]["winner"],
    }


def report(search: Search, study: optuna.Study, definition: SearchDefinition) -> None:
    """Write everything a user looks at afterwards into the study's folder."""
    best = _complete(best_first(study))
    config = trial_config(definition, best[0]) if best else None
    confirmation = confirmed(search, study)
    for name, text in (
        ("best.yaml", config),
        ("winner.yaml", confirmation["config"] if confirmation else None),
    ):
        path = search.folder / name
        if text is None:
            path.unlink(missing_ok=True)  # of an earlier winner
        else:
            write(path, text)
    write_report(study, search.folder, config, confirmation, search.facts())
