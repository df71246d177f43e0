"""From a study's YAML and command line to its definition, and every mistake on the way."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from foundation.checkout import technique
from foundation.errors import UserError
from studies.search import ReinforceSampler
from studies.search.search_definition import SearchDefinition, define, search_parser
from studies.search.space import Space
from studies.study import check_same
from studies.training import complete_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

CONFIGS = Path(__file__).parents[3] / "configs"
DROPOUT = "model.init_args.dropout"
OPTIMIZER = "model.init_args.optimizer"
SCHEDULER = "model.init_args.lr_scheduler"
SGD = technique("sgd")
STUDY = f"""
base: {CONFIGS / "mlp.yaml"}
n_trials: 10
sampler:
  class_path: optuna.samplers.TPESampler
  init_args: {{seed: 42, n_startup_trials: 4}}
space:
  {DROPOUT}: {{low: 0.0, high: 0.5}}
"""


@functools.cache
def read_once(options: tuple[str, ...]) -> str:
    return complete_config(options)


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts beside ``study.yaml``, and need not read the same options again."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    monkeypatch.setattr(
        "studies.search.search_definition.complete_config",
        lambda options: read_once(tuple(options)),
    )


def defined(*args: str, config: str = "study.yaml") -> SearchDefinition:
    return define(search_parser().parse_args([f"--config={config}", *args]))


def of(space: str) -> SearchDefinition:
    """The definition of a study of this space alone."""
    Path("other.yaml").write_text(f"base: {CONFIGS / 'mlp.yaml'}\nspace:\n  {space}\n")
    return defined(config="other.yaml")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SearchDefinition:
    """The study above; shared, so nothing changes it."""
    path = tmp_path_factory.mktemp("plain") / "study.yaml"
    path.write_text(STUDY)
    return defined(config=str(path))


# What a study says, and what it need not say.


def test_defaults(plain: SearchDefinition) -> None:
    assert plain.name == "study"
    assert plain.base == [str(CONFIGS / "mlp.yaml")]
    assert (plain.metric, plain.direction, plain.better) == ("val/accuracy", "maximize", max)
    assert plain.epochs == 6  # as in mlp.yaml
    assert (plain.seeds, plain.confirmation_seeds) == ([0], [0, 1, 2])
    assert plain.pruner["class_path"] == "optuna.pruners.NopPruner"
    assert plain.sampler["class_path"] == "optuna.samplers.TPESampler"
    assert plain.space == {DROPOUT: {"low": 0.0, "high": 0.5}}
    assert plain.full_config == plain.config
    assert not plain.is_grid


def test_a_definition_survives_the_storage(plain: SearchDefinition) -> None:
    again = SearchDefinition(**json.loads(json.dumps(dataclasses.asdict(plain))))
    assert again == plain


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("val/loss", "minimize"), ("val/error", "minimize"), ("val/f1", "maximize")],
)
def test_direction_comes_from_the_metric(metric: str, direction: str) -> None:
    assert defined(f"--objective.metric={metric}").direction == direction


@pytest.mark.parametrize("key", ["data.init_args.val_size", "trainer.limit_val_batches"])
def test_a_search_without_validation_is_refused(key: str) -> None:
    section, _, rest = key.partition(".")
    inner: Any = {rest: 0} if "." not in rest else {"init_args": {"val_size": 0}}
    Path("blind.yaml").write_text(yaml.safe_dump({section: inner}))
    with pytest.raises(UserError, match="is 0; a search is decided by validation images"):
        defined("--proxy=blind.yaml")


def test_direction_may_be_given() -> None:
    definition = defined("--objective.direction=minimize")
    assert (definition.direction, definition.better) == ("minimize", min)


def test_epochs_come_from_the_proxy_and_only_the_trials_have_it() -> None:
    Path("cheap.yaml").write_text("trainer: {max_epochs: 2}\ndata: {init_args: {val_size: 100}}\n")
    definition = defined("--proxy=cheap.yaml")
    assert definition.epochs == 2
    assert "val_size: 100" in definition.config
    assert "max_epochs: 6" in definition.full_config
    assert "val_size: 100" not in definition.full_config


def test_options_of_a_trial(plain: SearchDefinition) -> None:
    options = plain.options(Space(plain.space).arguments({DROPOUT: 0.25}))
    assert options == [f"--config={plain.config}", f"--{DROPOUT}=0.25", "--trainer.max_epochs=6"]


# Overriding a study's YAML.


def test_single_values_on_the_command_line() -> None:
    settings = search_parser().parse_args(["--config=study.yaml", "--n_trials", "3"])
    assert (settings.n_trials, settings.timeout) == (3, None)
    definition = defined("--objective.epochs", "2", "--seeds=[4, 5]", "--name", "other")
    assert (definition.epochs, definition.seeds, definition.name) == (2, [4, 5], "other")


def test_keys_of_the_space_on_the_command_line() -> None:
    width, rate = "model.init_args.hidden_size", f"{OPTIMIZER}.init_args.lr"
    definition = defined(
        *(f"--space.{DROPOUT}", "{choices: [0.1, 0.2]}"),
        f'--space.{width}={{"choices": [32, 64]}}',
        *(f"--space.{rate}", "{low: 1e-3, high: 1e-1, log: true}"),
    )
    assert definition.space == {
        DROPOUT: {"choices": [0.1, 0.2]},  # in place of the YAML's
        width: {"choices": [32, 64]},
        rate: {"low": 0.001, "high": 0.1, "log": True},
    }


def test_overlays_on_the_command_line() -> None:
    definition = defined("--space.descent", f"{{overlays: [none, {SGD}]}}")
    assert definition.space["descent"]["overlays"] == {"none": [], "sgd": [SGD.read_text()]}


def test_a_space_may_be_nested_as_a_configuration_is() -> None:
    definition = of("model: {init_args: {dropout: {choices: [0.1]}, hidden_size: {choices: [8]}}}")
    assert definition.space == {
        DROPOUT: {"choices": [0.1]},
        "model.init_args.hidden_size": {"choices": [8]},
    }


def test_another_sampler_keeps_what_it_has_too() -> None:
    sampler = defined("--sampler", "GPSampler").sampler
    assert sampler["class_path"] == "optuna.samplers.GPSampler"
    assert (sampler["init_args"]["seed"], sampler["init_args"]["n_startup_trials"]) == (42, 4)
    sampler = defined("--sampler=RandomSampler", "--sampler.seed=7").sampler
    assert sampler == {"class_path": "optuna.samplers.RandomSampler", "init_args": {"seed": 7}}


def test_files_compose_from_left_to_right() -> None:
    Path("more.yaml").write_text(
        "n_trials: 7\nobjective: {metric: val/loss}\nsampler: {init_args: {seed: 1}}\n"
        f"space: {{{OPTIMIZER}.init_args.lr: {{choices: [0.1]}}}}\n"
    )
    settings = search_parser().parse_args(
        ["--config=study.yaml", "--config=more.yaml", "--objective.epochs=3"]
    )
    definition = define(settings)
    assert settings.n_trials == 7
    assert definition.name == "study"  # the first file's
    assert (definition.metric, definition.direction, definition.epochs) == (
        "val/loss",
        "minimize",
        3,
    )
    assert definition.sampler["init_args"]["seed"] == 1
    assert definition.sampler["init_args"]["n_startup_trials"] == 4
    assert list(definition.space) == [f"{OPTIMIZER}.init_args.lr"]  # a space comes whole


# Keys that only some trials have.


def test_keys_that_an_overlay_brings() -> None:
    momentum = f"{OPTIMIZER}.init_args.momentum"
    definition = of(
        f"{momentum}: {{choices: [0.5, 0.9]}}\n  descent: {{overlays: [{SGD}]}}"  # files come first
    )
    assert list(definition.space) == [momentum, "descent"]
    when = "{choices: [0.5, 0.9], when: {descent: sgd}}"
    assert of(f"descent: {{overlays: [none, {SGD}]}}\n  {momentum}: {when}").space[momentum]


def test_keys_that_a_class_brings_and_needs() -> None:
    step, mode = f"{SCHEDULER}.init_args.step_size", f"{SCHEDULER}.init_args.mode"
    by_step = "torch.optim.lr_scheduler.StepLR"
    plateau = "{class_path: torch.optim.lr_scheduler.ReduceLROnPlateau, init_args: {patience: 3}}"
    definition = of(
        f"{SCHEDULER}: {{choices: [null, {by_step}, {plateau}]}}\n"
        f"  {step}: {{choices: [2], when: {{{SCHEDULER}: {by_step}}}}}\n"  # StepLR needs it
        f"  {mode}: {{choices: [min, max], when: {{{SCHEDULER}: {plateau}}}}}"
    )
    assert definition.space[SCHEDULER]["choices"][2] == yaml.safe_load(plateau)  # nothing added
    assert len(list(Space(definition.space).cells())) == 4


@pytest.mark.parametrize(
    ("space", "words"),
    [
        # The value of a conditional key is read beside the class it belongs to.
        (
            f"descent: {{overlays: [none, {SGD}]}}\n"
            f"  {OPTIMIZER}.init_args.momentum: {{choices: [0.5, high], when: {{descent: sgd}}}}",
            [f"{OPTIMIZER}.init_args.momentum: high:", "float"],
        ),
        # Adam has no momentum.
        (
            f"{OPTIMIZER}: {{choices: [torch.optim.SGD, torch.optim.Adam]}}\n"
            f"  {OPTIMIZER}.init_args.momentum: {{choices: [0.5]}}",
            [f"{OPTIMIZER}: torch.optim.Adam:", "'momentum' is not accepted"],
        ),
        (
            f"{OPTIMIZER}.init_args.momentum: {{choices: [0.5]}}",
            [f"{OPTIMIZER}.init_args.momentum is no key", "did you mean"],
        ),
        (f"{OPTIMIZER}: {{choices: [torch.optim.Foo]}}", [f"{OPTIMIZER}: torch.optim.Foo:"]),
        (f"{OPTIMIZER}.init_args.lr: {{choices: [0.1, x]}}", [".lr: x:", "float"]),
        ("model.init_args.hidden_size: {choices: [64, abc]}", ["hidden_size: abc:", "int", "abc"]),
        ("model.init_args.hidden_size: {low: 0.5, high: 8}", ["hidden_size: 0.5:", "int"]),
        (
            "model.init_args.hiden_size: {choices: [64]}",
            ["hiden_size is no key", "did you mean model.init_args.hidden_size?"],
        ),
        (
            "model.dropout: {choices: [0.1]}",
            ["model.dropout is no key", f"did you mean {DROPOUT}?"],
        ),
        ("model: {choices: [MLP, NoNet]}", ["model: NoNet:", "no class NoNet", "OptimizedCNN"]),
        (
            f"{DROPOUT}: {{choices: [0.1], when: {{width: 3}}}}",
            [f"{DROPOUT}: when names width, which is not in the space before it"],
        ),
        (
            f"{DROPOUT}: {{choises: [0.1]}}",
            [f"{DROPOUT}: is", "choises", "expected one of choices"],
        ),
        ("descent: {overlays: [none.yaml]}", ["descent: there is no file none.yaml"]),
        (
            "trainer.max_epochs: {choices: [1, 2]}",
            ["trainer.max_epochs cannot vary; it is objective.epochs of the study"],
        ),
        ("seed_everything: {choices: [1, 2]}", ["seed_everything cannot vary; it is seeds of"]),
    ],
)
def test_a_bad_space_is_refused(space: str, words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        of(space)
    message = str(refusal.value)
    assert message.startswith("space: ")
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


# Other mistakes.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--n_trial 3", ["--n_trial 3", "did you mean --n_trials?"]),
        ("--objective.metrc val/loss", ["metrc", "did you mean --objective.metric?"]),
        ("--no_such_option 3", ["--no_such_option 3", "--help lists the options"]),
        ("--n_trials many", ["n_trials", "int", "many"]),
        ("--n_trials 0", ["n_trials is 0; expected at least 1"]),
        ("--workers 0", ["workers is 0; expected at least 1"]),
        ("--timeout -1", ["timeout is -1.0; expected at least 0"]),
        ("--seeds []", ["seeds is []; expected at least one, e.g. --seeds '[0]'"]),
        ("--seeds 3", ["seeds", "list"]),
        ("--base none.yaml", ["base: there is no file none.yaml (from "]),
        ("--base []", ["base is empty"]),
        ("--proxy none.yaml", ["proxy: there is no file none.yaml (from "]),
        ("--objective.epochs 0", ["objective.epochs is 0; expected at least 1"]),
        ("--objective.epochs -1", ["objective.epochs is -1; expected at least 1"]),
        ("--objective.epochs few", ["objective.epochs", "int"]),
        ("--objective.metric test/accuracy", ["objective.metric is test/accuracy", "val/accuracy"]),
        ("--objective.direction up", ["objective.direction", "maximize", "up"]),
        ("--space {}", ["space is empty: name at least one key"]),
        ("--space 3", ["space", "dict", "3"]),
        (f"--space.{DROPOUT} 0.3", [f"space: {DROPOUT}: is '0.3'; expected one of choices, low"]),
        (f"--space.{DROPOUT} [1,2]", [f"space: {DROPOUT}: is [1, 2]; expected one of choices"]),
        ("--sampler.sed 3", ["TPESampler", "sed", "did you mean seed?"]),
        ("--sampler.sed=3", ["TPESampler", "sed", "did you mean seed?"]),
        ("--sampler.seed x", ["sampler", "TPESampler", "seed", "int"]),
        ("--sampler Foo", ["there is no class Foo; choose from", "GPSampler", "ReinforceSampler"]),
        ("--sampler optuna.samplers.Foo", ["optuna.samplers.Foo", "choose from", "TPESampler"]),
        ("--sampler my.Foo", ["my.Foo", "choose from", "TPESampler"]),
        ("--sampler null", ["sampler", "subclass of BaseSampler"]),
        ("--sampler MedianPruner", ["sampler", "no class MedianPruner", "TPESampler"]),
        ("--sampler PartialFixedSampler", ["PartialFixedSampler", "fixed_params, base_sampler"]),
        ("--sampler GridSampler", [f"space: {DROPOUT} is unbounded"]),
        ("--sampler BruteForceSampler", ["sampler: optuna.samplers.BruteForceSampler", "step"]),
        ("--sampler QMCSampler --sampler.qmc_type dice", ["sampler", "QMCSampler", "dice"]),
        ("--pruner Foo", ["pruner: there is no class Foo; choose from", "HyperbandPruner"]),
        (
            "--pruner ThresholdPruner",
            ["pruner: optuna.pruners.ThresholdPruner: ", "lower or upper"],
        ),
        ("--pruner PercentilePruner", ["PercentilePruner", "required: percentile"]),
        (
            "--pruner MedianPruner --objective.epochs 1",
            ["pruner is optuna.pruners.MedianPruner", "one epoch", "--pruner NopPruner"],
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(args: str, words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        defined(*args.split())
    for word in words:
        assert word in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_trails: 3\n", ["n_trails", "did you mean n_trials?"]),
        ("n_trials: three\n", ["wrong.yaml", "n_trials", "int", "three"]),
        ("objective: {metrics: val/loss}\n", ["metrics", "objective"]),
        ("sampler: {class_path: Foo}\n", ["wrong.yaml", "sampler", "no class Foo", "TPESampler"]),
        ("sampler: {init_args: {sed: 3}}\n", ["TPESampler", "sed", "did you mean seed?"]),
        ("- base\n- space\n", ["wrong.yaml", "expected keys and values", "base"]),
        ("hello\n", ["wrong.yaml", "expected keys and values", "got hello"]),
        ("", ["wrong.yaml", "expected keys and values", "got nothing"]),
        ("space: {a: [1\nbase: b\n", ["wrong.yaml", "line 1"]),
    ],
)
def test_a_mistake_in_the_yaml_is_one_line(text: str, words: list[str]) -> None:
    Path("wrong.yaml").write_text(text)
    with pytest.raises(UserError) as refusal:
        defined("--config=wrong.yaml")
    for word in words:
        assert word in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "required: base, space"),
        (["--base=a.yaml"], "required: space"),
        (["--config=none.yaml"], "File does not exist"),
    ],
)
def test_what_is_missing_is_named(args: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        search_parser().parse_args(args)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "model: {class_path: MLP, init_args: {hiden_size: 3}}\n",
            ["hiden_size", "did you mean hidden_size?"],
        ),
        ("model: [MLP\n", ["line 1"]),
        ("- model\n", ["expected keys and values"]),
        ("", ["got nothing"]),
        ("trainer: {max_epoch: 3}\n", ["trainer.max_epoch", "did you mean trainer.max_epochs?"]),
    ],
)
@pytest.mark.parametrize("role", ["base", "proxy"])
def test_an_invalid_configuration_is_named(role: str, text: str, words: list[str]) -> None:
    Path("invalid.yaml").write_text(text)
    with pytest.raises(UserError) as refusal:
        defined(f"--{role}=invalid.yaml")
    assert str(refusal.value).startswith(f"{role}: ")
    assert "invalid.yaml" in str(refusal.value) or "max_epoch" in text
    for word in words:
        assert word in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


# What makes two studies the same.


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("metric", "val/loss", "metric (val/accuracy then, val/loss now)"),
        ("epochs", 7, "epochs (6 then, 7 now)"),
        ("seeds", [0, 1], "seeds ([0] then, [0, 1] now)"),
        ("space", {DROPOUT: {"low": 0.0, "high": 0.6}}, f"space: {DROPOUT} ("),
        ("space", {}, f"space: {DROPOUT} ({{'low': 0.0, 'high': 0.5}} then, None now)"),
        ("sampler", {"class_path": "optuna.samplers.RandomSampler"}, "sampler: class_path (optuna"),
        ("config", "seed_everything: 1", "then, "),
        ("full_config", "seed_everything: 1", "then, "),
    ],
)
def test_a_study_does_not_go_on_as_another(
    plain: SearchDefinition, field: str, value: Any, said: str
) -> None:
    changed = dataclasses.replace(plain, **{field: value})
    with pytest.raises(UserError) as refusal:
        check_same(Path("here"), plain, changed, SearchDefinition.FIXED)
    assert str(refusal.value).startswith("here holds a study with another value of ")
    assert said in str(refusal.value)


def test_the_key_that_differs_is_named(plain: SearchDefinition) -> None:
    changed = dataclasses.replace(
        plain, full_config=plain.full_config.replace("hidden_size: 128", "hidden_size: 64")
    )
    with pytest.raises(UserError, match=r"model\.init_args\.hidden_size \(128 then, 64 now\)"):
        check_same(Path("here"), plain, changed, SearchDefinition.FIXED)


def test_a_study_may_go_on_elsewhere_with_other_confirmations(plain: SearchDefinition) -> None:
    same = dataclasses.replace(plain, name="other", base=["there.yaml"], confirmation_seeds=[])
    check_same(Path("here"), plain, same, SearchDefinition.FIXED)


# Samplers and pruners.

TWO = {"x": {"low": 0.0, "high": 1.0}, "y": {"choices": [0, 1, 2]}}
STEPS = {"x": {"low": 0.0, "high": 0.9, "step": 0.1}, "y": {"choices": [0, 1, 2]}}


def sampler(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"optuna.samplers.{name}", "init_args": arguments}


def proposals(definition: SearchDefinition, trials: int = 8) -> list[dict[str, Any]]:
    """What a study proposes, trial by trial, as ``studies.trials`` asks for it."""
    study = optuna.create_study()
    space = Space(definition.space)
    found, kept = [], None
    for number in range(trials):
        study.sampler = kept = definition.sampler_for(number, kept)
        trial = study.ask()
        found.append(space.suggest(trial))
        study.tell(trial, sum(trial.params.values()))
    return found


SAMPLERS = [
    sampler("RandomSampler", seed=3),
    sampler("TPESampler", seed=3, n_startup_trials=3),
    sampler("GPSampler", seed=3, n_startup_trials=3),
    sampler("CmaEsSampler", seed=3, n_startup_trials=3),
    sampler("NSGAIISampler", seed=3, population_size=4),
    sampler("NSGAIIISampler", seed=3, population_size=4),
    sampler("QMCSampler", seed=3, scramble=True),
    sampler("BruteForceSampler", seed=3),
    sampler(
        "PartialFixedSampler",
        fixed_params={"y": 1},
        base_sampler=sampler("RandomSampler", seed=3),
    ),
    {"class_path": "studies.search.ReinforceSampler", "init_args": {"seed": 3}},
]


@pytest.mark.filterwarnings("ignore::UserWarning:optuna")
@pytest.mark.filterwarnings("ignore::UserWarning:scipy")
@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec["class_path"].rpartition(".")[2])
def test_a_sampler_proposes_the_same_again_and_never_repeats_itself(
    plain: SearchDefinition, spec: dict[str, Any]
) -> None:
    words = {"w": {"choices": [0, 1, 2, 3]}, "v": {"choices": [0, 1, 2, 3]}}
    space = words if "Reinforce" in spec["class_path"] else TWO
    space = STEPS if "Brute" in spec["class_path"] else space
    definition = dataclasses.replace(plain, sampler=spec, space=space)
    made = definition.sampler_for(0, None)
    assert type(made).__name__ == spec["class_path"].rpartition(".")[2]
    first = proposals(definition)
    assert proposals(definition) == first
    assert len({json.dumps(chosen) for chosen in first}) >= (3 if space is words else 7)
    if "PartialFixed" in spec["class_path"]:
        assert {chosen["y"] for chosen in first} == {1}
        spec = {**spec, "init_args": {**spec["init_args"], "base_sampler": SAMPLERS[0]}}
        spec["init_args"]["base_sampler"] = sampler("RandomSampler", seed=4)
    else:
        spec = {**spec, "init_args": {**spec["init_args"], "seed": 4}}
    assert proposals(dataclasses.replace(definition, sampler=spec)) != first


def test_a_resumed_study_goes_on_as_it_would_have(plain: SearchDefinition) -> None:
    space = Space(plain.space)

    def ask(study: optuna.Study, number: int, kept: Any) -> Any:
        study.sampler = kept = plain.sampler_for(number, kept)
        trial = study.ask()
        value: Any = space.suggest(trial)[DROPOUT]
        study.tell(trial, (value - 0.2) ** 2)
        return value

    whole = optuna.create_study()
    values = [ask(whole, number, None) for number in range(8)]
    resumed = optuna.create_study()
    resumed.add_trials(whole.trials[:5])  # another process, another sampler
    assert [ask(resumed, number, None) for number in range(5, 8)] == values[5:]


def test_workers_draw_different_values(plain: SearchDefinition) -> None:
    space = Space(plain.space)
    values = []
    for number in range(4):  # none knows of the others' trials
        study = optuna.create_study(sampler=plain.sampler_for(number, None))
        values.append(space.suggest(study.ask())[DROPOUT])
    assert len(set(values)) == 4


def test_a_sampler_without_a_seed_has_the_seed_0(plain: SearchDefinition) -> None:
    none, zero = (sampler("RandomSampler", seed=seed) for seed in (None, 0))
    by_none, by_zero = (dataclasses.replace(plain, sampler=spec) for spec in (none, zero))
    assert proposals(by_none) == proposals(by_zero)


@pytest.mark.parametrize("name", ["QMCSampler", "ReinforceSampler"])
def test_a_sampler_that_counts_is_kept(plain: SearchDefinition, name: str) -> None:
    module = "studies.search.reinforce" if name == "ReinforceSampler" else "optuna.samplers"
    spec = {"class_path": f"{module}.{name}", "init_args": {"seed": 3}}
    definition = dataclasses.replace(plain, sampler=spec)
    kept = definition.sampler_for(0, None)
    assert isinstance(kept, optuna.samplers.QMCSampler | ReinforceSampler)
    assert definition.sampler_for(1, kept) is kept


def test_a_grid_is_a_grid_of_the_space() -> None:
    Path("grid.yaml").write_text(
        f"base: {CONFIGS / 'mlp.yaml'}\nsampler: optuna.samplers.GridSampler\n"
        f"space: {{{DROPOUT}: {{choices: [0.1, 0.2]}}, "
        "model.init_args.hidden_size: {low: 8, high: 24, step: 8}}\n"
    )
    definition = defined(config="grid.yaml")
    assert definition.is_grid
    cells = list(Space(definition.space).cells())
    assert [tuple(cell.values()) for cell in cells] == [
        *((0.1, 8), (0.1, 16), (0.1, 24)),
        *((0.2, 8), (0.2, 16), (0.2, 24)),
    ]


PRUNERS: list[tuple[str, dict[str, Any]]] = [
    ("NopPruner", {}),
    ("MedianPruner", {"n_startup_trials": 1, "n_warmup_steps": 2}),
    ("PercentilePruner", {"percentile": 25.0}),
    ("SuccessiveHalvingPruner", {"min_resource": 1, "reduction_factor": 2}),
    ("HyperbandPruner", {"min_resource": 1, "max_resource": 9}),
    ("ThresholdPruner", {"lower": 0.2}),
    (
        "PatientPruner",
        {"wrapped_pruner": {"class_path": "optuna.pruners.MedianPruner"}, "patience": 1},
    ),
    ("WilcoxonPruner", {"p_threshold": 0.1}),
]


@pytest.mark.parametrize(("name", "arguments"), PRUNERS, ids=[name for name, _ in PRUNERS])
def test_every_pruner_can_be_made(plain: SearchDefinition, name: str, arguments: Any) -> None:
    spec = {"class_path": f"optuna.pruners.{name}", "init_args": arguments}
    pruner = dataclasses.replace(plain, pruner=spec).make_pruner()
    assert type(pruner).__name__ == name
    for argument, value in arguments.items():
        kept = {k.lstrip("_"): v for k, v in vars(pruner).items()}
        kept["percentile"] = kept.get("percentile")
        if argument in kept and not isinstance(value, dict):
            assert kept[argument] == value


def test_a_pruner_from_the_command_line_prunes() -> None:
    pruner = defined("--pruner=ThresholdPruner", "--pruner.lower=0.2").make_pruner()
    study = optuna.create_study(direction="maximize", pruner=pruner)
    verdicts = []
    for value in (0.1, 0.3):
        trial = study.ask()
        trial.report(value, 1)
        verdicts.append(trial.should_prune())
    assert verdicts == [True, False]


def test_messages_name_the_working_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"(from {tmp_path})")):
        defined("--base=none.yaml")
