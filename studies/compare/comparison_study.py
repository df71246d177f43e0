"""A comparison from its first run to its report."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from typing_extensions import override

from callbacks.chosen_precision import choice
from foundation.checkout import found
from foundation.errors import UserError
from foundation.whole_file import write
from foundation.yaml_text import load_yaml
from studies.compare.comparison_definition import ComparisonDefinition, compose, define
from studies.compare.comparison_report import summary, write_report
from studies.compare.comparison_runner import ComparisonRunner, collected, of_runs
from studies.compare.comparison_table import Comparison, Run, rows
from studies.compare.protocol import choose, combination, confirmation, screening
from studies.compare.runs_file import packed, read
from studies.progress import StudyProgress
from studies.queue.queue import Queue, create_or_load
from studies.queue.storage import alone, repeated, without_password
from studies.runner import Runner
from studies.study import StoredStudy, check_same

DEFINITION = "comparison.yaml"


class ComparisonStudy(StoredStudy[ComparisonDefinition]):
    """A comparison, its folder and its storage."""

    program = "compare.py"
    definition_type = ComparisonDefinition
    own_setting = "variants"

    @repeated
    def begin(self, definition: ComparisonDefinition, runs: Sequence[Run] = ()) -> Queue:
        """Make the study, or go on with the one that is there; queue what is missing.

        Variants and seeds may be added; what was there stays, and must be as it was.

        Args:
            definition: of the comparison.
            runs: of it that were trained elsewhere; those that are not its own are left out.

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
            queue.bring(_finished(runs, cells))
            queue.fill(cells)
        return queue

    def collected(self) -> Comparison:
        """The runs so far."""
        return collected(*self.load())

    def save_definition(self) -> None:
        """Write what the runs are about beside them: with ``runs.csv`` it is all there is to it."""
        definition = asdict(self.load()[1])
        text = yaml.safe_dump(definition, sort_keys=False, width=1000, allow_unicode=True)
        write(self.folder / DEFINITION, text)

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


def from_files(folder: Path) -> Comparison:
    """The comparison whose definition and runs lie in a folder, without its storage.

    Raises:
        UserError: a file is not there, or not what a comparison wrote.
    """
    path = folder / DEFINITION
    try:
        definition = ComparisonDefinition(**load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not what a comparison wrote ({error!r})") from error
    return of_runs(definition, read(folder / "runs.csv"))


def earlier_runs(path: str, definition: ComparisonDefinition) -> list[Run]:
    """The runs in a file, which must be of the comparison's own configurations.

    Raises:
        UserError: one is of another configuration; names it.
    """
    runs = read(found(path))
    for run in runs:
        own = definition.digests.get(f"{run.group}/{run.variant}")
        if own is not None and run.config != own:
            raise UserError(
                f"start_from: {path} has runs of {run.variant} with another configuration, which "
                "cannot be compared with new ones; leave start_from out, or bring that back"
            )
    return runs


def _finished(
    runs: Sequence[Run], cells: Sequence[Mapping[str, Any]]
) -> list[tuple[dict[str, Any], float, dict[str, Any]]]:
    """Of those runs that are cells and did not fail: the cell, its value, what is kept with it."""
    brought = []
    for run in runs:
        cell = {"group": run.group, "variant": run.variant, "seed": run.seed}
        accuracy = run.value("test/accuracy")
        if cell in cells and accuracy is not None:
            attrs = {
                "values": cell,
                "epochs": int(run.measured.get("epochs", 0)),
                "machine": run.machine,
                "commit": run.commit,
                "measured": run.measured,
                "curves": run.curves,
                "diagnosis": run.diagnosis,
                "right": None if run.right is None else packed(run.right),
            }
            brought.append((cell, accuracy, attrs))
    return brought


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
        base_seeds=list(dict.fromkeys([*now.base_seeds, *was.base_seeds])),
        configs={**now.configs, **was.configs},
        digests={**now.digests, **was.digests},
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


def run(settings: Namespace, command: Sequence[str]) -> list[ComparisonStudy]:
    """Screen where values are to be tuned, train every variant over every seed, report, combine.

    Returns:
        The comparison, and after it that of the winning combination if there is one.
    """
    definition = define(settings)
    folder = Path(settings.runs_dir) / definition.name
    if settings.screen:
        cells = compose(settings)
        screen, named = screening(settings, definition.name, cells)
        screened = _trained(screen, folder / "screen", settings, command)
        definition = confirmation(settings, choose(settings, cells, screened.collected(), named))
    runs = earlier_runs(settings.start_from, definition) if settings.start_from else []
    comparison = _trained(definition, folder, settings, command, runs)
    if settings.screen and settings.combine and not settings.chain:
        return [comparison, *_combined(settings, comparison, command)]
    return [comparison]


def _trained(
    definition: ComparisonDefinition,
    folder: Path,
    settings: Namespace,
    command: Sequence[str],
    runs: Sequence[Run] = (),
) -> ComparisonStudy:
    """A comparison, all of whose runs are done, with its report."""
    comparison = ComparisonStudy(definition.name, folder, settings.storage)
    queue = comparison.begin(definition, runs)
    comparison.save(settings.storage, command)
    try:
        comparison.train(queue, workers=settings.workers)
    finally:
        report(comparison)
    return comparison


def _combined(
    settings: Namespace, comparison: ComparisonStudy, command: Sequence[str]
) -> list[ComparisonStudy]:
    """The confirmation of the winning combination, which is written as a configuration, too."""
    definition, found = comparison.load()[1], comparison.collected()
    try:
        winning = combination(settings, definition, found, rows(found))
    except UserError as error:
        print(f"{comparison.program}: no combination: {error}", flush=True)
        return []
    if winning is None:
        return []
    folder = comparison.folder / "combination"
    confirmed = _trained(winning, folder, settings, command)
    table = rows(confirmed.collected())
    for row in table:
        if not row.is_base:
            name = f"combination_{row.group}" if row.group else "combination"
            head = [
                f"# {row.variant}: what was better in {comparison.name}, together.",
                f"# {' '.join(summary(confirmed.collected(), [row]))}",
                f"# Found by {shlex.join(map(without_password, command))}",
            ]
            text = winning.configs[f"{row.group}/{row.variant}"]
            write(comparison.folder / f"{name}.yaml", "\n".join([*head, text]))
    return [confirmed]


def report(comparison: ComparisonStudy) -> Comparison:
    """Write everything a user looks at afterwards into the comparison's folder."""
    found = comparison.collected()
    comparison.save_definition()
    write_report(found, comparison.folder, comparison.facts())
    return found
