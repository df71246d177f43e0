"""A search from its first trial to its report."""

import math
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import optuna
import sqlalchemy
import torch
import yaml
from filelock import FileLock
from jsonargparse import Namespace
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t as student_t

from callbacks.run_summary import git_commit
from errors import UserError
from studies.definition import Definition, define
from studies.progress import StudyProgress
from studies.queue import UNFINISHED, Queue, create_or_load, open_storage
from studies.search_report import best_first, write_report
from studies.space import Space
from studies.training import complete_config
from studies.trials import ConfirmationRunner, Runner, TrialRunner
from studies.workers import Workers, work

_ROOT = Path(__file__).parent.parent


class Search:
    """A study, its folder and its storage.

    Args:
        name: of the study in the storage.
        folder: of the study on this machine.
        storage: URL; the folder's own SQLite file unless given.
    """

    def __init__(self, name: str, folder: Path, storage: str | None) -> None:
        self.name = name
        self.folder = folder
        self.url = storage or f"sqlite:///{(folder / 'study.db').resolve()}"
        self.storage = open_storage(self.url)

    def load(self) -> tuple[optuna.Study, Definition]:
        """The study and its definition.

        Raises:
            UserError: there is no such study.
        """
        try:
            study = optuna.load_study(study_name=self.name, storage=self.storage)
        except KeyError as error:
            raise UserError(f"there is no study {self.name} in {self.url}") from error
        return study, Definition(**study.user_attrs["definition"])

    def begin(self, definition: Definition, n_trials: int | None) -> tuple[optuna.Study, Queue]:
        """Make the study, or go on with the one that is there; fill its queue.

        Raises:
            UserError: the study that is there searched something else.
        """
        with FileLock(self.folder / "begin.lock"):
            wait = 0.0 if self.url.startswith("sqlite") else 30.0
            study, mine = create_or_load(self.storage, self.name, definition.direction, wait)
            there = study.user_attrs.get("definition")
            if there is not None:
                _check_same(Definition(**there), definition, self)
            study.set_user_attr("definition", asdict(definition))
            queue = Queue(study, self.folder)
            if definition.is_grid:
                cells = [None if cell is None else cell for cell in Space(definition.space).cells()]
                queue.fill(cells[:n_trials])
            else:
                queue.fill([None] * (n_trials or 0))
            if mine:
                study.set_user_attr("ready", True)
        return study, queue

    def confirmation(self, study: optuna.Study, definition: Definition) -> Queue | None:
        """The queue of the last step's trainings: the winner and the base, each over the seeds.

        Of another winner it is another queue; None where no trial was completed.
        """
        best = best_first(study)
        if not definition.confirmation_seeds or not _complete(best):
            return None
        winner = best[0]
        name = f"{self.name}/confirmation-{winner.number}"
        folder = self.folder / "confirmation"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "begin.lock"):
            confirmed, mine = create_or_load(self.storage, name, "maximize")
            queue = Queue(confirmed, self.folder)
            configs = {"base": definition.full_config, "winner": winner_config(definition, winner)}
            if mine:
                confirmed.set_user_attr("configs", configs)
            queue.fill(
                [
                    {"variant": variant, "seed": seed}
                    for seed in definition.confirmation_seeds
                    for variant in configs
                ]
            )
            if mine:
                confirmed.set_user_attr("ready", True)
        return queue

    def options(self, queue: Queue, kind: str) -> list[str]:
        """What ``search.py worker`` and ``search.py trial`` need to know."""
        return [
            f"--storage={self.url}",
            f"--name={self.name}",
            f"--folder={self.folder}",
            f"--study={queue.study.study_name}",
            f"--kind={kind}",
        ]

    def runner(self, queue: Queue, kind: str, definition: Definition) -> Runner:
        again = [sys.executable, str(_ROOT / "search.py"), "trial", *self.options(queue, kind)]
        again.append("--trial")
        if kind == "confirmation":
            return ConfirmationRunner(queue, self.folder / "confirmation", again)
        return TrialRunner(definition, queue, self.folder, again)


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def _check_same(there: Definition, ours: Definition, search: Search) -> None:
    if there.fingerprint() == ours.fingerprint():
        return
    for name in Definition.FIXED:
        if getattr(there, name) != getattr(ours, name):
            what = "the base configuration" if name == "config" else name
            was, now = getattr(there, name), getattr(ours, name)
            values = "" if name == "config" else f" ({was} then, {now} now)"
            raise UserError(
                f"{search.folder} holds a study with another value of {what}{values}: its trials "
                "cannot be compared with new ones; choose another --name, or remove that folder"
            )


def winner_config(definition: Definition, trial: FrozenTrial) -> str:
    """The base configuration, without the proxy's overlays, with a trial's values."""
    space = Space(definition.space)
    chosen = space.arguments(space.values(trial.params))
    return complete_config([f"--config={definition.full_config}", *chosen])


def trial_config(definition: Definition, trial: FrozenTrial) -> str:
    """The complete configuration of a trial: ``train.py fit`` with it repeats the trial."""
    _, options = definition.arguments(optuna.trial.FixedTrial(trial.params))
    return complete_config([*options, f"--seed_everything={definition.seeds[0]}"])


def run(settings: Namespace, command: Sequence[str]) -> None:
    """Search, confirm, report."""
    definition = define(settings)
    if settings.n_trials is None and settings.timeout is None and not definition.is_grid:
        raise UserError("n_trials and timeout are not set; give one, e.g. --n_trials 10")
    folder = Path(settings.runs_dir) / definition.name
    folder.mkdir(parents=True, exist_ok=True)
    search = Search(definition.name, folder, settings.storage)
    deadline = None if settings.timeout is None else time.monotonic() + settings.timeout
    study, queue = search.begin(definition, settings.n_trials)
    _save(search, command)
    endless = settings.n_trials is None and not definition.is_grid
    try:
        progress = StudyProgress(
            "trial",
            definition.metric,
            maximize=definition.direction == "maximize",
            total=None if endless else len(queue.trials()),
            workers=settings.workers,
        )
        _run_queue(search, "trials", queue, definition, settings, progress, deadline, endless)
        finished = endless or not queue.trials(UNFINISHED)
        confirmation = search.confirmation(study, definition) if finished else None
        if confirmation is not None:
            total = len(confirmation.trials())
            progress = StudyProgress(
                "run", "test/accuracy", maximize=True, total=total, workers=settings.workers
            )
            _run_queue(search, "confirmation", confirmation, definition, settings, progress)
    finally:
        report(search, study, definition)


def _run_queue(
    search: Search,
    kind: str,
    queue: Queue,
    definition: Definition,
    settings: Namespace,
    progress: StudyProgress,
    deadline: float | None = None,
    endless: bool = False,
) -> None:
    with progress:

        def show() -> None:
            progress.update(queue.trials())

        show()
        if settings.workers == 1:
            runner = search.runner(queue, kind, definition)
            work(queue, runner, deadline=deadline, create=endless, after=show)
            return
        options = search.options(queue, kind)
        if deadline is not None:
            options += [f"--seconds={deadline - time.monotonic()}"]
        if endless:
            options += ["--endless=true"]
        workers = Workers(settings.workers, options, search.folder / "workers" / "log.txt")
        try:
            workers.watch(queue, show)
        finally:
            workers.stop()
            show()


def run_worker(options: Namespace, parent: int) -> None:
    """Work on a queue that ``search.py`` has filled; see :class:`studies.workers.Workers`."""
    queue, runner = _attach(options)
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    work(queue, runner, deadline=deadline, create=options.endless, parent=parent)


def run_child(options: Namespace) -> None:
    """Train one trial in several processes; see :class:`studies.trials.Runner`."""
    _, runner = _attach(options)
    runner.run_child(options.trial)


def _attach(options: Namespace) -> tuple[Queue, Runner]:
    search = Search(options.name, Path(options.folder), options.storage)
    _, definition = search.load()
    study = optuna.load_study(study_name=options.study, storage=search.storage)
    queue = Queue(study, search.folder)
    return queue, search.runner(queue, options.kind, definition)


def _save(search: Search, command: Sequence[str]) -> None:
    """What ``search.py show`` needs to find the study again; no password goes into a file."""
    url = sqlalchemy.engine.make_url(search.url).render_as_string(hide_password=True)
    place = {"name": search.name, "storage": url, "command": shlex.join(command)}
    (search.folder / "study.yaml").write_text(yaml.safe_dump(place, sort_keys=False))


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
    for trial in _complete(runs.get_trials(deepcopy=False)):
        values = trial.user_attrs["values"]
        reached[values["variant"]][values["seed"]] = trial.value or 0.0
    seeds = sorted({seed for by_seed in reached.values() for seed in by_seed})
    if not seeds:
        return None
    base, winner = reached.values()
    pairs = [winner[seed] - base[seed] for seed in seeds if seed in base and seed in winner]
    difference: dict[str, float | None] = {"mean": None, "low": None, "high": None}
    if pairs:
        difference["mean"] = mean = statistics.fmean(pairs)
        if len(pairs) > 1:
            half = float(student_t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs)
            half /= math.sqrt(len(pairs))
            difference |= {"low": mean - half, "high": mean + half}
    return {
        "variants": {name: [by.get(seed) for seed in seeds] for name, by in reached.items()},
        "seeds": seeds,
        "difference": difference,
        "config": runs.user_attrs["configs"]["winner"],
    }


def report(search: Search, study: optuna.Study, definition: Definition) -> dict[str, Any] | None:
    """Write everything a user looks at afterwards into the study's folder."""
    best = _complete(best_first(study))
    config = trial_config(definition, best[0]) if best else None
    confirmation = confirmed(search, study)
    for name, text in (
        ("best.yaml", config),
        ("winner.yaml", confirmation["config"] if confirmation else None),
    ):
        if text is not None:
            (search.folder / name).write_text(text)
    place = yaml.safe_load((search.folder / "study.yaml").read_text())
    facts = {
        "command": place["command"],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}, optuna {optuna.__version__}",
        "commit": git_commit() or "unknown",
    }
    write_report(study, search.folder, config, confirmation, facts)
    return confirmation


def find(study: str, storage: str | None, runs_dir: str) -> Search:
    """The study in a folder, or of a name under ``runs_dir``.

    Raises:
        UserError: there is none.
    """
    folder = next((f for f in (Path(study), Path(runs_dir, study)) if f.is_dir()), None)
    file = folder / "study.yaml" if folder else None
    if folder is None or file is None or not file.is_file():
        there = sorted(str(path.parent) for path in Path(runs_dir).glob("*/study.yaml"))
        raise UserError(
            f"--study {study}: there is no study.yaml in such a folder; "
            + (f"there are {', '.join(there)}" if there else f"there is no study in {runs_dir}")
        )
    place = yaml.safe_load(file.read_text())
    return Search(place["name"], folder, storage or place["storage"])
