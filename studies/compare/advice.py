"""Tuning by diagnosis: diagnose, try what is suggested, keep what helps.

Forward selection on a small sample: each round diagnoses the present configuration, trains it with
each suggestion of the diagnosis added, and keeps the best of those that validation shows to be
better beyond noise. The end compares what was found with the start as it was given, over seeds, and
only there are test images looked at.
"""

import itertools
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from datamodules.from_config import datamodule_of
from diagnosis.suggestions import Suggestion
from foundation.errors import UserError
from foundation.parser import Parser
from foundation.run_folder import as_typed, check_name, experiment_name, program
from foundation.whole_file import write
from foundation.yaml_text import load_yaml
from studies.compare.comparison_definition import ComparisonDefinition, fit_options
from studies.compare.comparison_report import accuracy, results_table
from studies.compare.comparison_study import ComparisonStudy, report
from studies.compare.comparison_table import Comparison, Row, Run, rows
from studies.compare.paired_statistics import BETTER, WORSE
from studies.queue.storage import without_password
from studies.report.words import interval, points
from studies.settings import check_least, check_seeds
from studies.training import check_validated, complete_config

_START = "start"
_DIVERGED = "diverged"


@dataclass
class AdviceSettings:
    """Start and budget of a tuning.

    Args:
        config: configuration files of train.py, composed from left to right, and single values as
            key=value: the start.
        sample: share of the start's training images that the loop trains on.
        epochs: of every run on the sample; the start's unless given.
        budget: runs on the sample, over all rounds and seeds; the confirmation comes on top.
        seeds: of each configuration's runs; the seed pairs them.
        name: of the folder; the files' names unless given.
        storage: URL of a database where several machines work on this; SQLite files in the folder
            unless given.
        workers: processes on this machine.
        runs_dir: folder of all advice.
    """

    config: list[str]
    sample: float = 0.1
    epochs: int | None = None
    budget: int = 60
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    name: str | None = None
    storage: str | None = None
    workers: int = 1
    runs_dir: str = "runs/advise"


def advice_parser() -> Parser:
    """The parser of ``compare.py advise``."""
    parser = Parser(
        prog="compare.py advise",
        description="Tune a configuration of train.py: diagnose, try what is advised, keep what "
        "helps, confirm.",
    )
    parser.add_argument(
        "-c", "--config", type=str, nargs="+", action="extend", required=True, help="The start."
    )
    parser.add_class_arguments(AdviceSettings, None, skip={"config"})
    return parser


def advise(settings: Namespace, command: Sequence[str]) -> None:
    """Tune, and print each step with its reason.

    Raises:
        UserError: a setting is out of range, or the start does not train.
    """
    if not 0 < settings.sample <= 1:
        raise UserError(f"sample is {settings.sample}; expected a share in (0, 1]")
    if len(set(settings.seeds)) < max(2, len(settings.seeds)):
        raise UserError(f"seeds is {settings.seeds}; expected two different ones at least")
    check_seeds(settings, "seeds")
    if settings.budget < 2 * len(settings.seeds):
        raise UserError(
            f"budget is {settings.budget}; expected at least {2 * len(settings.seeds)}, a run of "
            "the start and of one suggestion with each seed"
        )
    start = fit_options("config", settings.config)
    files = [Path(option.partition("=")[2]) for option in start if option.startswith("--config=")]
    if not files:
        raise UserError("config names no file; expected at least one configuration of train.py")
    check_least(settings, epochs=1, workers=1)
    if settings.name is not None:
        check_name("--name", settings.name)
    name = settings.name or experiment_name(files).replace("/", "_")
    _Tuning(settings, name, start, list(map(without_password, command))).run()


@dataclass
class _Candidate:
    """A configuration to train on the sample, and its name in the study.

    Attributes:
        suggestion: what it adds to the candidate before; None for the start.
        row: what it reached in the round that kept it.
    """

    name: str
    config: str
    suggestion: Suggestion | None = None
    row: Row | None = None

    @property
    def label(self) -> str:
        """``flip`` of an overlay; ``lr=0.003`` of an option."""
        return self.name.rpartition(" + ")[2]


class _Tuning:
    """One tuning from its start to its confirmation."""

    def __init__(
        self, settings: Namespace, name: str, start: list[str], command: list[str]
    ) -> None:
        self.settings = settings
        self.name = name
        self.start = start
        self.shell_command = command
        self.folder = Path(settings.runs_dir) / name
        text = complete_config(start)
        check_validated("tuning", text)
        config = load_yaml(text)
        data = config["data"]["init_args"]
        self.epochs = settings.epochs or config["trainer"]["max_epochs"] or -1
        if self.epochs < 1:
            raise UserError(f"{shlex.join(settings.config)} names no max_epochs; give --epochs")
        given = config["model"]["init_args"].get("num_classes")
        self.chance = 1 / int(given or datamodule_of(json.dumps(config["data"])).num_classes)
        self.images = settings.sample * data.get("train_fraction", 1.0)
        # Last, so that no suggestion gives itself more images or epochs. Stopping early could only
        # cut a run's curve short.
        self.sample = [
            f"--data.init_args.train_fraction={self.images:g}",
            f"--trainer.max_epochs={self.epochs}",
            f"--early_stopping.patience={self.epochs}",
        ]
        self.base = _Candidate(_START, complete_config([*start, *self.sample]))
        self.kept: list[_Candidate] = []
        self.dropped: dict[str, str] = {}  # options that were no better, and what was found
        self.spent = 0
        self.text: list[str] = []
        self.console = Console()
        folder = self.folder / "sample"
        self.study = ComparisonStudy(f"{name}-sample", folder, settings.storage)

    # The steps.

    def run(self) -> None:
        seeds = len(self.settings.seeds)
        self.say(
            f"start: {shlex.join(self.settings.config)}",
            f"sample: {self.images:g} of the training images, {self.epochs} epochs, seeds "
            f"{', '.join(map(str, self.settings.seeds))}; at most {self.settings.budget} runs, and "
            f"{2 * seeds} for the confirmation",
            "decided by the best epoch's val/accuracy: differences to the round's start in "
            "percentage points, a 95% interval of each alone, and a verdict corrected for all of "
            "the round (Bonferroni); time is per epoch, of the round's start",
        )
        self.spent = seeds
        row = rows(self.train([self.base]))[0]
        for number in itertools.count(1):
            kind, advice = self.diagnose(number, row)
            candidates = self.candidates(advice)
            affordable = (self.settings.budget - self.spent) // seeds
            for cut in candidates[affordable:]:
                self.say(f"  not tried: {cut.label}: the budget allows no more")
            if not candidates[:affordable]:
                left = f"{self.settings.budget - self.spent} runs are left, and a suggestion takes"
                why = f"{left} {seeds}" if candidates else f"nothing to try is left ({kind})"
                self.say("", f"stop: {why}")
                break
            best = self.round(candidates[:affordable])
            self.write_steps()
            if best is None or best.row is None:
                self.say(
                    "", "stop: nothing that was tried was shown to help; more seeds would show less"
                )
                break
            self.kept.append(best)
            self.base, row = best, best.row
        self.conclude()

    def diagnose(self, number: int, row: Row) -> tuple[str, list[Suggestion]]:
        """Diagnose the present configuration's runs, and collect the suggestions."""
        counts = Counter(run.diagnosis for run in row.runs if run.diagnosis)
        if not counts:
            reason = next((run.reason for run in row.failed), "its runs have no diagnosis")
            raise UserError(
                f"{row.variant} does not train, so there is nothing to tune: {reason} (once that "
                f"is mended, remove {self.folder})"
            )
        # A run that diverges is first in need of help, whatever the others do.
        broken = "not converging"
        kind = broken if counts[broken] else counts.most_common(1)[0][0]
        shown = [run for run in row.runs if run.diagnosis == kind]
        self.say(
            "",
            f"round {number}: {row.variant}, val/accuracy {_accuracy(row)}",
            f"  {kind} ({counts[kind]} of {len(row.runs)} runs); with seed {shown[0].seed}: "
            + "; ".join(shown[0].evidence),
        )
        return str(kind), list(dict.fromkeys(Suggestion(**r) for run in shown for r in run.advice))

    def candidates(self, advice: Sequence[Suggestion]) -> list[_Candidate]:
        """The suggestions that can be tried on the sample; says why others are not."""
        found: list[_Candidate] = []
        for suggestion in advice:
            if not suggestion.options:
                self.say(f"  yours to check: {suggestion.why}")
                continue
            label = _label(suggestion)
            if suggestion.options in self.dropped:
                self.say(f"  not again: {label}: {self.dropped[suggestion.options]}")
                continue
            try:
                config = complete_config([*self.options(suggestion), *self.sample])
            except UserError as error:
                self.say(f"  not tried: {label} ({suggestion.why}): {error}")
                continue
            if config == self.base.config:
                self.say(f"  not tried: {label} ({suggestion.why}): all runs get the same budget")
                continue
            name = label if self.base.name == _START else f"{self.base.name} + {label}"
            found.append(_Candidate(name, config, suggestion))
        return found

    def round(self, candidates: Sequence[_Candidate]) -> _Candidate | None:
        """Train them; the best of those that helped."""
        self.spent += len(candidates) * len(self.settings.seeds)
        by_name = {row.variant: row for row in rows(self.train([self.base, *candidates]))}
        for candidate in candidates:
            candidate.row = by_name[candidate.name]
        tried = sorted(candidates, key=lambda c: -_gain(c.row))
        width = max(len(c.label) for c in tried)
        for candidate in tried:
            assert candidate.row is not None
            assert candidate.suggestion is not None
            found = _found(candidate.row)
            self.say(f"  {candidate.label.ljust(width)}  {found}  ({candidate.suggestion.why})")
            if _gain(candidate.row) <= 0:
                self.dropped[candidate.suggestion.options] = f"{found} on {self.base.name}"
        better = [c for c in tried if c.row is not None and c.row.verdict == BETTER]
        if not better:
            return None
        also = f", the best of {len(better)} that helped" if len(better) > 1 else ""
        self.say(f"  keep {better[0].label}{also}")
        return better[0]

    def conclude(self) -> None:
        """Confirm on the start's own images and epochs, and write the configuration."""
        path = self.folder / "advised.yaml"
        self.write_steps()
        if not self.kept:
            path.unlink(missing_ok=True)
            self.print(f"steps: {as_typed(self.folder / 'steps.txt')}")
            return
        name = self.base.name
        self.say("", f"confirmation: {name} against the start, with its own images and epochs")
        configs = {_START: complete_config(self.start), name: complete_config(self.options())}
        definition = self.definition(f"{self.name}-confirmation", configs, "test/accuracy")
        folder = self.folder / "confirmation"
        study = ComparisonStudy(definition.name, folder, self.settings.storage)
        study.train(study.begin(definition), workers=self.settings.workers)
        study.save(self.settings.storage, self.shell_command)
        found = self.of(report(study), configs)
        self.console.print(results_table(found))
        before, after = rows(found)
        shown = {BETTER: "confirmed", WORSE: "refuted"}.get(after.verdict, "not confirmed")
        self.say(
            f"{shown}: test accuracy {_accuracy(after)}, the start {_accuracy(before)}: "
            + _found(after)
        )
        self.write_steps()
        self.write_config(path, configs[name], shown, before, after)
        best = as_typed(path)
        self.print(f"config: {best}", f"report: {as_typed(folder / 'report.html')}")
        self.console.print("next", style="bold")
        fit = f"{program('train.py')} fit"
        start = shlex.join(self.start)
        self.print(f"  {fit} {start if shown == 'refuted' else f'--config {best}'}")

    # What they are made of.

    def options(self, *further: Suggestion) -> list[str]:
        """Of ``train.py fit``: the start and what was kept."""
        suggestions = [*(c.suggestion for c in self.kept if c.suggestion is not None), *further]
        return [*self.start, *(token for r in suggestions for token in shlex.split(r.typed))]

    def definition(
        self, name: str, configs: Mapping[str, str], metric: str
    ) -> ComparisonDefinition:
        """Of a comparison; the first is the base."""
        return ComparisonDefinition(
            name=name,
            base=list(self.settings.config),
            chain=False,
            seeds=list(self.settings.seeds),
            keep_checkpoints=False,
            groups=[""],
            variants=list(configs),
            configs={f"/{variant}": config for variant, config in configs.items()},
            metric=metric,
        )

    def train(self, candidates: Sequence[_Candidate]) -> Comparison:
        """Train what is not trained yet of these on the sample; the first is the base."""
        configs = {candidate.name: candidate.config for candidate in candidates}
        definition = self.definition(self.study.name, configs, "val/accuracy")
        queue = self.study.begin(definition)
        self.study.train(queue, workers=self.settings.workers, lines=False)
        return self.of(self.study.collected(), configs)

    def of(self, found: Comparison, configs: Mapping[str, str]) -> Comparison:
        """The runs of these, of all that a study holds."""
        seeds = list(self.settings.seeds)
        runs = [
            self.at_chance(run) if found.metric == "val/accuracy" else run
            for run in found.runs
            if run.variant in configs and run.seed in seeds
        ]
        return replace(found, variants=list(configs), seeds=seeds, runs=runs)

    def at_chance(self, run: Run) -> Run:
        """A run that diverged has no result; here it counts, so that a suggestion can be seen."""
        if run.reason is None or run.diagnosis is None:
            return run
        return replace(run, reason=None, measured={"val/accuracy": self.chance, _DIVERGED: 1.0})

    def say(self, *lines: str) -> None:
        """Print, and keep for the file."""
        self.text += lines
        self.print(*lines)

    def print(self, *lines: str) -> None:
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def write_steps(self) -> None:
        head = [f"$ {shlex.join(self.shell_command)}", ""]
        write(self.folder / "steps.txt", "\n".join([*head, *self.text, ""]))

    def write_config(self, path: Path, config: str, shown: str, before: Row, after: Row) -> None:
        """The complete configuration, headed by where it comes from."""
        steps = [f"  {c.label}: {_found(c.row)}" for c in self.kept if c.row is not None]
        head = [
            f"Found by {shlex.join(self.shell_command)}",
            f"Kept, with the best epoch's validation accuracy on {self.images:g} of the training "
            "images, in percentage",
            "points over the step before (each the best of its round, which flatters it):",
            *steps,
            f"Test accuracy with the start's own images and epochs: {_accuracy(after)};",
            f"the start: {_accuracy(before)}; {shown}: {_found(after)}.",
            f"The same: {shlex.join(['python', 'train.py', 'fit', *self.options()])}",
        ]
        write(path, "".join(f"# {line}\n" for line in head) + config)


def _label(suggestion: Suggestion) -> str:
    """``flip`` of an overlay; ``lr=0.003`` of an option."""
    key, value = shlex.split(suggestion.options)
    if key == "--config":
        return Path(value).stem
    return f"{key.rpartition('.')[2]}={value}".replace("/", "-")


def _gain(row: Row | None) -> float:
    return row.difference.mean if row is not None and row.difference is not None else -1.0


def _accuracy(row: Row) -> str:
    if row.mean is None:
        return next((f"none: {run.reason}" for run in row.failed), "none")
    diverged = sum(run.measured.get(_DIVERGED, 0) > 0 for run in row.runs)
    chance = f", {diverged} diverged and counted as chance" if diverged else ""
    return f"{accuracy(row)} (n = {row.n}{chance})"


def _found(row: Row) -> str:
    """A difference in words."""
    difference = row.difference
    if difference is None:
        reason = next((f": {run.reason}" for run in row.failed), "")
        return f"{row.verdict}{reason}"
    around = interval(difference.low, difference.high)
    text = points(difference.mean) + (f" ({around})" if around else "")
    time = "" if row.time is None else f", time × {row.time:.2f}"
    return f"{text}, {row.verdict}{time}"
