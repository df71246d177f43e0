import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import polygamma

from studies.compare.paired_statistics import (
    BETTER,
    EQUIVALENT,
    TOO_FEW,
    UNDECIDED,
    WORSE,
    Difference,
    image_variance,
    least_seeds,
    moderated,
    paired_differences,
    prior,
)

BASE = [0.91, 0.912, 0.909]
KEYS = [("", "base"), ("", "a")]


def against_the_first(reached: Any, **kw: Any) -> list[Difference]:
    """Each row of accuracies against the first one."""
    cells = {("", str(i)): dict(enumerate(row)) for i, row in enumerate(np.asarray(reached))}
    base, *others = cells
    return paired_differences(cells, [(other, base) for other in others], **kw)


# One difference.


def test_one_difference_is_an_ordinary_paired_t() -> None:
    other = [0.92, 0.925, 0.917]
    [difference] = against_the_first([BASE, other])
    expected: Any = stats.ttest_rel(other, BASE)
    low, high = expected.confidence_interval(0.95)
    assert difference.df == pytest.approx(2)
    assert difference.mean / (difference.error or 0) == pytest.approx(expected.statistic)
    assert difference.p == difference.corrected == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))
    assert (difference.wide_low, difference.wide_high) == (difference.low, difference.high)


@pytest.mark.parametrize(
    ("mean", "margin", "verdict"),
    [
        (0.01, 0.003, BETTER),
        (-0.01, 0.003, WORSE),
        (0.0002, 0.003, EQUIVALENT),
        (0.0002, 0.0008, UNDECIDED),
        (0.002, 0.003, BETTER),  # within the margin, but shown
    ],
)
def test_verdicts_are_read_off_the_interval(mean: float, margin: float, verdict: str) -> None:
    base = np.linspace(0.9, 0.91, 12)
    apart = np.tile([0.001, -0.001], 6)
    [difference] = against_the_first([base, base + mean + apart], margin=margin)
    assert difference.wide_high is not None
    assert difference.wide_high - difference.mean == pytest.approx(0.00066, abs=5e-5)
    assert difference.verdict == verdict


def test_detectable_is_what_is_shown_four_times_of_five() -> None:
    rng = np.random.default_rng(0)
    spread, n = 0.001, 12
    [difference] = against_the_first(rng.normal(0.9, spread, (2, n)))
    # Of known spread: what reaches 80% by a two-sided t-test of twelve pairs.
    shown = 0
    effect = spread * math.sqrt(2 / n) * (2.201 + 0.876)
    for _ in range(2000):
        sample = rng.normal(effect, spread * math.sqrt(2), n)
        shown += stats.ttest_1samp(sample, 0).pvalue < 0.05
    assert shown / 2000 == pytest.approx(0.8, abs=0.03)
    assert difference.detectable == pytest.approx(
        (2.201 + 0.876) * (difference.error or 0), rel=1e-3
    )


def test_runs_that_are_missing_leave_the_others_as_they_were() -> None:
    reached = {("", "base"): {0: 1.0, 2: 4.0}, ("", "a"): {0: 3.0, 1: 9.0, 2: 6.5}}
    [difference] = paired_differences(reached, [(("", "a"), ("", "base"))])
    expected: Any = stats.ttest_rel([3.0, 6.5], [1.0, 4.0])
    assert difference.n == 2
    assert difference.p == pytest.approx(expected.pvalue)


def test_further_seeds_of_the_base_count_by_what_pairing_is_worth() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.normal(0.9, 0.001, 40), rng.normal(0.9, 0.001, 10)

    def error(seed_effect: float) -> tuple[float, float]:
        seeds = seed_effect * rng.normal(size=40)
        more = {("", "base"): dict(enumerate(base + seeds))}
        more["", "a"] = dict(enumerate(other + seeds[:10]))
        few = {**more, ("", "base"): dict(list(more["", "base"].items())[:10])}
        errors = [
            paired_differences(reached, [(("", "a"), ("", "base"))])[0].error or 0.0
            for reached in (more, few)
        ]
        return errors[0], errors[1]

    more, few = error(0.0)
    assert more < 0.93 * few  # 0.79 where everything is known
    more, few = error(0.05)  # what a seed does drowns the rest: pairs alone count
    assert more == pytest.approx(few, rel=0.1)


def test_one_seed_and_no_spread_have_no_interval() -> None:
    for reached in ([[0.9], [0.95]], [BASE, [a + 0.01 for a in BASE]]):
        [difference] = against_the_first(reached)
        assert (difference.error, difference.low, difference.verdict) == (None, None, TOO_FEW)
        assert difference.mean > 0
    assert paired_differences({}, []) == []


# Several.


def test_several_differences_hold_at_once_by_bonferroni() -> None:
    found = against_the_first([[1.0, 2, 4], [3, 3, 6], [2, 4, 5]])
    for difference in found:
        assert difference.corrected == pytest.approx(min(1, 2 * (difference.p or 0)))
        assert difference.wide_high is not None
        reach = (difference.wide_high - difference.mean) / (difference.error or 1)
        assert reach == pytest.approx(stats.t.ppf(1 - 0.05 / 4, difference.df))


def test_three_seeds_rank_many_and_judge_few() -> None:
    apart = np.random.default_rng(0).normal(0, 0.001, (12, 3))
    assert {d.verdict for d in against_the_first(0.9 + apart)} == {TOO_FEW}
    assert {d.least for d in against_the_first(0.9 + apart)} == {4}
    assert least_seeds(2) == 2


def test_rows_borrow_but_are_never_made_calmer() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (12, 4))
    table[-1] *= 30
    variances, df = moderated(table)
    own = table.var(axis=1, ddof=1)
    assert (variances >= own - 1e-12).all()
    assert variances[-1] == pytest.approx(own[-1])
    assert variances[own.argmin()] > 1.2 * own.min()
    assert (df > 3).all()
    assert (df <= 9).all()


@pytest.mark.parametrize(("shared", "least", "most"), [(0.0, 26, 27), (1.0, 18, 27), (5.0, 9, 13)])
def test_what_differences_have_in_common_is_no_evidence_of_its_own(
    shared: float, least: float, most: float
) -> None:
    """Ten seeds have nine degrees of freedom, and thirty rows at most three times as many."""
    rng = np.random.default_rng(1)
    dfs = []
    for _ in range(50):
        _, df = moderated(rng.normal(size=(30, 10)) + shared * rng.normal(size=10))
        dfs.append(df.mean())
    assert least <= np.mean(dfs) <= most


def test_rows_with_missing_seeds_borrow_too() -> None:
    table = np.random.default_rng(0).normal(size=(8, 6))
    table[2, 3:] = math.nan
    table[5, :5] = math.nan
    variances, df = moderated(table)
    assert variances[5] == 0
    assert df[5] == 0
    assert df[2] > 2
    assert np.isfinite(variances).all()


def test_prior_finds_what_the_variances_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    variances = 4 * 10 / rng.chisquare(10, 20000) * rng.chisquare(2, 20000) / 2
    d0, s0 = prior(variances.tolist(), [2.0] * 20000)
    assert d0 == pytest.approx(10, rel=0.15)
    assert s0 == pytest.approx(4, rel=0.05)


def test_prior_of_equal_variances_is_certain() -> None:
    assert prior([2.0, 3, 4], [2.0, 2, 2]) == (math.inf, 3.0)
    spread = 7.0 - float(polygamma(1, 1))
    d0, _ = prior([math.exp(-(7**0.5)), 1.0, math.exp(7**0.5)], [2.0] * 3)
    assert polygamma(1, d0 / 2) == pytest.approx(spread)


# Test images.


def test_image_variance_is_what_the_simulation_put_in() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        own = 0.3 * rng.normal(size=400)
        found.append(image_variance(own + rng.normal(size=(6, 400)) + rng.normal(size=(6, 1))))
    assert np.mean(found) == pytest.approx(0.09 / 400, rel=0.1)
    assert image_variance(np.zeros((6, 400))) == image_variance(np.ones((1, 400))) == 0


def test_intervals_widen_by_what_another_test_set_would_say() -> None:
    rng = np.random.default_rng(0)
    right = {key: dict(enumerate(rng.random((5, 300)) < 0.9)) for key in KEYS}
    hard = rng.random(300) < 0.2
    right[KEYS[1]] = {seed: of & ~hard for seed, of in right[KEYS[1]].items()}  # always wrong
    reached = {key: {s: float(r.mean()) for s, r in of.items()} for key, of in right.items()}
    [both] = paired_differences(reached, [(KEYS[1], KEYS[0])], right=right)
    [alone] = paired_differences(reached, [(KEYS[1], KEYS[0])])
    assert both.mean == alone.mean
    assert both.error is not None
    assert alone.error is not None
    assert both.error**2 - alone.error**2 == pytest.approx(
        0.9**2 * hard.mean() * (1 - hard.mean()) / 300, rel=0.2
    )
    assert (both.df or 0) > (alone.df or 0)


def test_folds_share_their_training_images() -> None:
    rows = [BASE, [0.92, 0.925, 0.917]]
    [apart], [folds] = against_the_first(rows), against_the_first(rows, overlap=0.5)
    assert folds.error == pytest.approx((apart.error or 0) * math.sqrt((1 / 3 + 0.5) / (1 / 3)))


# Rates, briefly: benchmarks/verdicts.py has the whole table.


def of_drawn(rng: np.random.Generator, count: int, seeds: int, kind: str) -> np.ndarray:
    values = rng.normal(size=(count + 1, seeds))
    if kind == "spread":
        values *= np.sqrt(4 / rng.chisquare(4, (count + 1, 1)))
    if kind == "unstable base":
        values[0] *= 3
    values += rng.normal(size=seeds)
    if kind == "half share":
        values[: count // 2] += 2 * rng.normal(size=seeds)
    return 0.9 + 0.003 * values


@pytest.mark.parametrize("kind", ["equal", "spread", "unstable base", "half share"])
@pytest.mark.parametrize(
    ("count", "seeds"), [(10, 4), pytest.param(40, 5, marks=pytest.mark.slow), (10, 10)]
)
def test_error_rates_by_simulation(count: int, seeds: int, kind: str) -> None:
    """Nothing differs: how often is something found, and how many intervals hold zero?"""
    rng = np.random.default_rng([count, seeds])
    repeats, errors, held = 400, 0, 0
    for _ in range(repeats):
        found = against_the_first(of_drawn(rng, count, seeds, kind))
        errors += any(d.verdict in (BETTER, WORSE) for d in found)
        held += sum((d.low or 0) <= 0 <= (d.high or 0) for d in found)
    assert errors / repeats < 0.08  # 5%, and three standard errors of 400 repeats
    assert held / repeats / count > (0.91 if kind == "unstable base" else 0.93)


def test_power_over_ordinary_t() -> None:
    """0.9 points in a spread of 0.2 are seen among 60 with 5 seeds; by an ordinary t rarely."""
    rng = np.random.default_rng(0)
    seen, ordinary = 0, 0

    def t(samples: Sequence[Any]) -> int:
        return sum(stats.ttest_1samp(sample, 0).pvalue < 0.05 / 60 for sample in samples)

    for _ in range(40):
        reached = rng.normal(0.9, 0.002, (61, 5))
        reached[1:11] += 0.009
        seen += sum(d.verdict == BETTER for d in against_the_first(reached)[:10])
        ordinary += t((reached[1:11] - reached[0]).tolist())
    assert seen > 350
    assert ordinary < 160
