"""The space of architectures: what it can draw, how parameters are named, what is refused."""

from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FixedTrial

from lightning_modules import SearchedCNN
from studies.search.architecture import Architecture

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

BLOCK = {"conv": "conv16k3", "norm": "bn", "activation": "relu", "pool": "none"}


def block(number: int, **choices: str) -> dict[str, Any]:
    return {f"net.{number}.{key}": value for key, value in {**BLOCK, **choices}.items()}


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """200 random draws, each with its string as a user attribute."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = Architecture()

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("architecture", space.suggest(trial, "net"))
        return 0.0

    study.optimize(objective, n_trials=200)
    optuna.logging.set_verbosity(verbosity)
    return study


def test_every_draw_builds_a_network_for_28_pixels(study: optuna.Study) -> None:
    drawn = {trial.user_attrs["architecture"] for trial in study.trials}
    assert len(drawn) > 150
    with torch.device("meta"):  # shapes without the work
        for architecture in drawn:
            SearchedCNN(**GRAY, architecture=architecture)
    network = SearchedCNN(**GRAY, architecture=max(drawn, key=len))
    assert network(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)


def test_a_fixed_trial_repeats_a_draw(study: optuna.Study) -> None:
    for trial in study.trials[:50]:
        again = Architecture().suggest(FixedTrial(trial.params), "net")
        assert again == trial.user_attrs["architecture"]


def test_parameters_differ_in_which_there_are_and_never_in_their_choices(
    study: optuna.Study,
) -> None:
    choices: dict[str, set[Any]] = {}
    for trial in study.trials:
        for name, distribution in trial.distributions.items():
            assert isinstance(distribution, optuna.distributions.CategoricalDistribution)
            choices.setdefault(name, set()).add(distribution.choices)
    assert all(len(each) == 1 for each in choices.values())
    words = ("conv", "norm", "activation", "pool")
    expected = {f"net.{number}.{word}" for number in range(3) for word in words}
    assert set(choices) == expected | {"net.0.next", "net.1.next", "net.fc"}
    lengths = {trial.user_attrs["architecture"].count("conv") for trial in study.trials}
    assert lengths == {1, 2, 3}


def test_the_words_are_asked_for_from_left_to_right() -> None:
    params = {**block(0), "net.0.next": "block", **block(1, pool="pool"), "net.1.next": "end"}
    trial = FixedTrial({**params, "net.fc": 64})
    assert Architecture().suggest(trial, "net") == "conv16k3-bn-relu|conv16k3-bn-relu-pool|fc64"
    assert list(trial.params) == [*params, "net.fc"]


def test_none_and_no_hidden_layer_leave_no_word() -> None:
    space = Architecture(activations=("gelu", "none"))
    params = block(0, norm="none", activation="none", conv="conv64k5")
    trial = FixedTrial({**params, "net.0.next": "end", "net.fc": 0})
    assert space.suggest(trial, "net") == "conv64k5"


def test_the_last_possible_block_is_not_asked_whether_it_is_the_last() -> None:
    trial = FixedTrial({**block(0), "net.fc": 0})
    assert Architecture(max_blocks=1).suggest(trial, "net") == "conv16k3-bn-relu"


def test_a_single_pixel_is_not_pooled() -> None:
    params: dict[str, Any] = {"net.fc": 0}
    for number in range(6):
        params |= {**block(number, pool="pool"), f"net.{number}.next": "block"}
    trial = FixedTrial(params)
    architecture = Architecture(max_blocks=6, channels=(16,), side=28).suggest(trial, "net")
    assert architecture.count("pool") == 4
    assert "net.3.pool" in trial.params
    assert "net.4.pool" not in trial.params
    assert SearchedCNN(**GRAY, architecture=architecture).head[1].in_features == 16


def test_lists_from_yaml_become_tuples() -> None:
    fields: Any = {
        "channels": [8],
        "kernels": [1, 7],
        "norms": ["none"],
        "activations": ["elu"],
        "pools": ["avgpool"],
        "units": [0, 9],
    }
    space = Architecture(**fields)
    assert all(getattr(space, name) == tuple(value) for name, value in fields.items())
    assert hash(space) == hash(Architecture(**fields))
    params = {"net.0.conv": "conv8k7", "net.0.norm": "none", "net.0.activation": "elu"}
    trial = FixedTrial({**params, "net.0.pool": "avgpool", "net.0.next": "end", "net.fc": 9})
    assert space.suggest(trial, "net") == "conv8k7-elu-avgpool|fc9"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_blocks": 0}, "max_blocks is 0; expected an integer, at least 1"),
        ({"max_blocks": 2.5}, "max_blocks is 2.5; expected an integer"),
        ({"max_blocks": True}, "max_blocks is True; expected an integer"),
        ({"channels": []}, r"channels is \[\]; expected a list of at least one choice"),
        ({"channels": 16}, "channels is 16; expected a list"),
        ({"channels": [16, 0]}, "channels has 0; expected integers, at least 1"),
        ({"channels": ["16"]}, "channels has '16'; expected integers"),
        ({"channels": [16, 16]}, r"channels is \[16, 16\]; expected every choice once"),
        ({"kernels": [3, 4]}, "kernels has 4; expected odd numbers"),
        ({"norms": "bn"}, "norms is 'bn'; expected a list"),
        ({"norms": ["layer"]}, "norms has 'layer'; expected some of bn, none"),
        ({"activations": ["rleu"]}, "activations has 'rleu'; expected some of relu, gelu"),
        ({"pools": [None]}, "pools has None; expected some of pool, avgpool, none"),
        ({"units": [-1]}, "units has -1; expected integers, at least 0"),
    ],
    ids=str,
)
def test_a_bad_field_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(**fields)
