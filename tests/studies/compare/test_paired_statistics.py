import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import polygamma

from studies.compare.paired_statistics import (
    BETTER,
    FAILED,
    NO_BASE,
    SAME,
    TOO_FEW,
    UNCLEAR,
    WORSE,
    Comparison,
    Difference,
    Row,
    Run,
    paired_differences,
    prior,
    rows,
    spreads,
)

BASE = [0.91, 0.912, 0.909]


def run(variant: str, seed: int, accuracy: float | None = None, **kw: Any) -> Run:
    """A run that reached this accuracy on the test set, or failed."""
    group, curve = kw.pop("group", ""), kw.pop("curve", [])
    curves = {"val/accuracy": curve} if curve else {}
    if accuracy is None:
        return Run(group, variant, seed, reason="ValueError: no", curves=curves)
    return Run(group, variant, seed, {"test/accuracy": accuracy, **kw}, curves)


def comparison(runs: Sequence[Run], chain: bool = False) -> Comparison:
    groups, variants = (
        list(dict.fromkeys(getattr(r, k) for r in runs)) for k in ("group", "variant")
    )
    return Comparison("test", groups, variants, chain, [0, 1, 2], {}, 5, list(runs))


def table(runs: Sequence[Run], chain: bool = False) -> dict[str, Row]:
    return {f"{row.group}{row.variant}": row for row in rows(comparison(runs, chain))}


def of(variant: str, accuracies: Sequence[float], **kw: Any) -> list[Run]:
    return [run(variant, seed, accuracy, **kw) for seed, accuracy in enumerate(accuracies)]


def against_the_first(reached: Any) -> list[Difference]:
    """Each row of accuracies against the first one."""
    cells = {("", str(i)): dict(enumerate(row)) for i, row in enumerate(np.asarray(reached))}
    base, *others = cells
    return paired_differences(cells, [(other, base) for other in others])


# The test.


def test_one_difference_is_an_ordinary_paired_t() -> None:
    other = [0.92, 0.925, 0.917]
    [difference] = against_the_first([BASE, other])
    expected: Any = stats.ttest_rel(other, BASE)
    low, high = expected.confidence_interval(0.95)
    assert difference.df == pytest.approx(2)
    assert difference.t == pytest.approx(expected.statistic)
    assert difference.p == difference.corrected == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))


def test_equal_spreads_are_those_of_a_block_design() -> None:
    """Two-way analysis of variance, by hand: 4 variants, 3 seeds, 6 degrees of freedom."""
    residuals = np.outer([1, -1, 1, -1], [1, -1, 0])
    reached = residuals + np.array([[3.0], [7], [5], [4]]) + np.array([0.0, 10, 20])
    found, df = spreads({i: dict(enumerate(row)) for i, row in enumerate(reached)})
    assert df == pytest.approx(6)
    assert [v for v, _ in found.values()] == pytest.approx([8 / 6] * 4)


def test_an_unstable_variant_says_little_of_what_a_seed_does() -> None:
    calm = np.outer([1, -1, 1, -1, 1, -1], [0.001, -0.001, 0])
    alone, _ = spreads({i: dict(enumerate(row)) for i, row in enumerate(calm)})
    wild = np.vstack([calm, [[0.03, -0.01, -0.02]]])
    among, _ = spreads({i: dict(enumerate(row)) for i, row in enumerate(wild)})
    assert among[6][0] > 0.02**2
    assert all(among[i][0] < 4 * alone[i][0] for i in range(6))


def test_several_differences_are_corrected_by_holm() -> None:
    found = against_the_first([[1.0, 2, 4], [3, 3, 6], [2, 4, 5]])
    p = [difference.p or 0 for difference in found]
    assert found[0].corrected == pytest.approx(2 * p[0])
    assert found[1].corrected == pytest.approx(max(p[1], 2 * p[0]))
    assert p[0] < p[1]


def test_runs_that_are_missing_leave_the_others_as_they_were() -> None:
    reached = {("", "base"): {0: 1.0, 1: 2.0, 2: 4.0}, ("", "a"): {0: 3.0, 2: 6.5}}
    [difference] = paired_differences(reached, [(("", "a"), ("", "base"))])
    expected: Any = stats.ttest_rel([3.0, 6.5], [1.0, 4.0])
    assert (difference.n, difference.t) == (2, pytest.approx(expected.statistic))
    assert difference.p == pytest.approx(expected.pvalue)


def test_prior_finds_what_the_variances_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    variances = 4 * 10 / rng.chisquare(10, 20000) * rng.chisquare(2, 20000) / 2
    d0, s0 = prior(variances.tolist(), [2.0] * 20000)
    assert d0 == pytest.approx(10, rel=0.15)
    assert s0 == pytest.approx(4, rel=0.05)


def test_prior_of_equal_variances_is_certain() -> None:
    assert prior([2.0, 3, 4], [2.0, 2, 2]) == (math.inf, 3.0)
    assert prior([2.0, 3], [2.0, 2]) == (0.0, 0.0)
    spread = 7.0 - float(polygamma(1, 1))
    d0, _ = prior([math.exp(-(7**0.5)), 1.0, math.exp(7**0.5)], [2.0] * 3)
    assert polygamma(1, d0 / 2) == pytest.approx(spread)


def test_a_variance_is_never_made_smaller() -> None:
    rng = np.random.default_rng(0)
    reached = rng.normal(0.9, 0.001, (11, 3))
    reached[-1] = [0.8, 0.9, 1.0]
    found, _ = spreads({i: dict(enumerate(row)) for i, row in enumerate(reached)})
    assert found[10][0] > 0.8 * 0.1**2
    assert all(variance < 0.02**2 for variance, _ in list(found.values())[:-1])


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("count", [4, 60])
def test_error_rates_by_simulation(count: int, spread: float, seeds: int) -> None:
    """Nothing differs: how often is something found, and how many intervals hold zero?

    All differences share the base's runs, and seeds have an effect of their own; where there is
    spread, the standard deviations are drawn from a scaled inverse chi with 4 degrees of freedom,
    the base's too.
    """
    rng = np.random.default_rng([count, seeds])
    repeats = 1000
    errors, held = 0, 0
    for _ in range(repeats):
        sd = (4 / rng.chisquare(4, (count + 1, 1))) ** (spread / 2)
        reached = 0.9 + 0.003 * (sd * rng.normal(size=(count + 1, seeds)) + rng.normal(size=seeds))
        found = against_the_first(reached)
        errors += any(difference.verdict != UNCLEAR for difference in found)
        held += sum((d.low or 0) <= 0 <= (d.high or 0) for d in found)
    assert errors / repeats < (0.065 if spread else 0.055)
    assert 0.935 < held / repeats / count < 0.98


def test_power_over_ordinary_t() -> None:
    """1.2 points in a spread of 0.2 are seen among 60 with 3 seeds; by an ordinary t rarely."""
    rng = np.random.default_rng(0)
    seen, ordinary = 0, 0
    for _ in range(40):
        reached = rng.normal(0.9, 0.002, (61, 3))
        reached[1:11] += 0.012
        samples = (reached[1:] - reached[0]).tolist()
        found = against_the_first(reached)
        seen += sum(difference.verdict == BETTER for difference in found[:10])
        ordinary += sum(stats.ttest_1samp(sample, 0).pvalue < 0.05 / 60 for sample in samples[:10])
    assert seen > 240
    assert ordinary < 40


# Few pairs, no spread.


def test_one_seed_has_no_interval() -> None:
    row = table([*of("base", BASE[:1]), *of("a", [0.95])])["a"]
    assert row.difference is not None
    assert (row.n, row.difference.mean, row.sd) == (1, pytest.approx(0.04), None)
    assert (row.difference.low, row.verdict) == (None, TOO_FEW)


def test_equal_runs() -> None:
    same = table([*of("base", BASE), *of("a", BASE)])["a"]
    assert same.verdict == SAME
    shifted = table([*of("base", BASE), *of("a", [a + 0.01 for a in BASE])])["a"]
    assert shifted.verdict == TOO_FEW
    others = [r for i in range(5) for r in of(f"v{i}", np.roll(BASE, i + 1).tolist())]
    among = table([*of("base", BASE), *of("a", BASE), *others])["a"]
    assert among.verdict == SAME
    assert among.difference is not None
    assert (among.difference.mean, among.difference.low) == (0, None)


def test_failed_seeds_are_left_out_in_pairs() -> None:
    runs = [*of("base", BASE[:2]), run("base", 2), run("a", 0), *of("a", [0, 0.95, 0.93])[1:]]
    row = table(runs)["a"]
    assert (row.n, row.mean, len(row.failed)) == (2, pytest.approx(0.94), 1)
    assert row.difference is not None
    assert (row.difference.n, row.difference.mean) == (1, pytest.approx(0.95 - BASE[1]))


def test_without_any_accuracy() -> None:
    found = table([*of("base", BASE), run("a", 0), run("b", 0, math.nan)])
    assert found["a"].verdict == FAILED
    assert (found["b"].verdict, found["b"].mean) == ("no result", None)
    assert table([run("base", 0), *of("a", BASE)])["a"].verdict == NO_BASE
    assert paired_differences({}, []) == []


# The rows.


def test_each_group_has_its_base() -> None:
    worse = [a - 0.1 for a in BASE[::-1]]
    runs = [*of("base", BASE, group="x"), *of("a", worse, group="x")]
    runs += [*of("base", worse, group="y"), *of("a", [*BASE[1:], BASE[0]], group="y")]
    found = table(runs)
    assert [found[key].verdict for key in ("xbase", "xa", "ybase", "ya")] == [
        *("base", WORSE),
        *("base", BETTER),
    ]


def test_chain_compares_with_the_variant_before() -> None:
    a, b = [0.95, 0.951, 0.949], [0.95, 0.9525, 0.9485]
    found = table([*of("base", BASE), *of("a", a), *of("b", b)], chain=True)
    assert found["base"].step is None
    assert found["a"].step is not None
    assert found["b"].step is not None
    assert found["a"].step.mean == pytest.approx(np.mean(a) - np.mean(BASE))
    assert found["b"].step.mean == pytest.approx(np.mean(b) - np.mean(a))
    assert (found["a"].step.verdict, found["b"].step.verdict) == (BETTER, UNCLEAR)
    assert table([*of("base", BASE), *of("a", a)])["a"].step is None


def test_costs_are_ratios_of_medians() -> None:
    runs = [run("base", i, 0.9, seconds_per_epoch=s) for i, s in enumerate((10.0, 11.0, 90.0))]
    runs += [
        run("a", i, 0.9, seconds_per_epoch=s, peak_memory=1e9) for i, s in enumerate((22.0, 1))
    ]
    found = table(runs)
    assert found["a"].time == pytest.approx(11.5 / 11)
    assert found["base"].time == 1
    assert found["a"].memory is None  # the base's is unknown


def test_losses_gap_and_diagnosis() -> None:
    measured: dict[str, Any] = {"val/loss": 0.3, "test/calibration_error": 0.02}
    runs = [run("base", 0, 0.9, train_accuracy=0.95, **measured), run("base", 1, 0.8)]
    runs[0].diagnosis = runs[1].diagnosis = "overfitting"
    row = table(runs)["base"]
    assert (row.validation_loss, row.calibration_error) == (0.3, 0.02)
    assert (row.gap, row.diagnosis) == (pytest.approx(0.05), "overfitting")
    runs[1].diagnosis = "a good fit"
    assert table(runs)["base"].diagnosis == "overfitting (1 of 2)"


def test_epochs_to_the_best_of_the_base_with_the_same_seed() -> None:
    base = [[0.7, 0.9, 0.8], [0.5, 0.6, math.nan], [0.8, 0.9, 0.95]]
    ours = [[0.8, 0.85, 0.9], [0.6, 0.7, 0.8], [0.9, 0.9, 0.9]]
    runs = [run("base", seed, 0.9, curve=curve) for seed, curve in enumerate(base)]
    runs += [run("a", seed, 0.9, curve=curve) for seed, curve in enumerate(ours)]
    found = table([*runs, run("a", 3, 0.9, curve=[1.0])])
    assert (found["base"].epochs_to_base, found["base"].reached) == (pytest.approx(7 / 3), 3)
    row = found["a"]
    assert (row.epochs_to_base, row.reached, row.comparable) == (2.0, 2, 3)
