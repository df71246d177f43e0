"""Simulated error rates, coverage and power of a comparison's verdicts.

    python -m benchmarks.verdicts --repeats 2000

Nothing differs: how often is something shown (the family-wise error, which is what simultaneous
intervals miss), and how many of the intervals of one difference alone hold the truth? Something
differs: how often is it shown? Two other methods stand beside the one in use:
paired t intervals with Bonferroni's correction, which borrow no spread, and max-T by sign flips of
the centered differences. Prints Markdown and writes ``results/benchmarks/verdicts.{md,json}``.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.recipes import shown_command
from foundation.checkout import ROOT, git_commit
from foundation.machine import machine
from foundation.whole_file import write
from studies.compare.comparison_table import Comparison, Run, rows
from studies.compare.paired_statistics import (
    LEVEL,
    TOO_FEW,
    Difference,
    critical,
    paired_differences,
)
from studies.report.tables import as_markdown

Values = NDArray[np.float64]
SPREAD = 0.0012  # of one variant's runs, as the speedrun's
SEEDS = (3, 5, 10, 20)
COUNTS = (10, 60)


# What runs are drawn from: [1 + variants, seeds] in units of the spread, the base first.


def equal(rng: np.random.Generator, count: int, n: int) -> Values:
    return rng.normal(size=(count + 1, n)) + rng.normal(size=n)


def scaled(rng: np.random.Generator, scale: Values, n: int) -> Values:
    return scale[:, None] * rng.normal(size=(len(scale), n)) + rng.normal(size=n)


def inverse_chi2(df: int) -> Callable[[np.random.Generator, int, int], Values]:
    def draw(rng: np.random.Generator, count: int, n: int) -> Values:
        return scaled(rng, np.sqrt(df / rng.chisquare(df, count + 1)), n)

    return draw


def base_times(factor: float) -> Callable[[np.random.Generator, int, int], Values]:
    def draw(rng: np.random.Generator, count: int, n: int) -> Values:
        return scaled(rng, np.array([factor, *[1.0] * count]), n)

    return draw


def shared_by_half(with_base: bool) -> Callable[[np.random.Generator, int, int], Values]:
    """A seed does twice the spread to half of the variants, and nothing to the others."""

    def draw(rng: np.random.Generator, count: int, n: int) -> Values:
        values = rng.normal(size=(count + 1, n))
        values[1 : count // 2 + 1] += (effect := 2 * rng.normal(size=n))
        values[0] += effect * with_base
        return values

    return draw


def copies(rng: np.random.Generator, count: int, n: int) -> Values:
    """A fifth of the variants are the base's own runs, another fifth those of one variant."""
    values = equal(rng, count, n)
    fifth = count // 5
    values[1 : fifth + 1] = values[0]
    values[fifth + 1 : 2 * fifth + 1] = values[-1]
    return values


def student(rng: np.random.Generator, count: int, n: int) -> Values:
    return rng.standard_t(3, (count + 1, n)) / np.sqrt(3) + rng.normal(size=n)


def mishaps(rng: np.random.Generator, count: int, n: int) -> Values:
    """One run of twenty falls six spreads below the others."""
    return equal(rng, count, n) - 6 * (rng.random((count + 1, n)) < 0.05)


SCENARIOS = {
    "equal spreads": equal,
    "spreads from inverse χ², 4 df": inverse_chi2(4),
    "spreads from inverse χ², 2 df": inverse_chi2(2),
    "base twice as unstable": base_times(2),
    "base three times as unstable": base_times(3),
    "base a third as unstable": base_times(1 / 3),
    "seed effects that half of the variants share, with the base": shared_by_half(True),
    "the same, without the base": shared_by_half(False),
    "two fifths copies": copies,
    "heavy tails (t, 3 df)": student,
    "mishaps (1 run of 20)": mishaps,
}


# Methods: half widths of intervals for all at once and of each alone.


def in_use(values: Values) -> list[Difference]:
    """As ``compare.py`` judges them, copies found out and all."""
    names = ["base", *(f"v{i}" for i in range(1, len(values)))]
    runs = [
        Run("", name, seed, {"test/accuracy": 0.9 + SPREAD * value, "test/loss": 1 + value})
        for name, of in zip(names, values.tolist(), strict=True)
        for seed, value in enumerate(of)
    ]
    comparison = Comparison("", [""], names, False, list(range(values.shape[1])), {}, 1, runs)
    return [row.difference for row in rows(comparison) if row.difference and not row.identical]


def halves_of_t(values: Values) -> tuple[Values, Values, Values]:
    """Means, and the half widths of paired t: with Bonferroni, and alone."""
    apart = values[1:] - values[0]
    n = apart.shape[1]
    error = apart.std(axis=1, ddof=1) / np.sqrt(n)
    return apart.mean(axis=1), critical(n - 1, len(apart)) * error, critical(n - 1, 1) * error


def halves_of_flips(values: Values, rng: np.random.Generator) -> tuple[Values, Values, Values]:
    """Means, and half widths by the greatest |t| of sign flips; alone as paired t."""
    mean, _, alone = halves_of_t(values)
    centered = values[1:] - values[0] - mean[:, None]
    n = centered.shape[1]
    if n <= 10:
        signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
    else:
        signs = rng.choice([-1, 1], (500, n))
    flipped = centered @ signs.T / n
    square = (centered**2).mean(axis=1, keepdims=True)
    error = np.sqrt(np.maximum((square - flipped**2) / (n - 1), 1e-18))
    reach = np.quantile((np.abs(flipped) / error).max(axis=0), LEVEL, method="higher")
    return mean, reach * centered.std(axis=1, ddof=1) / np.sqrt(n), alone


def measure(
    draw: Callable[[np.random.Generator, int, int], Values],
    count: int,
    n: int,
    repeats: int,
    method: str = "in use",
) -> dict[str, float]:
    """Rates over repeated comparisons in which nothing differs.

    Shifting a variant's runs shifts its difference and both intervals alike, so that the same
    draws tell the power: a shift is shown where it is wider than what the interval lacks.
    """
    rng = np.random.default_rng([count, n])
    errors, refused, alone_held = 0, 0, 0.0
    shown = dict.fromkeys(POINTS, 0.0)
    reach: list[float] = []
    for _ in range(repeats):
        values = draw(rng, count, n)
        if method == "in use":
            found = in_use(values)
            mean = np.array([d.mean for d in found]) / SPREAD
            low = np.array([d.low or 0.0 for d in found]) / SPREAD
            wide_low = np.array([d.wide_low or 0.0 for d in found]) / SPREAD
            alone, wide = mean - low, mean - wide_low
            refused += found[0].verdict == TOO_FEW
        else:
            flips = method.startswith("max-T")
            mean, wide, alone = halves_of_flips(values, rng) if flips else halves_of_t(values)
        errors += bool((np.abs(mean) > wide).any())
        alone_held += float((np.abs(mean) <= alone).mean())
        reach.append(float(np.median(wide)))
        for shift in POINTS:
            shown[shift] += float((mean + shift / 100 / SPREAD > wide).mean())
    return {
        "error": errors / repeats,
        "refused": refused / repeats,
        "held": alone_held / repeats,
        "reach": 100 * SPREAD * float(np.mean(reach)),
        **{f"shown {shift:g}": value / repeats for shift, value in shown.items()},
    }


POINTS = (0.15, 0.3, 0.6)
METHODS = ("in use", "paired t, Bonferroni", "max-T, sign flips")


# Test images and folds.


def image_coverage(images: int, n: int, repeats: int, *, with_images: bool = True) -> float:
    """How often intervals of one difference hold the truth, which is about all possible images.

    Two variants are right on an image by its difficulty, by what the variant makes of it, by the
    run's seed, and by chance; over all images they are right equally often, with 93%.
    """
    rng = np.random.default_rng([images, n])
    held = 0
    spreads = np.array([1.0, 0.3, 0.02, 0.4])  # of difficulty, variant, seed, chance
    offset = float(norm.ppf(0.93)) * float(np.sqrt((spreads**2).sum()))
    for _ in range(repeats):
        difficulty = offset + spreads[0] * rng.normal(size=images)
        own = spreads[1] * rng.normal(size=(2, 1, images))
        seed = spreads[2] * rng.normal(size=(2, n, 1))
        chance = spreads[3] * rng.normal(size=(2, n, images))
        right = difficulty + own + seed + chance > 0
        keys = [("", "base"), ("", "a")]
        reached = {
            key: dict(enumerate(of.mean(axis=1).tolist()))
            for key, of in zip(keys, right, strict=True)
        }
        asked = {key: dict(enumerate(of)) for key, of in zip(keys, right, strict=True)}
        [found] = paired_differences(
            reached, [(keys[1], keys[0])], right=asked if with_images else None
        )
        held += (found.low or 0.0) <= 0 <= (found.high or 0.0)
    return held / repeats


def fold_coverage(folds: int, repeats: int, *, corrected: bool = True) -> float:
    """The same for the folds of a cross-validation, whose results are correlated by 1 / folds."""
    rng = np.random.default_rng(folds)
    held = 0
    for _ in range(repeats):
        apart = np.sqrt(1 / folds) * rng.normal() + np.sqrt(1 - 1 / folds) * rng.normal(size=folds)
        reached = {("", "base"): dict.fromkeys(range(folds), 0.9)}
        reached["", "a"] = dict(enumerate((0.9 + 0.01 * apart).tolist()))
        overlap = 1 / (folds - 1) if corrected else 0.0
        [found] = paired_differences(reached, [(("", "a"), ("", "base"))], overlap=overlap)
        held += (found.low or 0.0) <= 0 <= (found.high or 0.0)
    return held / repeats


# Tables.


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    repeats = options.repeats
    found: dict[str, dict[str, dict[str, float]]] = {}
    header = ["scenario", *(f"n = {n}, {count}" for count in COUNTS for n in SEEDS)]
    errors, held = [], []
    for name, draw in SCENARIOS.items():
        cells = {
            f"{n} seeds, {count} variants": measure(draw, count, n, repeats)
            for count in COUNTS
            for n in SEEDS
        }
        found[name] = cells
        errors.append(
            [name, *(percent(c["error"]) + "°" * (c["refused"] > 0.5) for c in cells.values())]
        )
        held.append([name, *(percent(c["held"]) for c in cells.values())])
    methods: dict[str, dict[str, dict[str, float]]] = {}
    power = []
    for method in METHODS:
        for name in ("equal spreads", "spreads from inverse χ², 4 df"):
            cells = {}
            for count in COUNTS:
                for n in SEEDS[1:]:
                    cells[f"{n} seeds, {count} variants"] = measure(
                        SCENARIOS[name], count, n, max(repeats // 4, 1), method
                    )
            methods[f"{method}: {name}"] = cells
            power.append(
                [f"{method}; {name}"]
                + [
                    f"±{c['reach']:.2f}; {percent(c['error'])}; "
                    + ", ".join(f"{100 * c[f'shown {p:g}']:.0f}" for p in POINTS)
                    for c in cells.values()
                ]
            )
    images = [
        [f"n = {n}"]
        + [
            f"{percent(image_coverage(count, n, repeats // 2))} "
            f"({percent(image_coverage(count, n, repeats // 2, with_images=False))})"
            for count in (200, 1000, 10000)
        ]
        for n in SEEDS
    ]
    folds = [
        [
            f"{k} folds",
            percent(fold_coverage(k, repeats)),
            percent(fold_coverage(k, repeats, corrected=False)),
        ]
        for k in (5, 10)
    ]
    command, commit = shown_command("benchmarks.verdicts", arguments), git_commit() or "unknown"
    margin = 196 * np.sqrt(0.05 * 0.95 / repeats)
    text = "\n".join(
        [
            f"`{command}` on {machine()}, at {commit}; {repeats} simulated comparisons a cell, so "
            f"that 5% is told to ±{margin:.1f} points. Seeds, then variants",
            "",
            "Something is shown where nothing differs (° ranks only and shows nothing; the number "
            "is what its intervals would miss):",
            "",
            as_markdown(header, errors),
            "Intervals of one difference alone that hold the truth:",
            "",
            as_markdown(header, held),
            f"Reach of an interval for all at once, in points, at a spread of {100 * SPREAD:.2f} "
            f"points; the family-wise error; and of differences of {', '.join(map(str, POINTS))} "
            "points how many percent are shown:",
            "",
            as_markdown(
                ["method; scenario", *(f"n = {n}, {c}" for c in COUNTS for n in SEEDS[1:])], power
            ),
            "Intervals of one difference that hold what is true of all images, by the size of the "
            "test set (in brackets those of seeds alone):",
            "",
            as_markdown(["seeds", "200", "1,000", "10,000"], images),
            "The same for folds of a cross-validation, corrected for their overlap and not:",
            "",
            as_markdown(["", "corrected", "not corrected"], folds),
        ]
    )
    print(text)
    write(options.results / "verdicts.md", text)
    record = {"command": command, "machine": machine(), "commit": commit, "repeats": repeats}
    write(
        options.results / "verdicts.json",
        json.dumps({**record, "scenarios": found, "methods": methods}, indent=1) + "\n",
    )


if __name__ == "__main__":
    main()
