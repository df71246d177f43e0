import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from studies.compare.comparison_table import (
    FAILED,
    NO_BASE,
    Comparison,
    Row,
    Run,
    rows,
)
from studies.compare.paired_statistics import BETTER, TOO_FEW, UNDECIDED, WORSE, paired_differences

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


# Few pairs, no spread.


def test_one_seed_has_no_interval() -> None:
    row = table([*of("base", BASE[:1]), *of("a", [0.95])])["a"]
    assert row.difference is not None
    assert (row.n, row.difference.mean, row.sd) == (1, pytest.approx(0.04), None)
    assert (row.difference.low, row.verdict) == (None, TOO_FEW)


def test_runs_of_the_base_or_of_another_variant_count_once() -> None:
    rng = np.random.default_rng(0)
    drawn = {f"v{i}": rng.normal(0.91, 0.002, 6).tolist() for i in range(4)}
    base = rng.normal(0.91, 0.002, 6).tolist()
    apart = [r for name, values in drawn.items() for r in of(name, values)]
    alone = table([*of("base", base), *apart])
    copied = [*apart, *of("as base", base), *of("as v1", drawn["v1"]), *of("as base too", base)]
    among = table([*of("base", base), *copied])
    for name in drawn:
        assert among[name].difference == alone[name].difference
    assert among["as base"].verdict == among["as base too"].verdict == "identical to base"
    assert among["as base"].difference is None
    assert among["as v1"].verdict == "identical to v1"
    assert among["as v1"].difference == among["v1"].difference


def test_equally_many_right_by_chance_are_not_identical() -> None:
    one = [run("base", 0, 0.9, **{"test/loss": 0.31}), run("a", 0, 0.9, **{"test/loss": 0.32})]
    assert table(one)["a"].verdict == TOO_FEW
    assert table([*of("base", BASE[:1]), *of("a", BASE[:1])])["a"].verdict == TOO_FEW
    shifted = table([*of("base", BASE), *of("a", [a + 0.01 for a in BASE])])["a"]
    assert shifted.verdict == TOO_FEW  # no spread, so no error either


def test_families_are_corrected_apart() -> None:
    rng = np.random.default_rng(1)
    runs = [r for i in range(7) for r in of(f"v{i}", rng.normal(0.9, 0.002, 8).tolist())]
    whole = comparison(runs)
    apart = comparison(runs)
    apart.families = {"few": ["v1", "v2"]}
    counts = [row.difference.count for row in rows(whole) if row.difference]
    assert counts == [6] * 6
    found = {row.variant: row.difference for row in rows(apart) if row.difference}
    assert [found[f"v{i}"].count for i in range(1, 7)] == [2, 2, 4, 4, 4, 4]


def test_seeds_of_several_machines_are_known() -> None:
    runs = of("base", BASE) + of("a", BASE[::-1])
    for r in runs:
        r.machine = "one" if r.seed else f"one{r.variant}"
    assert comparison(runs).mixed_seeds() == {0: ["onea", "onebase"]}


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
    worse = [a - 0.1 for a in BASE[::-1]]  # two differences: three seeds are enough
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
    assert (found["a"].step.verdict, found["b"].step.verdict) == (BETTER, UNDECIDED)
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
