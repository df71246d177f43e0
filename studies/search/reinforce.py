"""Architecture search by reinforcement: a controller network learns which choices pay."""

import math
import random
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from foundation.seeds import derived_seed

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Kind(NamedTuple):
    """Weights of the controller for parameters of one kind with n choices.

    Attributes:
        asked: input that says that this kind is asked for, ``[hidden]``.
        chosen: input that says what was chosen in the step before, ``[n, hidden]``.
        weight: of the linear layer to the choices' logits, ``[n, hidden]``.
        bias: likewise, ``[n]``.
    """

    asked: nn.Parameter
    chosen: nn.Parameter
    weight: nn.Parameter
    bias: nn.Parameter


class Controller:
    """An LSTM that is asked for one choice after another.

    Its weights depend on the seed and what it learned only, not on when it met which kind.

    Args:
        seed: of the initial weights.
        hidden_size: units of the LSTM and length of the embeddings.
        learning_rate: of Adam.
        scale: initial weights are uniform in -scale…scale.
    """

    def __init__(self, seed: int, hidden_size: int, learning_rate: float, scale: float) -> None:
        self.seed = seed
        self.hidden_size = hidden_size
        self.scale = scale
        # Without memory at first: filling it as usual would draw from the global random state.
        lstm = nn.LSTM(hidden_size, hidden_size, device="meta", dtype=torch.float32)
        self.lstm = lstm.to_empty(device="cpu")
        self._fill("lstm", *self.lstm.parameters())
        self.kinds: dict[str, Kind] = {}
        self.optimizer = torch.optim.Adam(self.lstm.parameters(), lr=learning_rate)

    @torch.no_grad()
    def _fill(self, name: str, *weights: Tensor) -> None:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, name))
        for weight in weights:
            weight.uniform_(-self.scale, self.scale, generator=generator)

    def kind(self, name: str, distribution: CategoricalDistribution) -> Kind:
        """The kind of a parameter: its name without segments of digits, and its choices."""
        segments = (segment for segment in name.split(".") if not segment.isdigit())
        key = f"{'.'.join(segments)} {distribution.choices!r}"
        if key not in self.kinds:
            n = len(distribution.choices)
            sizes = [(self.hidden_size,), (n, self.hidden_size), (n, self.hidden_size), (n,)]
            kind = Kind(*(nn.Parameter(torch.zeros(s, dtype=torch.float32)) for s in sizes))
            self._fill(key, kind.asked, kind.chosen, kind.weight)
            self.kinds[key] = kind
            self.optimizer.add_param_group({"params": list(kind)})
        return self.kinds[key]

    def states(self, kinds: Sequence[Kind], choices: Sequence[int]) -> Tensor:
        """The LSTM's output before each of T choices, ``[T, hidden]``.

        Args:
            kinds: what is asked for, T of them.
            choices: what was chosen before, at least T-1 indices.
        """
        asked = torch.stack([kind.asked for kind in kinds])
        chosen = [kind.chosen[choice] for kind, choice in zip(kinds[:-1], choices, strict=False)]
        before = torch.stack([torch.zeros_like(asked[0]), *chosen])
        return self.lstm(asked + before)[0]

    @torch.no_grad()
    def probabilities(self, kinds: Sequence[Kind], choices: Sequence[int]) -> Tensor:
        """Of the choices of the last of ``kinds``, ``[n]``; ``choices`` made the others."""
        state = self.states(kinds, choices)[-1]
        return torch.softmax(kinds[-1].weight @ state + kinds[-1].bias, dim=0)

    def learn(
        self,
        kinds: Sequence[Kind],
        choices: Sequence[int],
        advantage: float,
        entropy_weight: float,
    ) -> None:
        """One step that makes the choices likelier if the advantage is positive."""
        states = self.states(kinds, choices)
        objective = torch.zeros(())
        for kind in {id(kind): kind for kind in kinds}.values():
            steps = [step for step, other in enumerate(kinds) if other is kind]
            logs = torch.log_softmax(states[steps] @ kind.weight.T + kind.bias, dim=1)
            chosen = logs[range(len(steps)), [choices[step] for step in steps]].sum()
            entropy = -(logs.exp() * logs).sum()
            objective = objective + advantage * chosen + entropy_weight * entropy
        self.optimizer.zero_grad()
        (-objective).backward()
        self.optimizer.step()


class ReinforceSampler(BaseSampler):
    """Draw categorical parameters from a controller that learns from the trials before.

    Neural architecture search as Zoph and Le describe it (2017, arXiv:1611.01578): an LSTM emits a
    trial's choices one after another, in the order in which they are asked for. A trial's value is
    the reward of its choices, and REINFORCE (Williams 1992, doi:10.1007/BF00992696) makes them
    likelier or less likely by Adam, one step per finished trial. The reward counts as its distance
    from a moving average of the rewards before, in their moving standard deviation: accuracies that
    differ by hundredths teach as much as ones that differ by tenths. An entropy bonus keeps the
    controller from settling early.

    A parameter's kind is its name without the segments of digits: ``net.0.conv`` and
    ``net.1.conv`` share what is learned, and the LSTM's state tells them apart. Parameters that are
    not categorical are drawn uniformly.

    What the controller knows is a function of the seed and the study's finished trials, in the
    order in which they finished (and numbers, among equals). So a sampler in a new process goes on
    where the one before it stopped, and workers that share a study and a seed share the controller.
    A completed trial's reward is its value, a pruned one's the last value it reported, and a failed
    one's, or one's that has none, the worst so far. Trials whose parameters were enqueued or added
    teach like those drawn here. The storage has to keep a trial's parameters in the order in which
    they were asked for, as the in-memory, the relational and the journal storages do.

    Draws depend on the seed, the trial's number and what the controller knows; no global random
    state is read or changed.

    Args:
        seed: of the controller's initial weights and the draws; None draws one.
        hidden_size: units of the LSTM.
        learning_rate: of Adam.
        baseline_decay: of the moving average of rewards, in [0, 1).
        entropy_weight: factor of the entropy bonus, at least 0.
        initial_scale: initial weights are uniform between minus and plus this. With small ones, the
            controller can hardly tell one block from the next at first, and learns for them alike.

    Raises:
        ValueError: an argument out of range; later, a study with several objectives.
    """

    def __init__(
        self,
        seed: int | None = None,
        hidden_size: int = 32,
        learning_rate: float = 0.006,
        baseline_decay: float = 0.9,
        entropy_weight: float = 0.15,
        initial_scale: float = 0.5,
    ) -> None:
        if hidden_size < 1:
            raise ValueError(f"hidden_size is {hidden_size}; expected at least 1")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate is {learning_rate}; expected above 0")
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"baseline_decay is {baseline_decay}; expected 0 <= value < 1")
        if not entropy_weight >= 0:
            raise ValueError(f"entropy_weight is {entropy_weight}; expected at least 0")
        if not initial_scale > 0:
            raise ValueError(f"initial_scale is {initial_scale}; expected above 0")
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self.hidden_size = hidden_size
        self.learning_rate = learning_rate
        self.baseline_decay = baseline_decay
        self.entropy_weight = entropy_weight
        self.initial_scale = initial_scale
        self._lock = threading.RLock()  # studies with n_jobs > 1 share the sampler among threads
        self._forget()

    def _forget(self) -> None:
        """To what the sampler was before the first trial."""
        with torch.inference_mode(False):
            self.controller = Controller(
                self.seed, self.hidden_size, self.learning_rate, self.initial_scale
            )
        self._consumed: list[tuple[Any, int]] = []
        self._baseline = self._variance = 0.0
        self._rewards = 0
        self._worst: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its arguments: the rest comes from the study's history."""
        arguments = (self.seed, self.hidden_size, self.learning_rate, self.baseline_decay)
        return type(self), (*arguments, self.entropy_weight, self.initial_scale)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Learn from every finished trial that is new."""
        self._raise_error_if_multi_objective(study)
        finished = study._storage.get_all_trials(study._study_id, deepcopy=False, states=FINISHED)
        keys = {(trial.datetime_complete, trial.number): trial for trial in finished}
        order = sorted(keys)
        with self._lock, torch.inference_mode(False), torch.enable_grad():
            if order[: len(self._consumed)] != self._consumed:
                self._forget()  # another study, or another worker's trial came late
            for key in order[len(self._consumed) :]:
                self._consume(keys[key], study.direction)
                self._consumed.append(key)

    def _consume(self, trial: FrozenTrial, direction: StudyDirection) -> None:
        """Learn from a finished trial."""
        kinds, choices = self._episode(trial)
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if trial.state == TrialState.PRUNED and trial.last_step is not None:
            value = trial.intermediate_values[trial.last_step]
        if value is not None and math.isfinite(value):
            reward = -value if direction == StudyDirection.MINIMIZE else value
            self._worst = reward if self._worst is None else min(reward, self._worst)
        elif self._worst is None:
            return
        else:
            reward = self._worst
        if kinds:
            self.controller.learn(kinds, choices, self._advantage(reward), self.entropy_weight)

    def _advantage(self, reward: float) -> float:
        """The reward's distance from the moving average before it, in standard deviations."""
        if self._rewards == 0:
            self._baseline = reward
        decay = self.baseline_decay
        self._rewards += 1
        distance = reward - self._baseline
        self._baseline += (1 - decay) * distance
        self._variance = decay * self._variance + (1 - decay) * distance**2
        deviation = math.sqrt(self._variance / (1 - decay**self._rewards))
        return distance / deviation if deviation > 0 else 0.0

    def _episode(self, trial: FrozenTrial) -> tuple[list[Kind], list[int]]:
        """Kinds and indices of the categorical choices that a trial has made so far."""
        kinds, choices = [], []
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            if isinstance(distribution, CategoricalDistribution):
                kinds.append(self.controller.kind(name, distribution))
                choices.append(int(distribution.to_internal_repr(value)))
        return kinds, choices

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seed = derived_seed(self.seed, trial.number, param_name)
        if not isinstance(param_distribution, CategoricalDistribution):
            uniform = RandomSampler(seed)
            return uniform.sample_independent(study, trial, param_name, param_distribution)
        with self._lock, torch.inference_mode(False):
            kinds, choices = self._episode(trial)
            kinds.append(self.controller.kind(param_name, param_distribution))
            probabilities = self.controller.probabilities(kinds, choices)
        generator = torch.Generator().manual_seed(seed)
        choice = torch.multinomial(probabilities, 1, generator=generator).item()
        return param_distribution.choices[int(choice)]
