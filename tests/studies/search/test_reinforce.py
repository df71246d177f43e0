"""The REINFORCE sampler: what it learns from which trials, and that the history is all it needs."""

import pickle
import random
import statistics
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from studies.search import ReinforceSampler
from studies.search.architecture import Architecture

BEGAN = datetime(2025, 1, 1)
AB = CategoricalDistribution(("a", "b"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def objective(trial: optuna.Trial) -> float:
    """The share of 5×5 kernels, a little less for every hidden unit; some fail, some are pruned."""
    architecture = Architecture().suggest(trial, "net")
    value = architecture.count("k5") / architecture.count("conv") - len(architecture) / 1000
    if trial.number % 5 == 3:
        trial.report(value, 0)
        raise optuna.TrialPruned
    if trial.number % 7 == 1:
        raise ZeroDivisionError
    return value


def search(
    sampler: optuna.samplers.BaseSampler,
    trials: int,
    objective: Callable[[optuna.Trial], float] = objective,
    storage: BaseStorage | None = None,
) -> optuna.Study:
    study = optuna.create_study(
        sampler=sampler, direction="maximize", storage=storage, load_if_exists=True, study_name="s"
    )
    study.optimize(objective, n_trials=trials, catch=(ZeroDivisionError,))
    return study


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def weights(sampler: ReinforceSampler) -> dict[str, list[Tensor]]:
    """Every weight of the controller, by kind."""
    controller = sampler.controller
    kinds = {name: [w.detach().clone() for w in kind] for name, kind in controller.kinds.items()}
    return {"lstm": [w.detach().clone() for w in controller.lstm.parameters()], **kinds}


def same(first: dict[str, list[Tensor]], second: dict[str, list[Tensor]]) -> bool:
    assert first.keys() == second.keys()
    return all(
        torch.equal(a, b) for name in first for a, b in zip(first[name], second[name], strict=True)
    )


def finished(
    choices: str,
    value: float | None,
    state: TrialState = TrialState.COMPLETE,
    seconds: int | None = None,
    reports: dict[int, float] | None = None,
) -> FrozenTrial:
    """A trial that chose, e.g. ``"ab"`` for ``x.0.c`` and ``x.1.c``."""
    names = [f"x.{i}.c" for i in range(len(choices))]
    trial = optuna.trial.create_trial(
        state=state,
        value=value,
        params=dict(zip(names, choices, strict=True)),
        distributions=dict.fromkeys(names, AB),
        intermediate_values=reports,
    )
    if seconds is not None:
        trial.datetime_complete = BEGAN + timedelta(seconds=seconds)
    return trial


def taught(*trials: FrozenTrial, direction: Any = "maximize", **options: Any) -> ReinforceSampler:
    """A sampler that has learned from these trials."""
    sampler = ReinforceSampler(seed=0, **options)
    study = optuna.create_study(sampler=sampler, direction=direction)
    for trial in trials:
        study.add_trial(trial)
    study.ask()
    return sampler


def learned(*trials: FrozenTrial, **options: Any) -> dict[str, list[Tensor]]:
    return weights(taught(*trials, **options))


def chance(sampler: ReinforceSampler, choices: str) -> float:
    """The probability that the controller makes these choices."""
    controller, product = sampler.controller, 1.0
    kind = controller.kind("x.0.c", AB)
    indices = ["ab".index(choice) for choice in choices]
    for step, index in enumerate(indices):
        product *= controller.probabilities([kind] * (step + 1), indices[:step])[index].item()
    return product


# The history is all it needs.


@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
def test_a_new_sampler_for_every_trial_goes_on_exactly_where_the_last_one_stopped(
    kind: str, tmp_path: Path
) -> None:
    def storage(name: str) -> BaseStorage:
        match kind:
            case "sqlite":
                return RDBStorage(f"sqlite:///{tmp_path / name}.db")
            case "journal":
                return JournalStorage(JournalFileBackend(str(tmp_path / f"{name}.log")))
        return InMemoryStorage()

    trials = {"memory": 20, "sqlite": 8, "journal": 10}[kind]
    one = ReinforceSampler(seed=5)
    uninterrupted = search(one, trials, storage=storage("uninterrupted"))
    kept = storage("interrupted")
    for _ in range(trials):
        last = ReinforceSampler(seed=5)
        interrupted = search(last, 1, storage=kept)
    states = {trial.state for trial in interrupted.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert params(interrupted) == params(uninterrupted)
    assert same(weights(last), weights(one))


def test_draws_follow_the_seed() -> None:
    first, again, other = (search(ReinforceSampler(seed), 12) for seed in (1, 1, 2))
    assert params(first) == params(again)
    assert params(first) != params(other)


def test_no_seed_is_another_seed_each_time() -> None:
    seeds = {ReinforceSampler().seed for _ in range(5)}
    assert len(seeds) == 5
    sampler = ReinforceSampler()
    assert params(search(sampler, 5)) == params(search(ReinforceSampler(sampler.seed), 5))


def test_initial_weights_do_not_depend_on_which_kind_came_first() -> None:
    def met(seed: int, *names: str) -> dict[str, list[Tensor]]:
        sampler = ReinforceSampler(seed)
        for name in names:
            sampler.controller.kind(name, AB)
        return weights(sampler)

    assert same(met(3, "x.one", "x.two"), met(3, "x.two", "x.one"))
    assert not same(met(3, "x.one"), met(4, "x.one"))
    assert not torch.equal(*(each[1] for name, each in met(3, "x", "y").items() if name != "lstm"))


def test_trials_count_in_the_order_in_which_they_finished() -> None:
    good, bad, fair = ("aa", 0.9), ("bb", 0.1), ("ab", 0.5)
    in_turn = learned(*(finished(*each, seconds=i) for i, each in enumerate((good, bad, fair))))
    backwards = learned(
        *(finished(*each, seconds=9 - i) for i, each in enumerate((fair, bad, good)))
    )
    assert same(backwards, in_turn)
    others = learned(*(finished(*each, seconds=i) for i, each in enumerate((fair, bad, good))))
    assert not same(others, in_turn)
    at_once = learned(*(finished(*each, seconds=0) for each in (good, bad, fair)))  # by number
    assert same(at_once, in_turn)


def test_a_trial_that_arrives_late_counts_as_if_it_had_been_there() -> None:
    trials = [finished("aa", 0.9, seconds=1), finished("bb", 0.1, seconds=2)]
    late = finished("ab", 0.5, seconds=0)
    sampler = ReinforceSampler(seed=0)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.add_trials(trials)
    study.ask()
    study.add_trial(late)
    study.ask()
    assert same(weights(sampler), learned(late, *trials))


def test_a_sampler_that_changes_to_another_study_forgets_the_first() -> None:
    sampler = ReinforceSampler(seed=4)
    search(sampler, 6)
    assert params(search(sampler, 6)) == params(search(ReinforceSampler(seed=4), 6))


def test_threads_that_share_a_sampler_learn_what_the_history_says() -> None:
    sampler = ReinforceSampler(seed=0)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(objective, n_trials=24, n_jobs=2, catch=(ZeroDivisionError,))
    fresh = ReinforceSampler(seed=0)
    for each in (sampler, fresh):
        study.sampler = each
        study.ask()
    assert len(study.get_trials(states=[TrialState.COMPLETE])) > 10
    assert same(weights(sampler), weights(fresh))


def test_a_pickled_sampler_goes_on() -> None:
    sampler = ReinforceSampler(seed=2, hidden_size=8, learning_rate=0.02, entropy_weight=0.3)
    study = search(sampler, 10)
    study.sampler = pickle.loads(pickle.dumps(sampler))
    study.optimize(objective, n_trials=5, catch=(ZeroDivisionError,))
    whole = ReinforceSampler(seed=2, hidden_size=8, learning_rate=0.02, entropy_weight=0.3)
    assert params(study) == params(search(whole, 15))


def test_global_random_states_are_neither_read_nor_changed() -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    draws = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = states()
        study = search(ReinforceSampler(seed=9), 8, mixed)
        assert states() == before
        draws.append(params(study))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_learns_where_gradients_are_off(mode: Any) -> None:
    expected = params(search(ReinforceSampler(seed=0), 8))
    with mode():
        assert params(search(ReinforceSampler(seed=0), 8)) == expected


# What it learns.


def test_what_paid_more_than_the_average_becomes_likelier_and_what_paid_less_does_not() -> None:
    options: dict[str, Any] = {"entropy_weight": 0.0}
    first = finished("aa", 0.5, seconds=0)
    before = chance(taught(first, **options), "ab")
    assert chance(taught(first, finished("ab", 0.6, seconds=1), **options), "ab") > before
    assert chance(taught(first, finished("ab", 0.4, seconds=1), **options), "ab") < before
    assert chance(taught(first, finished("ab", 0.5, seconds=1), **options), "ab") == before


def test_chances_of_all_sequences_sum_to_one() -> None:
    sampler = taught(finished("aa", 0.5), finished("ab", 0.6))
    chances = [chance(sampler, x + y) for x in "ab" for y in "ab"]
    assert sum(chances) == pytest.approx(1)
    assert max(chances) > min(chances)


def test_the_entropy_bonus_brings_the_choices_closer_together() -> None:
    def spread(entropy_weight: float) -> float:
        equal = [finished("aa", 0.5, seconds=i) for i in range(100)]  # no advantage
        sampler = taught(*equal, entropy_weight=entropy_weight)
        return max(abs(chance(sampler, x + y) - 0.25) for x in "ab" for y in "ab")

    assert spread(0.0) > 0.02
    assert spread(1.0) < spread(0.0) / 2


def test_minimising_is_maximising_the_opposite() -> None:
    values = {"aa": 0.9, "bb": 0.1, "ab": 0.5}
    down = [finished(each, value, seconds=i) for i, (each, value) in enumerate(values.items())]
    up = [finished(each, -value, seconds=i) for i, (each, value) in enumerate(values.items())]
    assert same(learned(*down, direction="minimize"), learned(*up))
    assert not same(learned(*down, direction="minimize"), learned(*down))


def test_the_scale_of_the_rewards_does_not_matter() -> None:
    values = {"aa": 0.9, "bb": 0.1, "ab": 0.5, "ba": 0.25}

    def scaled(factor: float) -> dict[str, list[Tensor]]:
        pairs = enumerate(values.items())
        return learned(*(finished(each, factor * value, seconds=i) for i, (each, value) in pairs))

    assert same(scaled(2**-7), scaled(1.0))  # a power of two: exact in floating point


@pytest.mark.parametrize(
    ("last", "equal_to"),
    [
        (finished("ab", None, TrialState.PRUNED, 9, {0: 0.1, 3: 0.7, 2: 0.2}), 0.7),
        (finished("ab", None, TrialState.PRUNED, 9), 0.3),
        (finished("ab", None, TrialState.PRUNED, 9, {0: float("nan")}), 0.3),
        (finished("ab", None, TrialState.FAIL, 9, {0: 0.8}), 0.3),
        (finished("ab", float("inf"), TrialState.COMPLETE, 9), 0.3),
    ],
    ids=["pruned", "pruned, no report", "pruned, not a number", "failed", "infinite"],
)
def test_a_trial_without_a_value_counts_as_its_last_report_or_the_worst_so_far(
    last: FrozenTrial, equal_to: float
) -> None:
    before = [finished("aa", 0.3, seconds=0), finished("bb", 0.6, seconds=1)]
    expected = learned(*before, finished("ab", equal_to, seconds=9))
    assert same(learned(*before, last), expected)
    assert not same(learned(*before, finished("ab", 0.5, seconds=9)), expected)


def test_when_minimising_the_worst_so_far_is_the_largest() -> None:
    before = [finished("aa", 0.3, seconds=0), finished("bb", 0.6, seconds=1)]
    failed = learned(*before, finished("ab", None, TrialState.FAIL, 9), direction="minimize")
    assert same(failed, learned(*before, finished("ab", 0.6, seconds=9), direction="minimize"))


def test_a_failure_before_any_reward_teaches_nothing() -> None:
    failed = finished("bb", None, TrialState.FAIL, 0)
    rest = [finished("aa", 0.3, seconds=1), finished("bb", 0.6, seconds=2)]
    assert same(learned(failed, *rest), learned(*rest))


def test_an_enqueued_trial_teaches_and_leads_the_draws_that_follow_it() -> None:
    def two(trial: optuna.Trial) -> float:
        return float([trial.suggest_categorical(f"x.{i}.c", ("a", "b")) for i in range(2)] == ["b"])

    sampler = ReinforceSampler(seed=0)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.enqueue_trial({"x.0.c": "b", "x.1.c": "a"})
    study.enqueue_trial({"x.0.c": "b"})
    study.optimize(two, n_trials=2)
    assert params(study)[0] == {"x.0.c": "b", "x.1.c": "a"}
    assert params(study)[1]["x.0.c"] == "b"
    study.ask()
    assert same(weights(sampler), learned(*study.trials[:2]))


def test_a_draw_depends_on_the_choices_before_it() -> None:
    """``x.1.c`` should equal ``x.0.c``, which the last choice's embedding tells."""

    def equal(trial: optuna.Trial) -> float:
        first, second = (trial.suggest_categorical(f"x.{i}.c", tuple("abc")) for i in range(2))
        return float(first == second)

    rewards = [trial.values[0] for trial in search(ReinforceSampler(seed=0), 150, equal).trials]
    assert statistics.fmean(rewards[:30]) < 0.6
    assert statistics.fmean(rewards[-30:]) > 0.8


def test_blocks_share_what_is_learned_and_the_state_tells_them_apart() -> None:
    """Four names of one kind, each with a right choice of its own."""
    right = "abba"

    def matches(trial: optuna.Trial) -> float:
        drawn = [trial.suggest_categorical(f"x.{i}.c", ("a", "b")) for i in range(4)]
        return sum(map(str.__eq__, drawn, right)) / 4

    sampler = ReinforceSampler(seed=1)
    study = search(sampler, 150, matches)
    assert len(sampler.controller.kinds) == 1
    assert statistics.fmean(trial.values[0] for trial in study.trials[-30:]) > 0.9


def test_a_kind_is_a_name_without_numbers_and_its_choices() -> None:
    controller = ReinforceSampler(seed=0).controller
    conv = controller.kind("net.0.conv", AB)
    assert controller.kind("net.12.conv", AB) is conv
    assert controller.kind("net.0.conv3", AB) is not conv
    assert controller.kind("net.conv", AB) is conv
    assert controller.kind("net.0.conv", CategoricalDistribution((1, 2, 3))) is not conv
    assert [tuple(weight.shape) for weight in conv] == [(32,), (2, 32), (2, 32), (2,)]


def test_it_beats_random_search_on_a_small_budget() -> None:
    space = Architecture()

    def score(trial: optuna.Trial) -> float:
        architecture = space.suggest(trial, "net")
        words = ("conv64k5", "bn", "gelu", "pool")
        return sum(architecture.count(word) for word in words) / 12

    def last(sampler: optuna.samplers.BaseSampler) -> float:
        return statistics.fmean(t.values[0] for t in search(sampler, 100, score).trials[-30:])

    for seed in range(3):
        assert last(ReinforceSampler(seed)) > last(RandomSampler(seed)) + 0.2


# The rest of the sampler's duties.


def mixed(trial: optuna.Trial) -> float:
    choice = trial.suggest_categorical("c", ("a", "b", "c"))
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    size = trial.suggest_int("size", 16, 64, step=16)
    again = trial.suggest_categorical("d", (0, 1, 2, 3))
    return rate + size + again + (choice == "a")


def test_what_is_not_categorical_is_drawn_uniformly_and_changes_no_other_draw() -> None:
    study = search(ReinforceSampler(seed=0), 60, mixed)
    drawn = params(study)
    assert drawn == params(search(ReinforceSampler(seed=0), 60, mixed))
    assert {each["size"] for each in drawn} == {16, 32, 48, 64}
    exponents = [np.log10(each["rate"]) for each in drawn]
    assert len(set(exponents)) == 60
    assert min(exponents) < -4.5
    assert max(exponents) > -1.5

    values = [trial.value for trial in study.trials]

    def categorical(trial: optuna.Trial) -> float:
        trial.suggest_categorical("c", ("a", "b", "c"))
        trial.suggest_categorical("d", (0, 1, 2, 3))
        value = values[trial.number]
        assert value is not None
        return value

    alone = params(search(ReinforceSampler(seed=0), 60, categorical))
    assert alone == [{"c": each["c"], "d": each["d"]} for each in drawn]


def test_choices_of_every_type_come_back_as_they_are() -> None:
    choices = (None, True, 2, 0.5, "x")
    study = search(
        ReinforceSampler(0), 30, lambda t: float(t.suggest_categorical("c", choices) == 2)
    )
    drawn = [each["c"] for each in params(study)]
    assert {type(each) for each in drawn} == {type(each) for each in choices}


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["maximize"] * 2, sampler=ReinforceSampler(seed=0))
    with pytest.raises(ValueError, match="multi-objective"):
        study.ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0; expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected above 0"),
        ({"baseline_decay": 1.0}, "baseline_decay is 1.0; expected 0 <= value < 1"),
        ({"entropy_weight": -0.1}, "entropy_weight is -0.1; expected at least 0"),
        ({"initial_scale": 0.0}, "initial_scale is 0.0; expected above 0"),
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReinforceSampler(**options)
