import io
import math
import random
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.image
import optuna
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from studies.names import label, reached, short_names
from studies.search.search_figures import (
    FIGURES,
    heat_map,
    history,
    importances,
    learning_curves,
    parallel_coordinates,
    slices,
)

OPTIMIZER, LR = "model.init_args.optimizer.class_path", "model.init_args.optimizer.init_args.lr"
MOMENTUM, WIDTH = "model.init_args.optimizer.init_args.momentum", "model.init_args.width"
Direction = Literal["maximize", "minimize"]
SPACE: dict[str, BaseDistribution] = {
    OPTIMIZER: CategoricalDistribution(["torch.optim.SGD", "torch.optim.AdamW"]),
    LR: FloatDistribution(1e-4, 1, log=True),
    MOMENTUM: FloatDistribution(0, 0.99),
    WIDTH: IntDistribution(16, 128, step=16),
}


def study_of(count: int, direction: Direction = "maximize") -> optuna.Study:
    """Trials whose value depends on lr alone; every seventh is pruned, every eleventh failed."""
    draw = random.Random(0)
    study = optuna.create_study(direction=direction)
    study.set_user_attr("definition", {"metric": "val/accuracy"})
    for number in range(count):
        params: dict[str, Any] = {
            OPTIMIZER: draw.choice(["torch.optim.SGD", "torch.optim.AdamW"]),
            LR: 10 ** draw.uniform(-4, 0),
            WIDTH: draw.randrange(16, 129, 16),
        }
        if params[OPTIMIZER] == "torch.optim.SGD":  # only there
            params[MOMENTUM] = draw.uniform(0, 0.99)
        value = 0.9 - 0.05 * (math.log10(params[LR]) + 2) ** 2
        value = value if direction == "maximize" else -value
        state, epochs = TrialState.COMPLETE, 8
        if number % 7 == 6:
            state, epochs = TrialState.PRUNED, 3
        if number % 11 == 10:
            state, epochs = TrialState.FAIL, 1
        study.add_trial(
            create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params=params,
                distributions={key: SPACE[key] for key in params},
                intermediate_values={e: value - 0.2 / e for e in range(1, epochs + 1)},
            )
        )
    return study


def grid(left_out: Sequence[int] = ()) -> optuna.Study:
    study = optuna.create_study(direction="minimize")
    choices: dict[str, list[float]] = {LR: [0.1, 0.01, 0.001], WIDTH: [16, 32, 64]}
    space: dict[str, BaseDistribution] = {k: CategoricalDistribution(v) for k, v in choices.items()}
    pairs = [(lr, width) for lr in choices[LR] for width in choices[WIDTH]]
    for lr, width in (pair for i, pair in enumerate(pairs) if i not in left_out):
        pruned = (lr, width) == (0.001, 64)
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                value=None if pruned else lr + 1 / width,
                params={LR: lr, WIDTH: width},
                distributions=space,
            )
        )
    return study


def words(figure: Figure | None) -> list[str]:
    """All text in a figure."""
    assert figure is not None
    figure.draw_without_rendering()
    found = [text.get_text() for text in figure.findobj(match=pyplot.Text)]
    return [text for text in found if text]


# Names and values.


def test_short_names_are_the_shortest_unambiguous_tails() -> None:
    assert short_names([LR, OPTIMIZER, WIDTH]) == {LR: "lr", OPTIMIZER: "optimizer", WIDTH: "width"}
    other = "model.init_args.lr_scheduler.init_args.lr"
    assert short_names([LR, other]) == {LR: "optimizer.lr", other: "lr_scheduler.lr"}


def test_short_names_keep_the_index_of_a_list_with_its_name() -> None:
    keys = [f"model.init_args.architecture.{i}.{part}" for i in (0, 1) for part in ("conv", "pool")]
    assert list(short_names(keys).values()) == [
        f"architecture.{i}.{part}" for i in (0, 1) for part in ("conv", "pool")
    ]


def test_short_names_never_collide() -> None:
    keys = ["lr", "a.lr", "a.init_args.lr", "b.init_args.lr", "class_path", "0.x", "1.x"]
    names = short_names(keys)
    assert names["lr"] == "lr"
    assert names["b.init_args.lr"] == "b.lr"
    assert len(set(names.values())) == len(keys)
    assert short_names([]) == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.00123456, "0.001235"),
        (64, "64"),
        (True, "true"),
        (None, "none"),
        ("null", "none"),
        ("torch.optim.AdamW", "AdamW"),
        ("3x3", "3x3"),
        ("nesterov", "nesterov"),
        ('{"class_path": "a.b.Crop", "init_args": {"padding": 2}}', "Crop(padding=2)"),
        ('{"class_path": "Crop"}', "Crop"),
        ("[64, 128]", "[64, 128]"),
        ("{broken", "{broken"),
        ("x" * 70, "x" * 59 + "…"),
    ],
)
def test_label(value: object, expected: str) -> None:
    assert label(value) == expected


def test_reached_is_the_last_epoch_of_a_pruned_trial() -> None:
    pruned = create_trial(state=TrialState.PRUNED, intermediate_values={2: 0.5, 1: 0.4})
    assert reached(pruned) == 0.5
    assert reached(create_trial(state=TrialState.PRUNED)) is None
    diverged = create_trial(state=TrialState.PRUNED, intermediate_values={1: math.nan})
    assert reached(diverged) is None
    assert reached(create_trial(state=TrialState.FAIL, intermediate_values={1: 0.5})) is None


# The figures.


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("count", [9, 60])
def test_size_and_no_warning(count: int, direction: Direction) -> None:
    study = study_of(count, direction)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = {name: draw(study) for name, (_, draw) in FIGURES.items()}
    missing = {name for name, figure in drawn.items() if figure is None}
    assert missing == ({"heat_map", "importances"} if count == 9 else {"heat_map"})
    for figure in drawn.values():
        if figure is not None:
            file = io.BytesIO()
            figure.savefig(file, format="png")
            file.seek(0)
            height, width, _ = matplotlib.image.imread(file).shape
            assert width == 900
            assert 200 <= height <= 600
    assert pyplot.get_fignums() == []  # nothing is left open


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_history_follows_the_best(direction: Direction) -> None:
    study = study_of(20, direction)
    figure: Any = history(study)
    line = figure.axes[0].lines[0].get_ydata()
    values: list[Any] = [t.value for t in study.get_trials(states=(TrialState.COMPLETE,))]
    better = max if direction == "maximize" else min
    assert list(line)[:-1] == [better(values[: i + 1]) for i in range(len(values))]
    assert {"best so far", "completed", "pruned, last epoch", "failed"} <= set(words(figure))


def test_a_diverged_trial_does_not_stretch_the_axis() -> None:
    study = study_of(30, "minimize")
    study.add_trial(create_trial(value=1e6))
    study.add_trial(create_trial(value=math.inf))
    figure = history(study)
    assert figure is not None
    assert figure.axes[0].get_ylim()[1] < 10
    assert any("1 outside the range" in text for text in words(figure))


def test_importances_find_what_matters() -> None:
    figure: Any = importances(study_of(60))
    found = words(figure)
    assert {"lr", "optimizer", "width", "momentum"} <= set(found)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "lr"
    assert sum(widths) == pytest.approx(1)
    assert widths[0] == max(widths) > 0.5


def test_parallel_coordinates_have_a_place_for_absent_parameters() -> None:
    study = study_of(30)
    found = words(parallel_coordinates(study))
    assert {"lr", "momentum", "—", "SGD", "AdamW", "val/accuracy"} <= set(found)
    assert f"best: trial {study.best_trial.number}" in found


def test_slices_show_each_trial_that_has_the_parameter() -> None:
    study = study_of(30)
    figure: Any = slices(study)
    completed = study.get_trials(states=(TrialState.COMPLETE,))
    points = {axes.get_xlabel(): len(axes.collections[0].get_offsets()) for axes in figure.axes}
    assert points["lr"] == len(completed)
    assert points["momentum"] == sum(MOMENTUM in trial.params for trial in completed)


def test_many_parameters_show_the_first_eight() -> None:
    study = optuna.create_study()
    keys = [f"model.init_args.p{i}" for i in range(12)]
    for number in range(4):
        study.add_trial(
            create_trial(
                value=number,
                params=dict.fromkeys(keys, number / 4),
                distributions=dict.fromkeys(keys, FloatDistribution(0, 1)),
            )
        )
    for draw in (parallel_coordinates, slices):
        assert any("8 of 12 parameters" in text for text in words(draw(study)))


def test_heat_map_has_each_pair() -> None:
    figure: Any = heat_map(grid())
    assert {"0.0725", "0.1625", "pruned", "lr", "width"} <= set(words(figure))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "0.001",
        "0.01",
        "0.1",
    ]
    best = [text for text in figure.axes[0].texts if text.get_weight() == "bold"]
    assert [text.get_text() for text in best] == [f"{0.01 + 1 / 64:.4f}"]


def test_heat_map_of_an_unfinished_grid_only_with_half_of_it() -> None:
    assert heat_map(grid(left_out=(1, 2, 3))) is not None
    assert heat_map(grid(left_out=(1, 2, 3, 5, 6, 7))) is None  # the diagonal
    assert heat_map(study_of(30)) is None


def test_learning_curves_tell_states_apart() -> None:
    study = study_of(30)
    figure = learning_curves(study)
    best = f"best: trial {study.best_trial.number}"
    assert {"completed", "pruned", "failed", best} <= set(words(figure))
    assert figure is not None
    assert len(figure.axes[0].lines) == 30
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert len(dashed) == len(study.get_trials(states=(TrialState.PRUNED,)))
    assert all(line.get_marker() == "x" for line in dashed)


def test_a_learning_curve_in_every_state() -> None:
    study = optuna.create_study()
    for state in TrialState:
        value = 0.5 if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, intermediate_values={1: 1, 2: 0.5}))
    drawn = words(learning_curves(study))
    assert {"still running", "interrupted", "pruned", "failed"} <= set(drawn)


def test_dollars_are_no_mathematics() -> None:
    study = optuna.create_study()
    space: dict[str, BaseDistribution] = {
        key: CategoricalDistribution(["$x^$", "$\\frac{"]) for key in ("a", "b")
    }
    for number in range(4):
        params = {"a": ["$x^$", "$\\frac{"][number % 2], "b": ["$x^$", "$\\frac{"][number // 2]}
        study.add_trial(create_trial(value=number, params=params, distributions=space))
    for draw in (parallel_coordinates, slices, heat_map):
        figure: Any = draw(study)
        figure.savefig(io.BytesIO())


# Where there is nothing to draw.


def test_none_for_an_empty_study() -> None:
    study = optuna.create_study()
    assert [draw(study) for _, draw in FIGURES.values()] == [None] * len(FIGURES)


def test_none_for_one_trial() -> None:
    study = study_of(1)
    drawn = {name for name, (_, draw) in FIGURES.items() if draw(study) is not None}
    assert drawn == {"learning_curves"}


def test_none_for_equal_values_and_for_running_trials() -> None:
    study = optuna.create_study()
    for number in range(20):
        state = TrialState.COMPLETE if number % 2 else TrialState.RUNNING
        study.add_trial(
            create_trial(
                state=state,
                value=0.5 if number % 2 else None,
                params={WIDTH: 16 * (number % 8 + 1), LR: 0.1},
                distributions={WIDTH: SPACE[WIDTH], LR: SPACE[LR]},
            )
        )
    assert [draw(study) for _, draw in FIGURES.values()] == [None] * len(FIGURES)


def test_without_parameters_only_what_needs_none() -> None:
    study = optuna.create_study()
    for value in (1.0, 2.0, 3.0):
        study.add_trial(create_trial(value=value))
    study.ask()
    drawn = {name for name, (_, draw) in FIGURES.items() if draw(study) is not None}
    assert drawn == {"history"}


def test_states_and_values_of_every_kind_in_the_curves() -> None:
    study = optuna.create_study()
    states = (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING, TrialState.PRUNED)
    for state in states:
        study.add_trial(
            create_trial(
                state=state,
                value=1.0 if state == TrialState.COMPLETE else None,
                intermediate_values={1: math.nan, 2: math.inf, 3: 1.0},
            )
        )
    study.enqueue_trial({"x": 1})
    words(learning_curves(study))
