"""Statistics of paired runs: techniques against a base, over seeds and test images.

A seed is a block: the base and every variant are trained with it once. A difference is the mean of
the paired ones, and two things make it uncertain: the seeds (its paired differences spread) and the
test images (another test set would have asked other questions). Both are in its standard error:
seeds and images are crossed random effects.

Spread. A few seeds say little about the spread of one difference, so the differences of a group
borrow from each other: moderated variances (empirical Bayes; Smyth 2004,
doi:10.2202/1544-6115.1027), with two precautions. None is taken to be smaller than it was seen. And
since all differences share the base's runs, what they say together is worth fewer degrees of
freedom than there are residuals: Box's (1954, doi:10.1214/aoms/1177728786), from their covariances,
and never more than three times those of one difference.

Verdicts. They are read off intervals that hold for all differences of a family at once
(Bonferroni): wholly above zero is better, wholly below is worse, wholly within the margin is
equivalent (two one-sided tests, Schuirmann 1987), and everything else is undecided.

Error rates, coverage and power: ``python -m benchmarks.verdicts``.
"""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, polygamma, stdtr, stdtrit

BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
TOO_FEW = "too few seeds"
LEVEL = 0.95
POWER = 0.8
MARGIN = 0.003  # accuracies that differ by less are equivalent

# Fewer variances than these do not tell how variances spread.
_FEWEST_FOR_PRIOR = 3
# Many differences that share a base no calmer than the others have four times the degrees of
# freedom of one of them. One less, because these times are estimated: by simulation.
_MOST_BORROWED = 3
# Below this, in units of accuracy, runs are equal but for rounding.
_ROUNDING = 1e-9

Key = tuple[str, str]  # a group and a variant
Reached = Mapping[Key, Mapping[int, float]]  # accuracy by seed
Right = Mapping[Key, Mapping[int, NDArray[np.bool_]]]  # by seed and test image


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of a mean, Student's t; of at least two values."""
    n, mean = len(values), statistics.fmean(values)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


@dataclass(frozen=True)
class Difference:
    """A paired difference of accuracy.

    Attributes:
        n: pairs.
        mean: over them.
        error: standard error; None where there is none, as of a single pair.
        df: its degrees of freedom.
        low, high: 95% interval of this difference alone.
        wide_low, wide_high: of 95% intervals that hold for all of the family at once.
        p: of no difference, for this one alone.
        corrected: p, corrected for all of the family.
        count: differences in the family.
        margin: within which accuracies are equivalent.
        least: seeds that a verdict takes.
        detectable: the smallest difference that would have been shown with a probability of 80%.
    """

    n: int
    mean: float
    error: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None
    wide_low: float | None = None
    wide_high: float | None = None
    p: float | None = None
    corrected: float | None = None
    count: int = 1
    margin: float = MARGIN
    least: int = 2
    detectable: float | None = None

    @property
    def verdict(self) -> str:
        if self.wide_low is None or self.wide_high is None or self.n < self.least:
            return TOO_FEW
        if self.wide_low > 0:
            return BETTER
        if self.wide_high < 0:
            return WORSE
        inside = -self.margin < self.wide_low and self.wide_high < self.margin
        return EQUIVALENT if inside else UNDECIDED


def critical(df: float, count: int) -> float:
    """The reach, in standard errors, of intervals that hold for ``count`` differences at once."""
    return float(stdtrit(df, 1 - (1 - LEVEL) / (2 * count)))


def least_seeds(count: int) -> int:
    """The fewest seeds with which verdicts on so many differences hold their error rate.

    With three, the covariances of differences are too poorly known, by simulation.
    """
    return 2 if count < _FEWEST_FOR_PRIOR else 4


def paired_differences(
    reached: Reached,
    pairs: Sequence[tuple[Key, Key]],
    *,
    families: Sequence[Hashable] | None = None,
    margin: float = MARGIN,
    right: Right | None = None,
    overlap: float = 0.0,
) -> list[Difference]:
    """Mean, intervals and verdict of each of several paired differences.

    Args:
        reached: may lack runs, and may have more of the one that is compared with.
        pairs: who is compared with whom, within a group; they share a seed at least.
        families: of each pair, for the correction; all are one unless given.
        margin: within which accuracies are equivalent.
        right: which test images each run classified rightly, the same images in every run; without
            them the errors are those of the seeds alone.
        overlap: test images over training images where the seeds are folds of a cross-validation,
            whose training sets overlap (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366).
    """
    found: dict[int, Difference] = {}
    for group in {one[0] for one, _ in pairs}:
        places = [place for place, (one, _) in enumerate(pairs) if one[0] == group]
        estimates = _estimates(reached, [pairs[place] for place in places], right or {}, overlap)
        found.update(zip(places, estimates, strict=True))
    of = [""] * len(pairs) if families is None else list(families)
    counts = Counter(of[place] for place, estimate in found.items() if estimate.error is not None)
    return [_judged(found[place], counts[of[place]], margin) for place in range(len(pairs))]


def _judged(estimate: Difference, count: int, margin: float) -> Difference:
    """The difference with its intervals."""
    mean, error, df = estimate.mean, estimate.error, estimate.df
    if error is None or df is None:
        return replace(estimate, margin=margin)
    alone, wide = critical(df, 1) * error, critical(df, count) * error
    p = 2 * float(stdtr(df, -abs(mean) / error))
    return replace(
        estimate,
        low=mean - alone,
        high=mean + alone,
        wide_low=mean - wide,
        wide_high=mean + wide,
        p=p,
        corrected=min(1.0, count * p),
        count=count,
        margin=margin,
        least=least_seeds(count),
        detectable=wide + float(stdtrit(df, POWER)) * error,
    )


def _estimates(
    reached: Reached, pairs: Sequence[tuple[Key, Key]], right: Right, overlap: float
) -> list[Difference]:
    """Mean, standard error and degrees of freedom of each, of one group."""
    seeds = sorted(
        {seed for key in {key for pair in pairs for key in pair} for seed in reached[key]}
    )

    def row(key: Key) -> NDArray[np.float64]:
        return np.array([reached[key].get(seed, math.nan) for seed in seeds])

    ones, others = np.array([row(one) for one, _ in pairs]), np.array([row(o) for _, o in pairs])
    both = ~np.isnan(ones) & ~np.isnan(others)
    more = ~np.isnan(others) & ~both
    more[more.sum(axis=1) < 2] = False  # of which the spread is not known
    n, m = both.sum(axis=1), more.sum(axis=1)
    # Of the other's further seeds as much goes into its mean as what pairing wins allows.
    weight = np.where(m > 0, (n + _slope(ones, others, both) * m) / (n + m), 1.0)
    table = np.where(both, ones - weight[:, None] * others, math.nan)
    variances, dfs = moderated(table)
    found = []
    for place, (one, other) in enumerate(pairs):
        shared = [seed for seed, there in zip(seeds, both[place], strict=True) if there]
        parts = [(variances[place] * (1 / n[place] + overlap), dfs[place])]
        mean = float(np.nanmean(table[place]))
        if m[place]:
            rest = others[place][more[place]]
            left = 1 - weight[place]
            mean -= left * float(rest.mean())
            parts.append((left**2 * float(rest.var(ddof=1)) / m[place], m[place] - 1))
        if right.get(one) and right.get(other):
            asked = [s for s in shared if s in right[one] and s in right[other]]
            apart = [right[one][s].astype(float) - right[other][s] for s in asked]
            parts.append((image_variance(np.array(apart)), math.inf))
        variance = sum(part for part, _ in parts)
        if n[place] < 2 or variance <= _ROUNDING**2:
            found.append(Difference(int(n[place]), mean))
            continue
        spread = sum(part**2 / df for part, df in parts)  # Satterthwaite
        df = variance**2 / spread if spread else math.inf
        found.append(Difference(int(n[place]), mean, math.sqrt(variance), df))
    return found


def _slope(ones: NDArray[Any], others: NDArray[Any], both: NDArray[np.bool_]) -> float:
    """The share, from 0 to 1, of what a seed does to the others that it does to the ones."""

    def centered(values: NDArray[Any]) -> NDArray[Any]:
        known = np.where(both, values, math.nan)
        return np.nan_to_num(known - np.nanmean(known, axis=1, keepdims=True))

    theirs = centered(others)
    squares = float((theirs**2).sum())
    return float(np.clip((centered(ones) * theirs).sum() / squares, 0, 1)) if squares else 1.0


def image_variance(apart: NDArray[np.float64]) -> float:
    """The part of a mean difference's variance that the choice of test images adds.

    Seeds and images are crossed; the images' component of the variance is Henderson's, from mean
    squares, and 0 where it would be negative.

    Args:
        apart: ``[seeds, images]``, 1 where only one was right, -1 where only the other was.
    """
    n, images = apart.shape if apart.ndim == 2 else (0, 0)
    if n < 2 or images < 2:
        return 0.0
    by_image = apart.mean(axis=0)
    between = n * float(by_image.var(ddof=1))
    rest = apart - by_image - apart.mean(axis=1, keepdims=True) + apart.mean()
    within = float((rest**2).sum()) / ((n - 1) * (images - 1))
    return max(between - within, 0.0) / (n * images)


def moderated(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance and degrees of freedom of each row, which borrows from the others.

    Args:
        table: ``[rows, seeds]``, NaN where there is none; every row has one at least.
    """
    known = ~np.isnan(table)
    centered = np.where(known, table - np.nanmean(table, axis=1, keepdims=True), 0.0)
    own = np.maximum(known.sum(axis=1) - 1.0, 0.0)
    squares = (centered**2).sum(axis=1)
    variances = np.divide(squares, own, out=np.zeros_like(squares), where=own > 0)
    usable = variances > _ROUNDING**2
    if usable.sum() < _FEWEST_FOR_PRIOR:
        return variances, own
    d0, s0 = prior(variances[usable], own[usable])
    share = 1.0 if math.isinf(d0) else d0 / (d0 + own[usable])
    shrunk = share * s0 + (1 - share) * variances[usable]
    variances[usable] = np.maximum(shrunk, variances[usable])
    borrowed = min(_box(centered[usable], known[usable]), _MOST_BORROWED)
    dfs = own.copy()
    dfs[usable] = np.minimum(d0 + own[usable], borrowed * own[usable])
    return variances, dfs


def _box(centered: NDArray[np.float64], known: NDArray[np.bool_]) -> float:
    """Box's (tr C)^2 / tr C^2 of the rows' covariances: how many independent rows they are worth.

    The squares of covariances are estimated without bias, from pairs of rows.
    """
    df = known.astype(float) @ known.T - 1
    enough = df > 1
    df = np.where(enough, df, 2.0)
    covariances = centered @ centered.T / df
    own = np.diag(covariances)
    squares = (covariances**2 - np.outer(own, own) / df) * df**2 / ((df - 1) * (df + 2))
    total = float(own.sum()) ** 2
    # Where two rows share too few seeds, they are taken to say the same.
    squares = np.where(enough, squares, np.outer(own, own))
    return total / float(np.clip(squares.sum(), total / len(own), total))


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

    The degrees of freedom are infinite where the variances spread no more than sampling makes equal
    ones spread.

    Args:
        variances: each greater than zero, three at least.
        dfs: degrees of freedom of each.
    """
    s2, d = np.asarray(variances), np.asarray(dfs)
    logs = np.log(s2) - digamma(d / 2) + np.log(d / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, d / 2).mean())
    if excess <= 0:
        return math.inf, float((s2 * d).sum() / d.sum())
    d0 = 2 * _trigamma_inverse(excess)
    return d0, float(np.exp(logs.mean() + digamma(d0 / 2) - np.log(d0 / 2)))
