"""A comparison from its first run to its report."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jsonargparse import Namespace
from typing_extensions import override

from callbacks.chosen_precision import choice
from foundation.errors import UserError
from studies.compare.comparison_definition import ComparisonDefinition, define
from studies.compare.comparison_report import write_report
from studies.compare.comparison_runner import ComparisonRunner, collected
from studies.compare.paired_statistics import Comparison
from studies.progress import StudyProgress
from studies.queue.queue import Queue, create_or_load
from studies.queue.storage import alone, repeated
from studies.runner import Runner
from studies.study import StoredStudy, check_same


class ComparisonStudy(StoredStudy[ComparisonDefinition]):
    """A comparison, its folder and its storage."""

    program = "compare.py"
    definition_type = ComparisonDefinition
    own_setting = "variants"

    @repeated
    def begin(self, definition: ComparisonDefinition) -> Queue:
        """Make the study, or go on with the one that is there; queue what is missing.

        Variants and seeds may be added; what was there stays, and must be as it was.

        Raises:
            UserError: the study that is there compares something else.
        """
        with alone(self.storage.engine):
            study = create_or_load(self.storage, self.name, "maximize")
            was = self.begun(study)
            cells = definition.cells()
            precision = (was.precision if was else None) or _precision_here()
            definition = replace(definition, precision=precision)
            if was is not None:
                _check_same(self.folder, was, definition)
                definition = _joined(was, definition)
            study.set_user_attr("definition", asdict(definition))
            queue = Queue(study, self.folder)
            queue.fill(cells)
        return queue

    def collected(self) -> Comparison:
        """The runs so far."""
        return collected(*self.load())

    def train(self, queue: Queue, *, workers: int, lines: bool = True) -> None:
        """Train what is not trained yet.

        Args:
            queue: of :meth:`begin`.
            workers: processes on this machine.
            lines: whether a run that ends is worth a line.
        """
        if not queue.unfinished():
            return
        progress = StudyProgress(
            "run",
            self.load()[1].metric,
            maximize=True,
            total=len(queue.trials()),
            workers=workers,
            lines=lines,
        )
        self.work_on(queue, "runs", progress, workers=workers)

    @override
    def runner(self, queue: Queue, kind: str) -> Runner:
        again = self.command("trial", queue, kind)
        return ComparisonRunner(queue, self.folder, again, self.environment)


def _precision_here() -> str:
    """The precision that a convolutional network would be given on this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return choice(torch.device(device), convolutions=True)[0]


def _joined(was: ComparisonDefinition, now: ComparisonDefinition) -> ComparisonDefinition:
    """The definition of now, and after it what was there besides."""
    return replace(
        now,
        groups=list(dict.fromkeys([*now.groups, *was.groups])),
        variants=list(dict.fromkeys([*now.variants, *was.variants])),
        seeds=list(dict.fromkeys([*now.seeds, *was.seeds])),
        configs={**now.configs, **was.configs},
    )


def _check_same(folder: Path, was: ComparisonDefinition, now: ComparisonDefinition) -> None:
    """Refuse to go on with other runs than those that are there.

    Raises:
        UserError: names what differs.
    """
    check_same(folder, was, now, ComparisonDefinition.FIXED)
    for key, config in was.configs.items():
        if now.configs.get(key, config) != config:
            raise UserError(
                f"{folder} holds runs of {key.strip('/')} with another configuration, which cannot "
                "be compared with new ones; choose another --name, or remove that folder"
            )


def run(settings: Namespace, command: Sequence[str]) -> ComparisonStudy:
    """Train every variant over every seed, and report."""
    definition = define(settings)
    folder = Path(settings.runs_dir) / definition.name
    comparison = ComparisonStudy(definition.name, folder, settings.storage)
    queue = comparison.begin(definition)
    comparison.save(settings.storage, command)
    try:
        comparison.train(queue, workers=settings.workers)
    finally:
        report(comparison)
    return comparison


def report(comparison: ComparisonStudy) -> Comparison:
    """Write everything a user looks at afterwards into the comparison's folder."""
    found = comparison.collected()
    write_report(found, comparison.folder, comparison.facts())
    return found
