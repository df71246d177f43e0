"""Statistics of paired runs: techniques against a base over a few seeds.

A run's accuracy is what its variant reaches, plus what its seed does to every variant, plus a
spread (a randomized block design, the seeds being the blocks). Three seeds say little about the
spread of one variant, so the variants borrow from each other: a moderated variance (empirical
Bayes, Smyth 2004, doi:10.2202/1544-6115.1027) of each variant, the base among them, with one
precaution: it is never smaller than the one seen, so that an unstable technique cannot borrow calm.
Degrees of freedom are Satterthwaite's. For a base and one variant this is the paired t-test.
Verdicts are corrected for the number of comparisons by Holm. Error rates and power are simulated in
the tests.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, polygamma
from scipy.stats import t as student

BETTER, WORSE, UNCLEAR, TOO_FEW = "better", "worse", "no difference shown", "too few seeds"
SAME = "identical runs"
NO_BASE, FAILED, NO_RESULT = "no base to compare with", "failed", "no result"
LEVEL = 0.95

# Fewer variances than these do not tell how variances spread.
_FEWEST_FOR_PRIOR = 3
# Below this, in units of accuracy, runs are equal but for rounding.
_ROUNDING = 1e-9


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of a mean, Student's t; of at least two values."""
    n, mean = len(values), statistics.fmean(values)
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


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

    @property
    def base(self) -> str:
        return self.variants[0]


@dataclass(frozen=True)
class Difference:
    """A paired difference of accuracy.

    Attributes:
        n: pairs.
        mean: over them.
        low, high: 95% interval of this difference alone; None where there is none.
        df: degrees of freedom of the moderated t.
        t: mean over its standard error.
        p: of this difference alone.
        corrected: p, corrected for all differences of the comparison.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    df: float | None = None
    t: float | None = None
    p: float | None = None
    corrected: float | None = None

    @property
    def verdict(self) -> str | None:
        """None where there are too few pairs for one."""
        if self.corrected is None:
            return SAME if self.n > 1 and self.mean == 0 else None
        if self.corrected >= 1 - LEVEL:
            return UNCLEAR
        return BETTER if self.mean > 0 else WORSE


@dataclass
class Row:
    """A variant in a group.

    Attributes:
        runs: all, failed ones too.
        accuracies: what is compared, by seed.
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
        if self.difference is None:
            return NO_BASE
        return self.difference.verdict or TOO_FEW

    @property
    def diagnosis(self) -> str | None:
        """The most common one, and how common where the seeds do not agree."""
        count = Counter(run.diagnosis for run in self.runs if run.diagnosis)
        if not count:
            return None
        [(most, times)] = count.most_common(1)
        return most if times == count.total() else f"{most} ({times} of {count.total()})"


# The test.


def _trigamma_inverse(value: float) -> float:
    """Newton on 1/trigamma, which is convex and nearly linear; Smyth 2004, appendix."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = polygamma(1, x)
        step = trigamma * (1 - trigamma / value) / polygamma(2, x)
        x += step
        if -step / x < 1e-9:
            break
    return float(x)


def prior(variances: ArrayLike, dfs: ArrayLike) -> tuple[float, float]:
    """The degrees of freedom and the variance that the variances have in common.

    (0, 0) where there are too few to tell, and infinite degrees of freedom where they spread no
    more than sampling makes equal ones spread.

    Args:
        variances: each greater than zero.
        dfs: degrees of freedom of each.
    """
    s2, d = np.asarray(variances), np.asarray(dfs)
    if len(s2) < _FEWEST_FOR_PRIOR:
        return 0.0, 0.0
    logs = np.log(s2) - digamma(d / 2) + np.log(d / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, d / 2).mean())
    if excess <= 0:
        return math.inf, float((s2 * d).sum() / d.sum())
    d0 = 2 * _trigamma_inverse(excess)
    return d0, float(np.exp(logs.mean() + digamma(d0 / 2) - np.log(d0 / 2)))


def spreads(
    reached: Mapping[Hashable, Mapping[int, float]],
) -> tuple[dict[Hashable, tuple[float, float]], float]:
    """Spread of each variant's runs beyond what a seed does to all of them.

    Args:
        reached: by variant and seed; runs may be missing.

    Returns:
        Of each variant the moderated variance of a run and its degrees of freedom; and the degrees
        of freedom of all residuals together, which no mean of variances has more of.
    """
    variants = list(reached)
    seeds = sorted({seed for runs in reached.values() for seed in runs})
    cells = [(v, seeds.index(s)) for v, name in enumerate(variants) for s in reached[name]]
    values = np.array([value for runs in reached.values() for value in runs.values()])
    design = np.zeros((len(cells), len(variants) + len(seeds)))
    for row, (variant, seed) in enumerate(cells):
        design[row, [variant, len(variants) + seed]] = 1
    owner = np.array([variant for variant, _ in cells])
    weights = np.ones(len(variants))
    for _ in range(2):
        root = np.sqrt(weights)[owner]
        weighted = design * root[:, None]
        hat = weighted @ np.linalg.pinv(weighted)
        residuals, freedom = values - hat @ (values * root) / root, 1 - np.diag(hat)
        df = np.bincount(owner, freedom, len(variants))
        squares = np.bincount(owner, residuals**2, len(variants))
        variances = np.divide(squares, df, out=np.zeros_like(df), where=df > _ROUNDING)
        known = variances > _ROUNDING**2
        d0, s0 = prior(variances[known], df[known])
        if math.isinf(d0):
            shrunk = np.full(len(variants), s0)
        else:
            shrunk = (d0 * s0 + df * variances) / np.maximum(d0 + df, _ROUNDING)
        shrunk = np.maximum(shrunk, variances)
        # Once more, so that an unstable variant has less say in what a seed does to all. None gets
        # more than the middle one, or the calmest by chance would have all the say. Repeating it
        # until it settles finds too much: 6.5% instead of 5% where nothing differs, by simulation.
        weights = 1 / np.maximum(np.maximum(shrunk, np.median(shrunk)), _ROUNDING**2)
    moderated = zip(shrunk.tolist(), (d0 + df).tolist(), strict=True)
    return dict(zip(variants, moderated, strict=True)), float(freedom.sum())


def paired_differences(
    reached: Mapping[tuple[str, str], Mapping[int, float]],
    pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
) -> list[Difference]:
    """Mean, interval and corrected p of each of several paired differences.

    Args:
        reached: by (group, variant) and seed. The spread is a group's own.
        pairs: who is compared with whom, within a group; they share a seed at least.
    """
    by_group = {
        group: spreads({key: runs for key, runs in reached.items() if key[0] == group})
        for group in {one[0] for one, _ in pairs}
    }
    found: list[Difference] = []
    tests: list[tuple[int, float, float]] = []  # place, standard error, degrees of freedom
    for place, (one, other) in enumerate(pairs):
        each = [
            value - reached[other][s] for s, value in reached[one].items() if s in reached[other]
        ]
        found.append(Difference(len(each), statistics.fmean(each)))
        moderated, most = by_group[one[0]]
        parts = [(variance / len(each), df) for variance, df in (moderated[one], moderated[other])]
        variance = sum(part for part, _ in parts)
        if max(map(abs, each)) < _ROUNDING:
            found[-1] = Difference(len(each), 0.0)
        elif len(each) > 1 and variance > _ROUNDING**2:
            # Satterthwaite; infinite where the variances are known for certain.
            spread = sum(part**2 / df for part, df in parts)
            df = variance**2 / spread if spread else math.inf
            tests.append((place, math.sqrt(variance), min(df, most)))
    if not tests:
        return found
    places, errors, dfs = (np.array(column) for column in zip(*tests, strict=True))
    means = np.array([found[place].mean for place in places])
    halves = student.ppf((1 + LEVEL) / 2, dfs) * errors
    t = means / errors
    p = 2 * student.sf(np.abs(t), dfs)
    columns = np.stack([means - halves, means + halves, dfs, t, p, _holm(p)], axis=1).tolist()
    for place, numbers in zip(places.tolist(), columns, strict=True):
        found[place] = Difference(found[place].n, found[place].mean, *numbers)
    return found


def _holm(p: np.ndarray) -> np.ndarray:
    """Each p, corrected for how many there are."""
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1.0)


# The rows.


def rows(comparison: Comparison) -> list[Row]:
    """A row per group and variant, in their order; none for what no run is known of."""
    table: dict[tuple[str, str], Row] = {}
    for group in comparison.groups:
        for variant in comparison.variants:
            runs = [r for r in comparison.runs if (r.group, r.variant) == (group, variant)]
            if runs:
                accuracies = _by_seed(runs, comparison.metric)
                table[group, variant] = Row(
                    group, variant, variant == comparison.base, runs, accuracies
                )
    before = dict(zip(comparison.variants[1:], comparison.variants, strict=False))
    to_base = _compare(table, lambda row: (row.group, comparison.base))
    steps = (
        _compare(table, lambda row: (row.group, before[row.variant])) if comparison.chain else {}
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


def _compare(
    table: dict[tuple[str, str], Row], other: Callable[[Row], tuple[str, str]]
) -> dict[tuple[str, str], Difference]:
    """The differences of the rows but the bases', each to another row."""
    reached = {key: row.accuracies for key, row in table.items() if row.accuracies}
    pairs = [
        (key, other(row))
        for key, row in table.items()
        if not row.is_base and reached.get(key, {}).keys() & reached.get(other(row), {}).keys()
    ]
    found = paired_differences(reached, pairs)
    return {key: difference for (key, _), difference in zip(pairs, found, strict=True)}


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
