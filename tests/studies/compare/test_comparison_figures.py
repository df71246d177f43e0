import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from studies.compare.comparison_figures import (
    FIGURES,
    cost,
    forest,
    learning_curves,
    waterfall,
)
from studies.compare.comparison_table import Comparison, Run, rows

EFFECTS = [0.0, 0.0, 0.02, -0.02, 0.001, -0.001]


def comparison(
    effects: Sequence[float] = EFFECTS, groups: Sequence[str] = ("",), chain: bool = False
) -> Comparison:
    """The base and variants v1, v2, … with these effects, five seeds each."""
    rng = np.random.default_rng(0)
    names = ["base", *(f"v{i}" for i in range(1, len(effects)))]
    runs = []
    for group in groups:
        for name, effect in zip(names, effects, strict=True):
            for seed in range(5):
                reached = float(0.9 + effect + rng.normal(0, 0.002))
                curve = [reached - 0.1, reached - 0.02, reached]
                measured = {
                    "test/accuracy": reached,
                    "seconds_per_epoch": float(rng.uniform(9, 20)),
                }
                runs.append(Run(group, name, seed, measured, {"val/accuracy": curve}))
    return Comparison("test", list(groups), names, chain, list(range(5)), {}, 3, runs)


def drawn(of: Comparison) -> dict[str, Any]:
    return {name: draw(of, rows(of)) for name, (_, draw) in FIGURES.items()}


def words(figure: Figure | None) -> list[str]:
    """All text in a figure."""
    assert figure is not None
    figure.draw_without_rendering()
    found = [text.get_text() for text in figure.findobj(match=pyplot.Text)]
    return [text for text in found if text]


@pytest.mark.parametrize(("count", "groups"), [(2, [""]), (71, [""]), (6, ["8", "32", "256"])])
def test_size_and_no_warning(count: int, groups: Sequence[str]) -> None:
    effects = (EFFECTS * 12)[:count]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = drawn(comparison(effects, groups, chain=True))
        for name, figure in figures.items():
            file = io.BytesIO()
            figure.savefig(file, format="png")
            file.seek(0)
            height, width, _ = matplotlib.image.imread(file).shape
            assert width == 900, name
            assert 200 <= height <= 600 + 30 * count * len(groups), name
    assert pyplot.get_fignums() == []  # nothing is left open


def test_forest_is_sorted_and_colored_by_verdict() -> None:
    of = comparison()
    figure: Any = forest(of, rows(of))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert (names[0], names[-1]) == ("v2", "v3")
    assert {"better", "undecided", "worse"} <= set(words(figure))
    low, high = figure.axes[0].get_xlim()
    assert low < -2 < 2 < high


def test_a_diverged_variant_stands_at_the_edge() -> None:
    of = comparison([*EFFECTS, 0.0, 0.001, -0.8])
    figure: Any = forest(of, rows(of))
    assert figure.axes[0].get_xlim()[0] > -10
    assert any(text.startswith("−80.") or text.startswith("−79.") for text in words(figure))
    figure = cost(of, rows(of))
    assert figure.axes[0].get_ylim()[0] > 80
    assert any(text.startswith("v8 (") for text in words(figure))
    figure = learning_curves(of, rows(of))
    assert figure.axes[0].get_ylim()[0] > 50
    assert "v8 (below)" in words(figure)


def test_names_beside_points_do_not_overlap() -> None:
    of = comparison((EFFECTS * 12)[:71])
    figure: Any = cost(of, rows(of))
    figure.draw_without_rendering()
    notes = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [note.get_window_extent() for note in notes]
    assert 5 <= len(boxes) <= 20
    assert "base" in {note.get_text() for note in notes}
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert box.x1 <= figure.bbox.x1


def test_learning_curves_color_the_best_and_the_worst() -> None:
    of = comparison([0.0, *(i / 1000 for i in range(-10, 10))])
    figure: Any = learning_curves(of, rows(of))
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend[0] == "base"
    assert legend[-1] == "14 others"
    assert set(legend[1:4]) <= {f"v{i}" for i in range(16, 21)}
    assert set(legend[4:7]) <= {f"v{i}" for i in range(1, 6)}


def test_runs_that_stopped_early_and_one_that_failed() -> None:
    of = comparison()
    of.runs[3].curves["val/accuracy"] = [0.5]
    of.runs[6] = Run("", "v1", 1, {}, {"val/accuracy": [0.1]}, reason="ValueError")
    of.runs[10].curves["val/accuracy"][1] = math.nan
    figures = drawn(of)
    assert all(figures[name] is not None for name in ("forest", "cost", "learning_curves"))


def test_waterfall_only_of_a_chain() -> None:
    of = comparison()
    assert waterfall(of, rows(of)) is None
    of = comparison(chain=True)
    figure: Any = waterfall(of, rows(of))
    assert {"base", "+ v1", "+ v5"} <= set(words(figure))
    bars = figure.axes[0].patches
    ends = [100 * (row.mean or 0) for row in rows(of)]
    for bar, start, end in zip(bars, ends, ends[1:], strict=False):
        assert bar.get_x() == pytest.approx(start)
        assert bar.get_width() == pytest.approx(end - start)


def test_none_where_there_is_nothing() -> None:
    empty = Comparison("test", [""], ["base"], True, [0], {}, 3, [])
    assert set(drawn(empty).values()) == {None}
    assert set(drawn(comparison([0.0], chain=True)).values()) >= {None}
    failed = Comparison(
        "test", [""], ["base", "a"], True, [0], {}, 1, [Run("", "a", 0, reason="ValueError")]
    )
    assert set(drawn(failed).values()) == {None}
    alone = Run("", "a", 0, {"test/accuracy": 0.9, "seconds_per_epoch": 1.0})
    without_base = Comparison("test", [""], ["base", "a"], True, [0], {}, 1, [alone])
    assert set(drawn(without_base).values()) == {None}


def test_one_seed_and_equal_values() -> None:
    runs = [
        Run("", v, 0, {"test/accuracy": 0.9, "seconds_per_epoch": 1.0}, {"val/accuracy": [0.9] * 2})
        for v in ("base", "$x^$", "b")
    ]
    of = Comparison("test", [""], ["base", "$x^$", "b"], True, [0], {}, 2, runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in drawn(of).values():
            assert {"too few seeds", "base"} & set(words(figure))
