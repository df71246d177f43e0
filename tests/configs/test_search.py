"""Every study of configs/search: readable, as its header says, and cheap to try."""

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiment.cli import ExperimentCLI
from studies.search.search_definition import SearchDefinition, define, search_parser
from studies.search.space import Space
from studies.training import complete_config, config_keys

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "configs" / "search"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
WIDTH, RATE = "model.init_args.hidden_size", "model.init_args.optimizer.init_args.lr"


@functools.cache
def read_once(options: tuple[str, ...]) -> str:
    return complete_config(options)


@pytest.fixture(scope="module")
def study() -> Callable[..., tuple[Any, SearchDefinition]]:
    """``study("grid")``: its settings and its definition."""

    @functools.cache
    def read(name: str, *args: str) -> tuple[Any, SearchDefinition]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(REPOSITORY)
            patch.setattr(
                "studies.search.search_definition.complete_config",
                lambda options: read_once(tuple(options)),
            )
            settings = search_parser().parse_args([f"--config={FOLDER / name}.yaml", *args])
            return settings, define(settings)

    return read


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:first])


def test_there_are_studies() -> None:
    assert {"grid", "random", "bayesian", "hyperband", "architecture"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_readable(study: Callable[..., Any], name: str) -> None:
    settings, definition = study(name)
    assert definition.name == name
    assert (definition.metric, definition.direction) == ("val/accuracy", "maximize")
    assert definition.epochs >= 2
    assert settings.n_trials or definition.is_grid
    # Trials see a tenth of the images at most, the confirmation all.
    fraction = "data.init_args.train_fraction"
    trial, full = (
        config_keys(complete_config([f"--config={config}"]))
        for config in (definition.config, definition.full_config)
    )
    assert trial[fraction] <= 0.1
    assert full[fraction] == 1.0
    if not definition.is_grid:
        assert definition.sampler["init_args"]["seed"] == 42


@pytest.mark.parametrize("name", STUDIES)
def test_a_header_states_the_purpose_and_the_command(name: str) -> None:
    text = header(name)
    purpose = text.splitlines()[0]
    assert re.match(r"# [A-Z].{30,}", purpose)
    assert "python" not in purpose
    assert f"python search.py --config configs/search/{name}.yaml" in text


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (name, match[1])
        for name in STUDIES
        for match in re.finditer(r": (--\S.*)$", header(name), re.MULTILINE)
    ],
)
def test_the_options_that_a_header_proposes_are_accepted(
    study: Callable[..., Any], name: str, options: str
) -> None:
    _, definition = study(name, *options.split())
    _, plain = study(name)
    assert definition.name != plain.name  # a study of its own
    same = {"name": "", "sampler": {}, "pruner": {}}
    assert replace(definition, **same) == replace(plain, **same)
    assert (definition.sampler, definition.pruner) != (plain.sampler, plain.pruner)


def test_the_grid_has_nine_cells(study: Callable[..., Any]) -> None:
    _, definition = study("grid")
    assert definition.is_grid
    cells = [tuple(cell.values()) for cell in Space(definition.space).cells()]
    assert len(cells) == 9
    assert set(cells) == {(w, r) for w in (64, 128, 256) for r in (0.001, 0.01, 0.1)}


@pytest.mark.parametrize(("name", "sampler"), [("bayesian", "TPE"), ("random", "Random")])
def test_ten_trials_over_widths_and_a_logarithmic_rate(
    study: Callable[..., Any], name: str, sampler: str
) -> None:
    settings, definition = study(name)
    assert settings.n_trials == 10
    assert definition.sampler["class_path"] == f"optuna.samplers.{sampler}Sampler"
    assert definition.sampler["init_args"]["seed"] == 42
    assert definition.space[RATE] == {"low": 0.001, "high": 0.1, "log": True}
    assert definition.space[WIDTH] == {"choices": [64, 128, 256]}


def test_the_pruned_studies_differ_in_the_pruner_alone(study: Callable[..., Any]) -> None:
    definitions = [study(name)[1] for name in ("hyperband", "successive_halving")]
    one, other = (replace(definition, name="", pruner={}) for definition in definitions)
    assert one == other
    pruners = [type(definition.make_pruner()).__name__ for definition in definitions]
    assert pruners == ["HyperbandPruner", "SuccessiveHalvingPruner"]


def test_the_start_of_the_architecture_search_trains(
    quick_fit: Callable[..., ExperimentCLI],
) -> None:
    small = ["--data.train_fraction=0.02", "--data.val_size=200", "--data.eval_batch_size=200"]
    cli = quick_fit(f"--config={REPOSITORY / 'configs' / 'searched_cnn.yaml'}", *small, batches=2)
    assert cli.trainer.global_step == 2
    assert type(cli.model).__name__ == "SearchedCNN"
