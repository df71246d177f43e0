"""Figures of a comparison; each function gives one, or None where there is nothing to draw.

Intervals are those of one difference alone, and thinner those that hold for all at once. Groups
have a panel each, with a scale of its own: what helps by a tenth of a point in one may help by ten
in another. Values far off the others do not stretch a scale; they stand at its edge, with their
number. Colors are verdicts.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from studies.compare.comparison_table import IDENTICAL, NO_BASE, Comparison, Row
from studies.compare.paired_statistics import (
    BETTER,
    EQUIVALENT,
    TOO_FEW,
    UNDECIDED,
    WORSE,
    Difference,
)
from studies.report.canvas import BLUE, GRAY, INK, ORANGE, RED, canvas, strip_axes
from studies.report.words import interval, points

OCHRE = "#b9a36b"
GREEN = "#2a9d8f"
COLORS = {
    "base": INK,
    BETTER: BLUE,
    EQUIVALENT: GREEN,
    UNDECIDED: GRAY,
    IDENTICAL: "#c4c4c4",
    WORSE: RED,
    TOO_FEW: OCHRE,
    NO_BASE: OCHRE,
}
LINES = [BLUE, GREEN, "#7a5cc2", ORANGE, RED, "#b5477d"]

# More learning curves than these cannot be told apart: the best and the worst ones are colored.
MOST_CURVES = 6


# Words.


def _name(text: str, length: int = 38) -> str:
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("$", r"\$")  # or it would be set as mathematics


def _kind(row: Row) -> str:
    """The row's verdict, without what it is identical to."""
    return IDENTICAL if row.identical is not None else row.verdict


def _heading(axes: Axes, group: str) -> None:
    if group:
        axes.set_title(_name(group, 60), loc="left", fontsize=10, weight="bold", color=INK)


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows that have a test accuracy, by group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.accuracies:
            groups.setdefault(row.group, []).append(row)
    return groups


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest value but for those far off.

    Far off is what lies beyond Tukey's far fence, and away by more than six times
    what the rest spans.
    """
    q1, q3 = np.quantile(values, [0.25, 0.75])
    reach = 3 * (q3 - q1)
    low = min(value for value in values if value >= q1 - reach)
    high = max(value for value in values if value <= q3 + reach)
    for value in sorted(values):
        high = max(high, value) if value - high <= 6 * (high - low) else high
    for value in sorted(values, reverse=True):
        low = min(low, value) if low - value <= 6 * (high - low) else low
    return low, high


def _legend(figure: Figure, axes: Axes, marker: str, verdicts: Iterable[str]) -> None:
    found = set(verdicts)
    for verdict, color in COLORS.items():
        if verdict in found:
            shape = "D" if verdict == "base" else marker
            axes.plot([], [], shape, color=color, ms=6, label=verdict)
    figure.legend(loc="outside lower left", ncols=5, frameon=False, fontsize=9)


# The figures.


def forest(comparison: Comparison, rows: Sequence[Row]) -> Figure | None:
    """Differences to the base with their intervals, the greatest on top."""
    groups = {
        group: sorted(
            ((row, row.difference) for row in of_group if row.difference is not None),
            key=lambda pair: -pair[1].mean,
        )
        for group, of_group in _groups(rows).items()
    }
    groups = {group: pairs for group, pairs in groups.items() if pairs}
    if not groups:
        return None
    counts = [len(pairs) + 1.5 for pairs in groups.values()]
    figure = canvas(
        f"Test accuracy against {_name(comparison.base)}, with 95% intervals",
        1.3 + 0.35 * len(groups) + 0.2 * sum(counts),
    )
    panels = figure.subplots(len(groups), squeeze=False, height_ratios=counts)[:, 0]
    for axes, (group, pairs) in zip(panels, groups.items(), strict=True):
        low, high = _forest_range([difference for _, difference in pairs])
        for y, (row, difference) in enumerate(pairs):
            color = COLORS[_kind(row)]
            mean = 100 * difference.mean
            if difference.low is not None and difference.high is not None:
                assert difference.wide_low is not None
                assert difference.wide_high is not None
                limits = [100 * difference.wide_low, 100 * difference.wide_high]
                axes.plot(limits, [y, y], color=color, linewidth=0.9, solid_capstyle="butt")
                limits = [100 * difference.low, 100 * difference.high]
                axes.plot(limits, [y, y], color=color, linewidth=2.6, solid_capstyle="butt")
            marker = "o" if low <= mean <= high else "<" if mean < low else ">"
            axes.plot(min(max(mean, low), high), y, marker, color=color, ms=5.5, clip_on=False)
            text = points(difference.mean)
            if (ends := interval(difference.low, difference.high)) is not None:
                text += f"  ({ends})"
            axes.text(1.01, y, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
        axes.axvline(0, color=INK, linewidth=1)
        margin = 100 * comparison.margin
        axes.axvspan(-margin, margin, color=GRAY, alpha=0.13, linewidth=0, zorder=0)
        axes.set(xlim=(low, high), ylim=(len(pairs) - 0.4, -0.6))
        axes.set_yticks(range(len(pairs)), [_name(row.variant) for row, _ in pairs])
        _heading(axes, group)
        strip_axes(axes, "x")
        axes.tick_params(axis="y", length=0, pad=7)
    panels[-1].set_xlabel(
        f"percentage points more than {_name(comparison.base)}, paired by seed; "
        "thin: 95% for all at once, which the colors go by; shaded: equivalent"
    )
    verdicts = [_kind(row) for pairs in groups.values() for row, _ in pairs]
    _legend(figure, panels[0], "o-", verdicts)
    return figure


def _forest_range(differences: Sequence[Difference]) -> tuple[float, float]:
    """Room for what is not far off, with its interval unless that is far longer than most."""
    halves = [0.0 if d.wide_high is None else d.wide_high - d.mean for d in differences]
    usual = 3 * statistics.median(halves)
    ends = [0.0]
    for difference, half in zip(differences, halves, strict=True):
        ends += [difference.mean - min(half, usual), difference.mean + min(half, usual)]
    low, high = _range(ends)
    margin = 0.04 * (high - low) or 0.001
    return 100 * (low - margin), 100 * (high + margin)


def cost(comparison: Comparison, rows: Sequence[Row]) -> Figure | None:
    """Test accuracy against time per epoch."""
    groups = {
        group: [row for row in of_group if row.time is not None]
        for group, of_group in _groups(rows).items()
    }
    groups = {group: of_group for group, of_group in groups.items() if len(of_group) > 1}
    if not groups:
        return None
    columns = 1 if len(groups) == 1 else 2
    lines = math.ceil(len(groups) / columns)
    figure = canvas("Test accuracy against time", 1.0 + (4.6 if columns == 1 else 3.6) * lines)
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    placed = []
    for axes, (group, of_group) in zip(panels.flat, groups.items(), strict=False):
        x = [row.time or 0.0 for row in of_group]
        y = [100 * (row.mean or 0.0) for row in of_group]
        low, high = _range(y)[0], max(y)
        margin = 0.07 * (high - low) or 0.1
        at = np.clip(y, low - margin, None)
        for row, time, accuracy, truth in zip(of_group, x, at, y, strict=True):
            marker = "v" if truth < low else "D" if row.is_base else "o"
            size = 7 if row.is_base else 5.5
            axes.plot(time, accuracy, marker, color=COLORS[_kind(row)], ms=size, alpha=0.9)
        axes.set_ylim(low - 2 * margin, high + 2 * margin)
        if max(x) > 8 * min(x) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.09)
        axes.set_xlabel(f"time per epoch, ratio to {_name(comparison.base)}")
        axes.set_ylabel("test accuracy (%)")
        _heading(axes, group)
        strip_axes(axes, "both")
        texts = {
            i: _name(row.variant, 28) + (f" ({y[i]:.1f}%)" if y[i] < low else "")
            for i, row in enumerate(of_group)
        }
        order = _outstanding(of_group)
        placed.append(
            (axes, list(zip(x, at.tolist(), strict=True)), [(i, texts[i]) for i in order])
        )
    verdicts = [_kind(row) for of_group in groups.values() for row in of_group]
    _legend(figure, panels[0, 0], "o", verdicts)
    figure.draw_without_rendering()  # places the axes
    for axes, where, labels in placed:
        _annotate(axes, where, labels)
    return figure


def _outstanding(rows: Sequence[Row]) -> list[int]:
    """Choose the rows to name, the most important ones first.

    The base, those that nothing else beats in both time and accuracy, the three best and worst,
    the slowest and the fastest; all where there are at most twelve.
    """
    every = range(len(rows))
    by_accuracy = sorted(every, key=lambda i: -(rows[i].mean or 0.0))
    by_time = sorted(every, key=lambda i: rows[i].time or 0.0)
    front, best = [], -math.inf
    for i in by_time:
        if (rows[i].mean or 0.0) > best:
            front.append(i)
            best = rows[i].mean or 0.0
    chosen = [i for i in every if rows[i].is_base] + front[::-1] + by_accuracy[:3]
    chosen += by_accuracy[:-4:-1] + by_time[-2:] + by_time[:1]
    return list(dict.fromkeys(chosen + (by_accuracy if len(rows) <= 12 else [])))


def _annotate(
    axes: Axes, where: Sequence[tuple[float, float]], labels: Sequence[tuple[int, str]]
) -> None:
    """Names beside points, left out where every place is taken by a point or another name."""
    dots = axes.transData.transform(where)
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    places = [(7, 0), (-7, 0), (0, 9), (0, -9), (6, 8), (6, -8), (-6, 8), (-6, -8)]
    places += [(12, 16), (12, -16), (-12, 16), (-12, -16), (0, 20), (0, -20)]
    for i, text in labels:
        for dx, dy in places:
            note = axes.annotate(
                text,
                where[i],
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center",
                fontsize=8,
                color=INK,
                arrowprops={"arrowstyle": "-", "color": GRAY, "lw": 0.6} if abs(dy) > 15 else None,
            )
            note.set_in_layout(False)
            box = note.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            inside = inside and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            if inside and not any(box.overlaps(other) for j, other in enumerate(taken) if j != i):
                taken.append(box)
                break
            note.remove()


def learning_curves(comparison: Comparison, rows: Sequence[Row]) -> Figure | None:
    """Validation accuracy by epoch, mean ± standard deviation over seeds."""
    groups: dict[str, list[tuple[Row, np.ndarray]]] = {}
    for row in rows:
        curves = [run.curves.get("val/accuracy", []) for run in row.runs if run.reason is None]
        length = max(map(len, curves), default=0)
        # Of runs that stopped early, what there is of them.
        padded = [[*curve, *[math.nan] * (length - len(curve))] for curve in curves]
        values = 100 * np.array(padded)
        if length > 1 and np.isfinite(values).any(axis=0).all():
            groups.setdefault(row.group, []).append((row, values))
    if not groups:
        return None
    figure = canvas("Validation accuracy by epoch, mean ± sd over seeds", 0.6 + 3.3 * len(groups))
    panels = figure.subplots(len(groups), squeeze=False)[:, 0]
    for axes, (group, drawn) in zip(panels, groups.items(), strict=True):
        named = _named([row for row, _ in drawn])
        colors = dict(zip(named, LINES, strict=False))
        means = {row.variant: np.nanmean(values, axis=0) for row, values in drawn}
        floor, high = (
            _range([max(mean) for mean in means.values()])[0],
            max(map(max, means.values())),
        )
        low = _range([v for mean in means.values() if max(mean) >= floor for v in mean])[0]
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
        for row, values in sorted(drawn, key=lambda pair: _place(pair[0], named)):
            mean = means[row.variant]
            epochs = np.arange(1, len(mean) + 1)
            if not row.is_base and row.variant not in named:
                axes.plot(epochs, mean, color=GRAY, linewidth=0.7, alpha=0.45, zorder=1.5)
                continue
            below = " (below)" if max(mean) < low - margin else ""
            style: dict[str, Any] = {"linewidth": 1.5, "zorder": 3}
            if row.is_base:
                style = {"linewidth": 2.6, "zorder": 4}
            color = INK if row.is_base else colors[row.variant]
            axes.plot(epochs, mean, color=color, label=_name(row.variant, 24) + below, **style)
            sd = [
                np.std(v[np.isfinite(v)], ddof=1) if np.isfinite(v).sum() > 1 else 0.0
                for v in values.T
            ]
            axes.fill_between(epochs, mean - sd, mean + sd, color=color, alpha=0.13, linewidth=0)
        others = sum(not row.is_base and row.variant not in named for row, _ in drawn)
        if others:
            axes.plot([], [], color=GRAY, linewidth=0.7, label=f"{others} others")
        axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
        _heading(axes, group)
        strip_axes(axes)
    return figure


def _named(rows: Sequence[Row]) -> list[str]:
    """The variants whose curves have a color: all, or the three best and worst, best first."""
    others = [row for row in rows if not row.is_base]
    if len(others) > MOST_CURVES:
        others.sort(key=lambda row: -(row.mean or 0.0))
        others = [*others[: MOST_CURVES // 2], *others[-MOST_CURVES // 2 :]]
    return [row.variant for row in others]


def _place(row: Row, named: Sequence[str]) -> int:
    """In the legend: the base first."""
    if row.is_base:
        return -1
    return named.index(row.variant) if row.variant in named else len(named)


def waterfall(comparison: Comparison, rows: Sequence[Row]) -> Figure | None:
    """Draw what each step of a chain added to the one before."""
    groups = {
        group: of_group
        for group, of_group in _groups(rows).items()
        if comparison.chain and any(row.step for row in of_group)
    }
    if not groups:
        return None
    counts = [len(of_group) + 1.5 for of_group in groups.values()]
    figure = canvas(
        "Step by step: what each technique adds to those above, with 95% intervals",
        1.3 + 0.35 * len(groups) + 0.3 * sum(counts),
    )
    panels = figure.subplots(len(groups), squeeze=False, height_ratios=counts)[:, 0]
    for axes, (group, of_group) in zip(panels, groups.items(), strict=True):
        ends = [100 * (row.mean or 0.0) for row in of_group]
        reach = list(ends)
        for y, (row, end) in enumerate(zip(of_group, ends, strict=True)):
            text = f"{end:.2f}%"
            if row.step is None:
                axes.plot([end, end], [y - 0.32, y + 0.32], color=INK, linewidth=3)
            else:
                start = ends[y - 1]
                color = COLORS[row.step.verdict]
                axes.barh(y, end - start, left=start, height=0.62, color=color)
                if row.step.wide_low is not None and row.step.wide_high is not None:
                    limits = [start + 100 * row.step.wide_low, start + 100 * row.step.wide_high]
                    axes.plot(limits, [y, y], color=INK, linewidth=1)
                    reach += limits
                text += f"  {points(row.step.mean)}"
            if y:
                axes.plot([ends[y - 1]] * 2, [y - 0.69, y - 0.31], color=GRAY, linewidth=0.8)
            axes.text(1.01, y, text, va="center", fontsize=9, transform=axes.get_yaxis_transform())
        low, high = _range(reach)
        margin = 0.04 * (high - low) or 0.1
        axes.set(xlim=(low - margin, high + margin), ylim=(len(of_group) - 0.4, -0.6))
        names = [_name(row.variant if row.is_base else f"+ {row.variant}") for row in of_group]
        axes.set_yticks(range(len(of_group)), names)
        _heading(axes, group)
        strip_axes(axes, "x")
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("test accuracy (%), mean over seeds; the scale does not begin at zero")
    steps = [row.step for of_group in groups.values() for row in of_group if row.step]
    _legend(figure, panels[0], "s", [step.verdict for step in steps])
    return figure


# File name, what it shows in words, and the function.
FIGURES: dict[str, tuple[str, Callable[[Comparison, Sequence[Row]], Figure | None]]] = {
    "waterfall": ("What each step added to those before", waterfall),
    "forest": ("Differences of test accuracy to the base, with 95% intervals", forest),
    "cost": ("Test accuracy against time per epoch", cost),
    "learning_curves": ("Validation accuracy by epoch, mean and spread", learning_curves),
}
