"""Figures of a study, from its Optuna storage alone.

Each function gives a figure, or None where there is nothing to see: too few finished trials, only
equal values, no parameters. Drawn here and not by ``optuna.visualization``, whose labels are whole
config paths and overlap, and which draws conditional parameters only where all trials have them.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from studies.names import label, metric_name, reached, short_names, trials_of
from studies.report.canvas import BLUE, GRAY, INK, ORANGE, RED, canvas, strip_axes

PALE = "#a9c6e6"

# More axes than these cannot be read side by side; the most important ones are shown.
MOST_PARAMETERS = 8
MOST_CELLS = 12


def _maximized(study: Study) -> bool:
    return study.direction == StudyDirection.MAXIMIZE


def _different(study: Study) -> list[FrozenTrial]:
    """The completed trials, worst first; none unless they reached different values."""
    trials = [
        trial
        for trial in trials_of(study, TrialState.COMPLETE)
        if trial.value is not None and math.isfinite(trial.value)
    ]
    trials.sort(key=lambda trial: trial.value or 0.0, reverse=not _maximized(study))
    return trials if len({trial.value for trial in trials}) > 1 else []


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """Parameters with more than one value in these trials, those that most trials have first."""
    count = Counter(key for trial in trials for key in trial.params)
    values: dict[str, set[Any]] = {key: set() for key in count}
    for trial in trials:
        for key, value in trial.params.items():
            values[key].add(value)
    return [key for key, _ in count.most_common() if len(values[key]) > 1]


def _importances(study: Study) -> dict[str, float]:
    """Shares that sum to 1, greatest first; empty where there are too few trials to tell."""
    trials = _different(study)
    keys = _varied(trials)
    if len(trials) < 10 or len(keys) < 2:
        return {}
    # Fewer than five trials in the group that is compared with all say little.
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(trials)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, and what the checks above rule out
        try:
            shares = get_param_importances(study, evaluator=evaluator, params=keys)
        except (ValueError, RuntimeError):  # e.g. a parameter whose distribution changed its kind
            return {}
    return shares if len(set(shares.values())) > 1 else {}


def _shown(study: Study) -> list[str]:
    """The varied parameters that a figure has room for, the most important ones first."""
    importances = _importances(study)
    keys = sorted(_varied(_different(study)), key=lambda key: -importances.get(key, 0.0))
    return keys[:MOST_PARAMETERS]


def _which(study: Study, shown: Sequence[str]) -> str:
    of = len(_varied(_different(study)))
    return f", {len(shown)} of {of} parameters" if len(shown) < of else ""


def _limits(values: Sequence[float], maximized: bool) -> tuple[float, float]:
    """A range that a few diverged trials do not stretch: Tukey's far fence, on the worse side."""
    q1, q3 = np.quantile(values, [0.25, 0.75])
    fence = 3 * (q3 - q1) or math.inf
    if maximized:
        return min(value for value in values if value >= q1 - fence), max(values)
    return min(values), max(value for value in values if value <= q3 + fence)


def _limit(axes: Axes, values: Sequence[float], maximized: bool) -> str:
    """Set the range of y, and say how many values are outside of it."""
    low, high = _limits(values, maximized)
    margin = 0.06 * (high - low)
    if margin > 0:
        axes.set_ylim(low - margin, high + margin)
    outside = sum(not low <= value <= high for value in values)
    return f" ({outside} outside the range)" if outside else ""


def _shades(trials: Sequence[FrozenTrial], maximized: bool) -> list[Any]:
    """A color per completed trial, the darker the better."""
    values = [trial.value or 0.0 for trial in trials]
    low, high = _limits(values, maximized)
    shares = [(min(max(value, low), high) - low) / (high - low or 1.0) for value in values]
    blues = matplotlib.colormaps["Blues"]
    return [blues(0.2 + 0.75 * (share if maximized else 1 - share)) for share in shares]


@dataclass
class _Scale:
    """Places of a parameter's values on an axis.

    Attributes:
        place: gives a value's position; the logarithm for a parameter sampled in it.
        ticks: position and text of each.
        discrete: whether the values are choices.
    """

    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]
    discrete: bool


def _scale(key: str, trials: Sequence[FrozenTrial], length: int, ticks: int = 5) -> _Scale:
    """The scale of a parameter.

    Args:
        key: of the parameter.
        trials: those of which some have it.
        length: of a choice's text, in characters.
        ticks: how many, for numbers.
    """
    having = [trial for trial in trials if key in trial.params]
    distribution = having[-1].distributions[key]
    values = list(dict.fromkeys(trial.params[key] for trial in having))
    if isinstance(distribution, CategoricalDistribution):
        choices = [choice for choice in distribution.choices if choice in values]
        texts = [(float(i), _tick(choice, length)) for i, choice in enumerate(choices)]
        return _Scale(lambda value: float(choices.index(value)), texts, True)
    place: Callable[[Any], float] = math.log10 if getattr(distribution, "log", False) else float
    if len(values) <= ticks:
        return _Scale(place, [(place(value), _number(value)) for value in values], False)
    places = np.linspace(place(min(values)), place(max(values)), ticks).tolist()
    back = (lambda x: 10**x) if place is math.log10 else float
    return _Scale(place, [(x, _number(back(x))) for x in places], False)


def _tick(value: Any, length: int) -> str:
    return label(value, length).replace("$", r"\$")  # or it would be set as mathematics


def _number(value: float) -> str:
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.2g}"


def _names(study: Study) -> dict[str, str]:
    """Short names that are unambiguous in the whole study."""
    return short_names({key: None for trial in trials_of(study) for key in trial.params})


# The figures.


def history(study: Study) -> Figure | None:
    """Draw what each trial reached, and the best so far."""
    if not _different(study):
        return None
    figure = canvas("Optimization history")
    axes = figure.subplots()
    better = max if _maximized(study) else min
    numbers: list[int] = []
    best: list[float] = []
    for trial in trials_of(study, TrialState.COMPLETE):
        if trial.value is not None and math.isfinite(trial.value):
            numbers.append(trial.number)
            best.append(better([*best[-1:], trial.value]))
    last = trials_of(study)[-1].number
    axes.step([*numbers, last], [*best, best[-1]], where="post", color=ORANGE, label="best so far")
    drawn: list[float] = []
    for state, text, marker, color in (
        (TrialState.COMPLETE, "completed", "o", BLUE),
        (TrialState.PRUNED, "pruned, last epoch", "x", GRAY),
    ):
        points = [(trial.number, reached(trial)) for trial in trials_of(study, state)]
        finite = [(n, value) for n, value in points if value is not None and math.isfinite(value)]
        if finite:
            at, values = zip(*finite, strict=True)
            axes.scatter(at, values, s=25, marker=marker, color=color, label=text, zorder=3)
            drawn += values
    failed = [trial.number for trial in trials_of(study, TrialState.FAIL)]
    if failed:
        style: dict[str, Any] = {"color": RED, "ms": 14, "mew": 2, "label": "failed"}
        axes.plot(failed, [0] * len(failed), "|", **style, transform=axes.get_xaxis_transform())
    outside = _limit(axes, drawn, _maximized(study))
    axes.set(xlabel="trial" + outside, ylabel=metric_name(study))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    strip_axes(axes)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def parallel_coordinates(study: Study) -> Figure | None:
    """A line per completed trial through its parameters to what it reached."""
    trials, keys = _different(study), _shown(study)
    if not keys:
        return None
    figure = canvas(
        "Parameters of the completed trials, the better the darker" + _which(study, keys)
    )
    axes = figure.subplots()
    low, high = _limits([trial.value or 0.0 for trial in trials], _maximized(study))
    heights = [[(min(max(t.value or 0.0, low), high) - low) / (high - low)] for t in trials]
    texts = [[(share, f"{low + share * (high - low):.4g}") for share in (0, 0.25, 0.5, 0.75, 1)]]
    absent = -0.12
    # From left to right the importance grows, towards what was reached.
    for key in keys:
        scale = _scale(key, trials, length=16)
        start, end = min(x for x, _ in scale.ticks), max(x for x, _ in scale.ticks)
        span = end - start
        texts.insert(0, [((x - start) / span, text) for x, text in scale.ticks])
        for trial, line in zip(trials, heights, strict=True):
            has = key in trial.params
            line.insert(0, (scale.place(trial.params[key]) - start) / span if has else absent)
        if any(key not in trial.params for trial in trials):
            texts[0].append((absent, "—"))
    for line, color in zip(heights, _shades(trials, _maximized(study)), strict=True):
        axes.plot(line, color=color, linewidth=1.1, alpha=0.8)
    axes.plot(heights[-1], color=ORANGE, linewidth=2.5, label=f"best: trial {trials[-1].number}")
    names = _names(study)
    axes.set_xticks(range(len(keys) + 1), [*(names[k] for k in reversed(keys)), metric_name(study)])
    if sum(len(names[key]) for key in keys) > 80:
        axes.tick_params(axis="x", labelrotation=20)
    behind = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6}
    for x, ticks in enumerate(texts):
        axes.axvline(x, color=INK, linewidth=0.8)
        for y, text in ticks:
            axes.text(x + 0.03, y, text, fontsize=8, va="center", color=INK, bbox=behind, zorder=4)
    axes.set(xlim=(-0.1, len(keys) + 0.5), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=9)
    figure.legend(loc="outside upper right", frameon=False, fontsize=9)
    return figure


def importances(study: Study) -> Figure | None:
    """Draw the importance of each parameter for being among the best, by PED-ANOVA."""
    shares = _importances(study)
    if not shares:
        return None
    shares = dict(list(shares.items())[:15])
    figure = canvas("Importance of the parameters", height=1.4 + 0.3 * len(shares))
    axes = figure.subplots()
    names = _names(study)
    bars = axes.barh([names[key] for key in shares], list(shares.values()), color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    completed = len(_different(study))
    best = math.ceil(max(0.1, 5 / completed) * completed)
    axes.set_xlabel(f"share, for being among the best {best} of {completed} completed trials")
    axes.set_xlim(0, 1.12 * max(shares.values()))
    strip_axes(axes)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return figure


def slices(study: Study) -> Figure | None:
    """Draw what the completed trials reached by each parameter."""
    trials, keys = _different(study), _shown(study)
    if not keys:
        return None
    rows = 1 if len(keys) <= 4 else 2
    figure = canvas("Parameter by parameter" + _which(study, keys), height=3.2 if rows == 1 else 5)
    columns = math.ceil(len(keys) / rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    names, values = _names(study), [trial.value or 0.0 for trial in trials]
    shades = [*_shades(trials, _maximized(study))[:-1], ORANGE]
    outside = ""
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    for axes, key in zip(panels.flat, keys, strict=False):
        scale = _scale(key, trials, length=14, ticks=3)
        points = [
            # Choices are spread a little, so that equal ones do not hide each other.
            (
                scale.place(trial.params[key])
                + scale.discrete * (trial.number * 0.618 % 1 - 0.5) / 4,
                value,
                color,
            )
            for trial, value, color in zip(trials, values, shades, strict=True)
            if key in trial.params
        ]
        x, y, colors = zip(*points, strict=True)
        axes.scatter(x, y, s=26, color=colors, edgecolor=INK, linewidth=0.3)
        texts = [text for _, text in scale.ticks]
        long = scale.discrete and sum(map(len, texts)) > 64 / columns
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if long else {}
        axes.set_xticks([at for at, _ in scale.ticks], texts, **turned)
        axes.set_xlabel(names[key], fontsize=10)
        strip_axes(axes)
        axes.tick_params(labelsize=8)
        outside = _limit(axes, values, _maximized(study))
    figure.supylabel(metric_name(study) + outside, fontsize=10)
    return figure


def heat_map(study: Study) -> Figure | None:
    """Draw what each pair of values reached, for a study of exactly two parameters in a grid."""
    trials = trials_of(study, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    keys = _varied(trials)
    if not _different(study) or len(keys) != 2:
        return None
    trials = [trial for trial in trials if all(key in trial.params for key in keys)]
    choices = [_in_order(key, trials) for key in keys]
    pairs = {tuple(trial.params[key] for key in keys) for trial in trials}
    size = len(choices[0]) * len(choices[1])
    if max(map(len, choices)) > MOST_CELLS or len(pairs) < size / 2:
        return None
    if len(choices[0]) > len(choices[1]):  # the longer side lies
        keys, choices = keys[::-1], choices[::-1]
    shape = len(choices[0]), len(choices[1])
    means, words = np.full(shape, np.nan), np.full(shape, "", dtype=object)
    for row, column in np.ndindex(*shape):
        pair = choices[0][row], choices[1][column]
        there = [t for t in trials if (t.params[keys[0]], t.params[keys[1]]) == pair]
        values = [t.value for t in there if t.state == TrialState.COMPLETE and t.value is not None]
        if values:
            means[row, column] = np.mean(values)
            words[row, column] = f"{means[row, column]:.4f}"
        elif there:
            words[row, column] = "failed" if there[-1].state == TrialState.FAIL else "pruned"
    finite = means[np.isfinite(means)].tolist()
    low, high = _limits(finite, _maximized(study))
    figure = canvas(f"{metric_name(study)} by both parameters", height=1.6 + 0.55 * shape[0])
    axes = figure.subplots()
    worse, better = (low, high) if _maximized(study) else (high, low)
    shades = (np.clip(means, low, high) - worse) / (better - worse or 1.0)
    axes.imshow(shades, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    for (row, column), word in np.ndenumerate(words):
        axes.text(
            column,
            row,
            word,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shades[row, column] > 0.6 else INK,
            weight="bold" if shades[row, column] == 1 else "normal",
        )
    names = _names(study)
    axes.set_yticks(range(shape[0]), [_tick(value, 24) for value in choices[0]])
    axes.set_xticks(range(shape[1]), [_tick(value, 80 // shape[1]) for value in choices[1]])
    axes.set(ylabel=names[keys[0]], xlabel=names[keys[1]])
    axes.tick_params(labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    return figure


def _in_order(key: str, trials: Sequence[FrozenTrial]) -> list[Any]:
    """A parameter's values: choices as the study defines them, unless they are numbers."""
    values = list({trial.params[key] for trial in trials})
    if all(isinstance(value, int | float) for value in values):
        return sorted(values)
    distribution = trials[-1].distributions[key]
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if choice in values]
    return values


def learning_curves(study: Study) -> Figure | None:
    """The objective by epoch, of all trials."""
    trials = [trial for trial in trials_of(study) if trial.intermediate_values]
    if not trials or max(len(trial.intermediate_values) for trial in trials) < 2:
        return None
    figure = canvas("Learning curves")
    axes = figure.subplots()
    completed = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    better = max if _maximized(study) else min
    best = better(completed, key=lambda trial: trial.value or 0.0) if completed else None
    faint = 0.8 if len(trials) <= 20 else 0.55
    styles: dict[TrialState, dict[str, Any]] = {
        TrialState.COMPLETE: {"color": BLUE, "label": "completed"},
        TrialState.PRUNED: {"color": GRAY, "linestyle": "--", "marker": "x", "label": "pruned"},
        TrialState.FAIL: {"color": RED, "marker": "x", "label": "failed", "alpha": 1, "zorder": 4},
        TrialState.RUNNING: {"color": PALE, "marker": "o", "label": "still running"},
        TrialState.WAITING: {"color": PALE, "marker": "o", "label": "interrupted"},
    }
    drawn: list[float] = []
    for trial in trials:
        epochs, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
        style = {"linewidth": 1, "markersize": 5, "alpha": faint, **styles[trial.state]}
        if trial is best:
            style |= {"color": ORANGE, "linewidth": 2.6, "alpha": 1, "zorder": 5}
            style["label"] = f"best: trial {trial.number}"
        axes.plot(epochs, values, markevery=[-1], **style)
        drawn += [value for value in values if math.isfinite(value)]
    if drawn:
        _limit(axes, drawn, _maximized(study))
    axes.set(xlabel="epoch", ylabel=metric_name(study))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    strip_axes(axes)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
    return figure


# File name, what it shows in words, and the function.
FIGURES: dict[str, tuple[str, Callable[[Study], Figure | None]]] = {
    "history": ("What each trial reached, and the best so far", history),
    "learning_curves": ("The objective by epoch, a curve per trial", learning_curves),
    "heat_map": ("What each pair of parameter values reached", heat_map),
    "importances": ("How important each parameter is", importances),
    "parallel_coordinates": ("The completed trials' parameters, a line each", parallel_coordinates),
    "slices": ("What the completed trials reached, by each parameter", slices),
}
