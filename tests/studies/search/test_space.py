"""What a search space draws, which options that makes, and which entries it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import FixedTrial, Trial

from foundation.errors import UserError
from lightning_modules.networks.searched_cnn import SearchedCNN
from studies.search.space import Space, resolved
from studies.training import complete_config, config_keys

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

BASE = "--config=" + str(Path(__file__).parents[3] / "configs" / "mlp.yaml")
OPTIMIZER = "model.init_args.optimizer"
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01, "betas": [0.8, 0.99]}}
RATE = {"low": 1e-4, "high": 1e-1, "log": True}


def study(space: Space, trials: int) -> list[tuple[Trial, dict[str, Any]]]:
    """Random trials and what the space drew in them."""
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [(trial, space.suggest(trial)) for trial in (random.ask() for _ in range(trials))]


def drawn(entry: dict[str, Any], trials: int = 60) -> list[Any]:
    return [chosen["x"] for _, chosen in study(Space({"x": entry}), trials)]


def overlay(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


# One parameter.


def test_choices_are_all_drawn_as_they_are_written() -> None:
    values = drawn({"choices": [64, 0.5, "relu", None, True]})
    assert set(values) == {64, 0.5, "relu", None, True}
    assert {type(value) for value in values} == {int, float, str, type(None), bool}


def test_integers_include_both_ends_and_stay_integers() -> None:
    values = drawn({"low": 1, "high": 4})
    assert set(values) == {1, 2, 3, 4}
    assert all(type(value) is int for value in values)


def test_integers_in_steps() -> None:
    assert set(drawn({"low": 16, "high": 64, "step": 16})) == {16, 32, 48, 64}


def test_integers_on_a_log_scale() -> None:
    values = drawn({"low": 1, "high": 1000, "log": True}, 200)
    assert all(type(value) is int and 1 <= value <= 1000 for value in values)
    assert 0.55 < sum(value < 100 for value in values) / 200 < 0.8  # two of three decades


def test_a_float_end_makes_a_range_of_floats() -> None:
    values = drawn({"low": 0, "high": 1.0})
    assert all(type(value) is float and 0 <= value <= 1 for value in values)
    assert len(set(values)) == len(values)


def test_floats_on_a_log_scale() -> None:
    values = drawn(RATE, 200)
    assert all(1e-4 <= value <= 1e-1 for value in values)
    assert 0.23 < sum(value < 1e-3 for value in values) / 200 < 0.45  # one of three decades


def test_steps_of_floats_are_as_one_would_write_them() -> None:
    written = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert sorted(set(drawn({"low": 0.0, "high": 0.6, "step": 0.1}))) == written
    space = Space({"x": {"low": 0.0, "high": 0.6, "step": 0.1}})
    assert list(space.cells()) == [{"x": value} for value in written]
    assert space.arguments({"x": 0.1 * 3}) == ["--x=0.30000000000000004"]  # it would show


def test_a_written_step_is_one_of_optunas() -> None:
    space = Space({"x": {"low": 0.0, "high": 0.6, "step": 0.1}})
    distribution = FloatDistribution(0.0, 0.6, step=0.1)
    for cell in space.cells():
        assert isinstance(cell["x"], float)
        assert distribution._contains(distribution.to_internal_repr(cell["x"]))
        queued = optuna.create_study()
        queued.enqueue_trial(cell)
        trial = queued.ask()
        assert space.suggest(trial) == cell
        assert trial.params == cell


@pytest.mark.parametrize(
    ("entry", "cells"),
    [
        ({"choices": ["b", 3, None]}, ["b", 3, None]),
        ({"choices": [ADAM]}, [json.dumps(ADAM)]),
        ({"low": 2, "high": 5}, [2, 3, 4, 5]),
        ({"low": 1, "high": 9, "step": 4}, [1, 5, 9]),
        ({"low": 0.7, "high": 1.3, "step": 0.2}, [0.7, 0.9, 1.1, 1.3]),
        ({"low": -0.1, "high": 0.1, "step": 0.1}, [-0.1, 0.0, 0.1]),
        ({"low": 0.001, "high": 0.004, "step": 1e-3}, [0.001, 0.002, 0.003, 0.004]),
    ],
)
def test_cells_of_one_parameter(entry: dict[str, Any], cells: list[Any]) -> None:
    found = [cell["x"] for cell in Space({"x": entry}).cells()]
    assert found == cells
    assert list(map(type, found)) == list(map(type, cells))


@pytest.mark.parametrize(
    "entry",
    [
        {"low": 0.0, "high": 1.0},
        {"low": 1, "high": 8, "log": True},
        {"architecture": {"max_blocks": 1}},
    ],
)
def test_no_grid_of_what_has_no_end(entry: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^space: x is unbounded.*choices.*step$"):
        next(Space({"y": {"choices": [1]}, "x": entry}).cells())


# Several, some of which exist only beside others.

CONDITIONAL = {
    "kind": {"choices": ["sgd", "adam", "none"]},
    "lr": {"choices": [0.1, 0.2], "when": {"kind": ["sgd", "adam"]}},
    "momentum": {"choices": [0, 0.9], "when": {"kind": "sgd"}},
    "nesterov": {"choices": [True, False], "when": {"momentum": 0.9}},
}


def test_a_conditional_parameter_exists_only_where_its_condition_holds() -> None:
    trials = study(Space(CONDITIONAL), 80)
    for trial, chosen in trials:
        assert ("lr" in chosen) == (chosen["kind"] != "none")
        assert ("momentum" in chosen) == (chosen["kind"] == "sgd")
        assert ("nesterov" in chosen) == (chosen.get("momentum") == 0.9)
        assert trial.params == chosen
    assert {len(chosen) for _, chosen in trials} == {1, 2, 3, 4}


def test_several_conditions_must_all_hold() -> None:
    entries = {
        "a": {"choices": [1, 2]},
        "b": {"choices": [1, 2]},
        "c": {"choices": [7], "when": {"a": 1, "b": 2}},
    }
    cells = list(Space(entries).cells())
    assert [cell for cell in cells if "c" in cell] == [{"a": 1, "b": 2, "c": 7}]
    assert len(cells) == 4


def test_a_condition_on_a_class_with_arguments() -> None:
    entries = {
        "optimizer": {"choices": ["torch.optim.SGD", ADAM]},
        "amsgrad": {"choices": [True], "when": {"optimizer": ADAM}},
    }
    assert list(Space(entries).cells()) == [
        {"optimizer": "torch.optim.SGD"},
        {"optimizer": json.dumps(ADAM), "amsgrad": True},
    ]


def test_every_cell_of_a_conditional_grid_comes_once() -> None:
    cells = list(Space(CONDITIONAL).cells())
    assert len({json.dumps(cell) for cell in cells}) == len(cells) == 2 * 3 + 2 + 1
    assert {"kind": "none"} in cells
    assert {"kind": "sgd", "lr": 0.2, "momentum": 0.9, "nesterov": True} in cells
    assert {"kind": "adam", "lr": 0.1} in cells


def test_values_of_a_finished_trial_are_read_back(tmp_path: Path) -> None:
    none = overlay(tmp_path, "some", "{}")
    space = Space(
        {
            "files": {"overlays": ["none", none]},
            "rate": RATE,
            "width": {"low": 8, "high": 64, "step": 8},
            "dropout": {"low": 0.0, "high": 0.6, "step": 0.1},
            "optimizer": {"choices": ["torch.optim.SGD", ADAM]},
            "net": {"architecture": {"max_blocks": 2}},
            "amsgrad": {"choices": [True, False], "when": {"optimizer": ADAM}},
        }
    )
    for trial, chosen in study(space, 30):
        assert space.values(trial.params) == chosen
        assert space.suggest(FixedTrial(json.loads(json.dumps(trial.params)))) == chosen


# The options of train.py that a trial becomes.


def test_arguments_are_files_first_then_keys_in_their_order(tmp_path: Path) -> None:
    first, second = (overlay(tmp_path, name, f"# {name}\n") for name in ("first", "second"))
    space = Space(
        {
            "a.b": {"choices": [1]},
            "files": {"overlays": ["none", [first, second]]},
            "a.c": {"choices": ["text"]},
        }
    )
    chosen: dict[str, Any] = {"a.b": 1, "files": "first+second", "a.c": "text"}
    options = ["--config=# first\n", "--config=# second\n", "--a.b=1", "--a.c=text"]
    assert space.arguments(chosen) == options
    assert space.arguments({"a.b": 1, "files": "none"}) == ["--a.b=1"]


@pytest.mark.parametrize(
    ("value", "option"),
    [(None, "null"), (True, "true"), (3, "3"), (1e-05, "1e-05"), ("null", "null"), ("a=b", "a=b")],
)
def test_an_option_of_a_choice(value: Any, option: str) -> None:
    assert Space({"k": {"choices": [value]}}).arguments({"k": value}) == [f"--k={option}"]


def test_a_class_with_arguments_reaches_the_parser() -> None:
    space = Space({OPTIMIZER: {"choices": [ADAM]}})
    keys = config_keys(complete_config([BASE, *space.arguments(next(space.cells()))]))
    assert keys[f"{OPTIMIZER}.class_path"] == "torch.optim.Adam"
    assert keys[f"{OPTIMIZER}.init_args.lr"] == 0.01
    assert keys[f"{OPTIMIZER}.init_args.betas"] == [0.8, 0.99]


def test_a_whole_trial_reaches_the_parser(tmp_path: Path) -> None:
    wide = overlay(tmp_path, "wide", "model: {init_args: {hidden_size: 999, dropout: 0.5}}\n")
    space = Space(
        {
            f"{OPTIMIZER}.init_args.lr": RATE,
            "model.init_args.dropout": {"low": 0.0, "high": 0.6, "step": 0.1},
            "size": {"overlays": [wide]},
            "model.init_args.lr_scheduler": {"choices": [None]},
        }
    )
    params: dict[str, Any] = {f"{OPTIMIZER}.init_args.lr": 1.5e-4, "model.init_args.dropout": 0.3}
    params |= {"size": "wide", "model.init_args.lr_scheduler": None}
    keys = config_keys(complete_config([BASE, *space.arguments(space.values(params))]))
    assert keys[f"{OPTIMIZER}.init_args.lr"] == 1.5e-4
    assert keys["model.init_args.dropout"] == 0.3  # a key wins over a file
    assert keys["model.init_args.hidden_size"] == 999
    assert keys["model.init_args.lr_scheduler"] is None


def test_an_architecture_is_a_network() -> None:
    entry = {"architecture": {"max_blocks": 2, "channels": [4], "units": [0, 8]}}
    networks = set(drawn(entry, 20))
    assert len(networks) > 5
    for network in networks:
        assert 1 <= network.count("conv4") <= 2
        SearchedCNN(**GRAY, architecture=network)  # it can be built


def test_resolved_overlays_need_no_files(tmp_path: Path) -> None:
    path = overlay(tmp_path, "wide", "model: {init_args: {hidden_size: 999}}\n")
    entries = {"size": {"overlays": [None, path]}, "x": {"choices": [1], "when": {"size": "wide"}}}
    kept = json.loads(json.dumps(resolved(entries)))
    Path(path).unlink()
    assert kept["size"]["overlays"] == {
        "none": [],
        "wide": ["model: {init_args: {hidden_size: 999}}\n"],
    }
    space = Space(kept)
    assert list(space.cells()) == [{"size": "none"}, {"size": "wide", "x": 1}]
    options = space.arguments({"size": "wide"})
    assert options == ["--config=model: {init_args: {hidden_size: 999}}\n"]
    assert config_keys(complete_config([BASE, *options]))["model.init_args.hidden_size"] == 999


# What is refused.


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("3", "is 3; expected one of choices, low and high, overlays, architecture"),
        ("[1, 2]", "is [1, 2]; expected one of choices"),
        ("null", "is None; expected one of choices"),
        ("{}", "is {}; expected one of choices"),
        ("{choises: [1]}", "is {'choises': [1]}; expected one of choices"),
        ("{choices: [1], low: 1}", "expected one of choices"),
        ("{choices: 3}", "choices is 3; expected a list of at least one value"),
        ("{choices: []}", "choices is []; expected a list of at least one value"),
        ("{choices: [1, 2, 1]}", "choices is [1, 2, 1]; expected every value once"),
        ("{choices: [1, true]}", "choices is [1, True]; expected every value once"),
        ("{choices: [[1], [1]]}", "choices is [[1], [1]]; expected every value once"),
        ("{choices: [1], log: true}", "has log; expected only choices, when"),
        ("{low: 1, high: 2, stp: 1}", "has stp; expected only high, log, low, step, when"),
        ("{low: 1}", "low is 1 and high is None; expected two numbers, low below high"),
        ("{low: 2, high: 1}", "low is 2 and high is 1; expected two numbers, low below high"),
        ("{low: 1, high: 1}", "low is 1 and high is 1; expected two numbers, low below high"),
        ("{low: a, high: 1}", "low is 'a'; expected a number such as 1.0e-3"),
        ("{low: 0, high: true}", "high is True; expected a number such as 1.0e-3"),
        ("{low: 0, high: .inf}", "high is inf; expected a number such as 1.0e-3"),
        ("{low: .nan, high: 1}", "low is nan and high is 1; expected two numbers"),
        ("{low: 0, high: 1, step: x}", "step is 'x'; expected a number such as 1.0e-3"),
        ("{low: 0.0, high: 1.0, step: 0}", "step"),
        ("{low: 0.0, high: 1.0, step: -0.5}", "step"),
        ("{low: 0.0, high: 0.55, step: 0.1}", "high is 0.55, but the last step is at 0.5"),
        ("{low: 1, high: 8, step: 3}", "high is 8, but the last step is at 7"),
        ("{low: 0, high: 1, log: true}", "low"),
        ("{low: 1, high: 3, step: 1, log: true}", "step"),
        ("{low: 1, high: 3, log: 'no'}", "log is 'no'; expected true or false"),
        ("{overlays: flip.yaml}", "overlays is 'flip.yaml'; expected a list of files"),
        ("{overlays: []}", "overlays is []; expected a list of files, with none for no file"),
        ("{overlays: [none, no/such.yaml]}", "there is no file no/such.yaml"),
        ("{overlays: [3]}", "there is no file 3"),
        ("{overlays: [none, null]}", "overlays has two called none; expected every name once"),
        ("{architecture: 3}", "architecture is 3; expected fields such as max_blocks: 3"),
        ("{architecture: {blocks: 3}}", "architecture has blocks; expected only max_blocks, "),
        ("{architecture: {max_blocks: 0}}", "max_blocks is 0; expected an integer, at least 1"),
        ("{choices: [1], when: 3}", "when is 3; expected other keys of the space"),
        ("{choices: [1], when: first}", "when is 'first'; expected other keys of the space"),
        ("{choices: [1], when: {x: 1}}", "when names x, which is not in the space before it"),
        ("{choices: [1], when: {last: 1}}", "when names last, which is not in the space before"),
        ("{choices: [1], when: {first: 3}}", "when wants first to be 3; it is one of 1, 2"),
        ("{choices: [1], when: {first: [1, 3]}}", "when wants first to be 3; it is one of 1, 2"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named_in_one_line(entry: str, words: str) -> None:
    entries = {
        "first": {"choices": [1, 2]},
        "x": yaml.safe_load(entry),
        "last": {"choices": [1]},
    }
    with pytest.raises(UserError, match=f"^space: x: .*{re.escape(words)}") as refusal:
        Space(entries)
    assert len(str(refusal.value).splitlines()) == 1


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    files = [overlay(folder, "flip", "{}") for folder in (tmp_path, tmp_path / "more")]
    with pytest.raises(UserError, match=r"^space: x: overlays has two called flip"):
        Space({"x": {"overlays": files}})


@pytest.mark.parametrize("entries", [{}, None])
def test_an_empty_space_is_refused(entries: Any) -> None:
    with pytest.raises(UserError, match=r"^space is empty: name at least one key"):
        Space(entries)
