"""A comparison's runs, and what they say of each variant: a row per group and variant."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.compare.paired_statistics import MARGIN, Difference, Key, paired_differences

NO_BASE, FAILED, NO_RESULT = "no base to compare with", "failed", "no result"
IDENTICAL = "identical"  # and to what

# What tells whether two runs are one: numbers with more digits than chance would repeat.
_FINGERPRINT = ("test/loss", "val/loss", "test/accuracy", "val/accuracy")


@dataclass
class Run:
    """One training.

    Attributes:
        group: what it may be compared within, e.g. a data set; "" where there is one group only.
        variant: the technique.
        seed: pairs it with the base's run.
        measured: final numbers: ``test/accuracy``, ``test/loss``, ``test/calibration_error``,
            ``val/accuracy`` and ``val/loss`` (best epoch), ``train_accuracy`` (on training images,
            in eval mode), ``seconds_per_epoch``, ``peak_memory`` (bytes), …; any may be missing.
        curves: by epoch: ``val/accuracy``, ….
        diagnosis: what the curves say.
        evidence: for that, in words.
        advice: what to try next, each the fields of a ``Suggestion``.
        reason: why it failed.
        machine: the kind that it ran on; "" where that is not known.
        commit: of this project, ``+`` after it where files differed from it.
        config: digest of what the run's files wrote.
        right: which test images were classified rightly; None where that is not known.
    """

    group: str
    variant: str
    seed: int
    measured: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    diagnosis: str | None = None
    evidence: list[str] = field(default_factory=list)
    advice: list[dict[str, str]] = field(default_factory=list)
    reason: str | None = None
    machine: str = ""
    commit: str = ""
    config: str = ""
    right: NDArray[np.bool_] | None = None

    def value(self, name: str) -> float | None:
        """A measured number; None where the run failed, or the number is missing or not finite."""
        value = self.measured.get(name)
        known = self.reason is None and value is not None and math.isfinite(value)
        return value if known else None


@dataclass
class Comparison:
    """Trainings under one budget.

    Attributes:
        name: of the comparison.
        groups: each with a base of its own.
        variants: the base first.
        chain: whether each variant adds to the one before.
        seeds: of each variant's runs.
        configs: complete YAML by "group/variant".
        epochs: the budget of a run.
        runs: what has been trained; may be incomplete.
        metric: the accuracy that is compared.
        margin: accuracies that differ by less are equivalent.
        families: variants that are corrected together, by name; those in none are one more.
        tuned: what a screening chose, each the fields of a ``Tuned``.
    """

    name: str
    groups: list[str]
    variants: list[str]
    chain: bool
    seeds: list[int]
    configs: dict[str, str]
    epochs: int
    runs: list[Run]
    metric: str = "test/accuracy"
    margin: float = MARGIN
    families: dict[str, list[str]] = field(default_factory=dict)
    tuned: list[dict[str, Any]] = field(default_factory=list)

    @property
    def base(self) -> str:
        return self.variants[0]

    def family(self, variant: str) -> str:
        """The name of the variant's family; "" for the family of those that are in none."""
        return next((name for name, of in self.families.items() if variant in of), "")

    def mixed_seeds(self) -> dict[int, list[str]]:
        """The seeds that were run on several kinds of machines, with these."""
        machines: dict[int, set[str]] = {}
        for run in self.runs:
            if run.machine:
                machines.setdefault(run.seed, set()).add(run.machine)
        return {seed: sorted(found) for seed, found in machines.items() if len(found) > 1}


@dataclass
class Row:
    """A variant in a group.

    Attributes:
        runs: all, failed ones too.
        accuracies: what is compared, by seed.
        identical: the variant before it (or the base) whose runs were the same ones.
        difference: to the base of the group.
        step: to the variant before, in a chain.
        gap: accuracy on training minus test images, None where those were not looked at.
        time, memory: median over seeds, as a ratio to the base's.
        epochs_to_base: mean number of epochs until the validation accuracy reached the best of
            the base's run with the same seed, over the ``reached`` seeds that did.
        comparable: seeds where that could be looked up.
    """

    group: str
    variant: str
    is_base: bool
    runs: list[Run]
    accuracies: dict[int, float]
    identical: str | None = None
    difference: Difference | None = None
    step: Difference | None = None
    validation_loss: float | None = None
    calibration_error: float | None = None
    gap: float | None = None
    time: float | None = None
    memory: float | None = None
    epochs_to_base: float | None = None
    reached: int = 0
    comparable: int = 0

    @cached_property
    def fingerprints(self) -> dict[int, list[float | None]]:
        """By seed, the numbers that tell whether two runs are one."""
        return {
            run.seed: [run.value(name) for name in _FINGERPRINT]
            for run in self.runs
            if run.seed in self.accuracies
        }

    @property
    def n(self) -> int:
        return len(self.accuracies)

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.accuracies.values()) if self.accuracies else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.accuracies.values()) if self.n > 1 else None

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.reason is not None]

    @property
    def verdict(self) -> str:
        if self.is_base:
            return "base"
        if not self.accuracies:
            return FAILED if self.failed else NO_RESULT
        if self.identical is not None:
            return f"{IDENTICAL} to {self.identical}"
        return NO_BASE if self.difference is None else self.difference.verdict

    @property
    def diagnosis(self) -> str | None:
        """The most common one, and how common where the seeds do not agree."""
        count = Counter(run.diagnosis for run in self.runs if run.diagnosis)
        if not count:
            return None
        [(most, times)] = count.most_common(1)
        return most if times == count.total() else f"{most} ({times} of {count.total()})"


def rows(comparison: Comparison) -> list[Row]:
    """A row per group and variant, in their order; none for what no run is known of."""
    table: dict[Key, Row] = {}
    by_key: dict[Key, list[Run]] = {}
    for run in comparison.runs:
        by_key.setdefault((run.group, run.variant), []).append(run)
    for group in comparison.groups:
        for variant in comparison.variants:
            if runs := by_key.get((group, variant)):
                accuracies = _by_seed(runs, comparison.metric)
                row = Row(group, variant, variant == comparison.base, runs, accuracies)
                before = (r for r in table.values() if r.group == group)
                row.identical = next((r.variant for r in before if _same_runs(r, row)), None)
                table[group, variant] = row
    before_it = dict(zip(comparison.variants[1:], comparison.variants, strict=False))
    to_base = _compare(comparison, table, lambda row: (row.group, comparison.base))
    steps = (
        _compare(comparison, table, lambda row: (row.group, before_it[row.variant]))
        if comparison.chain
        else {}
    )
    for (group, variant), row in table.items():
        row.difference = to_base.get((group, variant))
        row.step = steps.get((group, variant))
        row.validation_loss = _mean(_by_seed(row.runs, "val/loss").values())
        row.calibration_error = _mean(_by_seed(row.runs, "test/calibration_error").values())
        training = _by_seed(row.runs, "train_accuracy")
        row.gap = _mean(training[s] - a for s, a in row.accuracies.items() if s in training)
        base = table.get((group, comparison.base))
        if base is not None:
            row.time = _ratio(row.runs, base.runs, "seconds_per_epoch")
            row.memory = _ratio(row.runs, base.runs, "peak_memory")
            _count_epochs(row, base)
    return list(table.values())


def _same_runs(one: Row, other: Row) -> bool:
    """Tell whether two variants trained alike: every number of every seed is the same."""
    ours, theirs = one.fingerprints, other.fingerprints
    shared = ours.keys() & theirs.keys()
    if not shared or any(ours[seed] != theirs[seed] for seed in shared):
        return False
    # Two runs may classify equally many images rightly by chance.
    return len(shared) > 1 or any(value is not None for value in ours[min(shared)][:2])


def _compare(
    comparison: Comparison, table: Mapping[Key, Row], other: Callable[[Row], Key]
) -> dict[Key, Difference]:
    """The differences of the rows but the bases', each to another row.

    Runs that are the same as another variant's count once: they have the same difference.
    """
    reached = {key: row.accuracies for key, row in table.items() if row.accuracies}
    right = {
        key: {run.seed: run.right for run in row.runs if run.right is not None}
        for key, row in table.items()
        if comparison.metric.startswith("test/")
    }
    pairs: list[tuple[Key, Key]] = []
    twins: dict[Key, Key] = {}
    for key, row in table.items():
        if row.is_base:
            continue
        against, twin = other(row), (row.group, row.identical or "")
        if not reached.get(key, {}).keys() & reached.get(against, {}).keys():
            continue
        if (twin, against) in pairs:
            twins[key] = twin
        elif not _same_runs(table[against], row):
            pairs.append((key, against))
    found = dict(
        zip(
            pairs,
            paired_differences(
                reached,
                pairs,
                families=[comparison.family(variant) for (_, variant), _ in pairs],
                margin=comparison.margin,
                right=right,
            ),
            strict=True,
        )
    )
    differences = {key: difference for (key, _), difference in found.items()}
    return differences | {key: differences[twin] for key, twin in twins.items()}


def _by_seed(runs: Sequence[Run], name: str) -> dict[int, float]:
    values = {run.seed: run.value(name) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.mean(known) if known else None


def _ratio(runs: Sequence[Run], base: Sequence[Run], name: str) -> float | None:
    """Of medians over seeds: what else the machine did in one run does not count."""
    ours, theirs = (list(_by_seed(which, name).values()) for which in (runs, base))
    if not ours or not theirs or not statistics.median(theirs):
        return None
    return statistics.median(ours) / statistics.median(theirs)


def _count_epochs(row: Row, base: Row) -> None:
    """Set how long the row took to the base's best validation accuracy, seed by seed."""
    best = {
        run.seed: max(filter(math.isfinite, run.curves.get("val/accuracy", [])), default=None)
        for run in base.runs
        if run.reason is None
    }
    counts = []
    for run in row.runs:
        curve, goal = run.curves.get("val/accuracy", []), best.get(run.seed)
        if run.reason is not None or not curve or goal is None:
            continue
        row.comparable += 1
        counts += [epoch for epoch, value in enumerate(curve, 1) if value >= goal][:1]
    row.reached, row.epochs_to_base = len(counts), _mean(counts)
