"""The search space: keys of a configuration with the values that they may take.

A study's ``space`` maps a configuration's keys to one of ::

    model.init_args.hidden_size: {choices: [64, 128, 256]}
    model.init_args.dropout: {low: 0.0, high: 0.5, step: 0.1}
    model.init_args.optimizer.init_args.lr: {low: 1.0e-3, high: 1.0e-1, log: true}
    flips: {overlays: [none, configs/techniques/augmentation/flip.yaml]}   # any name; whole files
    model.init_args.architecture: {architecture: {max_blocks: 3}}    # strings for SearchedCNN

and each may have ``when: {<another key>: <value or list of values>}``: it exists only in trials
where that other one, named before it, has this value.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from optuna.distributions import FloatDistribution
from optuna.trial import BaseTrial, FixedTrial

from foundation.checkout import found
from foundation.errors import UserError
from studies.search.architecture import Architecture

Scalar = str | int | float | bool | None
_FIELDS = {
    "choices": {"choices"},
    "low": {"low", "high", "step", "log"},
    "overlays": {"overlays"},
    "architecture": {"architecture"},
}


class Values(Protocol):
    """The values of one parameter."""

    def suggest(self, trial: BaseTrial, name: str) -> Scalar:
        """Draw a value."""

    def arguments(self, name: str, value: Scalar) -> list[str]:
        """``train.py fit``'s options for a value."""

    def probes(self) -> list[Scalar]:
        """Values that stand for all of them when the space is checked."""

    def cells(self) -> list[Scalar] | None:
        """All values, for a grid; None where they are unbounded."""


@dataclass(frozen=True)
class Choices:
    """One of a list; what is no scalar (a class with its arguments, say) is kept as JSON."""

    choices: tuple[Scalar, ...]

    def suggest(self, trial: BaseTrial, name: str) -> Scalar:
        return trial.suggest_categorical(name, self.choices)

    def arguments(self, name: str, value: Scalar) -> list[str]:
        return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}"]

    def probes(self) -> list[Scalar]:
        return list(self.choices)

    def cells(self) -> list[Scalar]:
        return list(self.choices)


@dataclass(frozen=True)
class Range:
    """Integers or floats from ``low`` to ``high``, both included."""

    low: float
    high: float
    step: float | None
    log: bool

    @property
    def integers(self) -> bool:
        return all(type(end) is int for end in (self.low, self.high, self.step or 0))

    def suggest(self, trial: BaseTrial, name: str) -> float:
        if self.integers:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(name, low, high, step=step, log=self.log)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else self._at(round((value - self.low) / self.step))

    def arguments(self, name: str, value: Scalar) -> list[str]:
        return [f"--{name}={value!r}"]

    def probes(self) -> list[Scalar]:
        return [self.low, self.high]

    def cells(self) -> list[Scalar] | None:
        if self.step is None and (self.log or not self.integers):
            return None
        return [self._at(i) for i in range(self.steps + 1)]

    @property
    def steps(self) -> int:
        """From ``low`` to the last value that is not above ``high``."""
        low, high = Decimal(str(self.low)), Decimal(str(self.high))
        return int((high - low) // Decimal(str(self.step or 1)))

    def _at(self, i: int) -> float:
        """The value after ``i`` steps, as one would write it: 0.3, not 0.30000000000000004."""
        value = Decimal(str(self.low)) + i * Decimal(str(self.step or 1))
        return int(value) if self.integers else float(value)


@dataclass(frozen=True)
class Overlays:
    """One of several lists of configuration files, by a short label."""

    texts: dict[str, list[str]]

    def suggest(self, trial: BaseTrial, name: str) -> str:
        return trial.suggest_categorical(name, tuple(self.texts))

    def arguments(self, name: str, value: Scalar) -> list[str]:
        return [f"--config={text}" for text in self.texts[str(value)]]

    def probes(self) -> list[Scalar]:
        return list(self.texts)

    def cells(self) -> list[Scalar]:
        return list(self.texts)


@dataclass(frozen=True)
class Architectures:
    """Strings for ``SearchedCNN``."""

    space: Architecture

    def suggest(self, trial: BaseTrial, name: str) -> str:
        return self.space.suggest(trial, name)

    def arguments(self, name: str, value: Scalar) -> list[str]:
        return [f"--{name}={value}"]

    def probes(self) -> list[Scalar]:
        return []

    def cells(self) -> None:
        return None


@dataclass(frozen=True)
class Parameter:
    """A key of the space."""

    name: str
    values: Values
    when: dict[str, list[Scalar]] = field(default_factory=dict)

    def exists(self, chosen: Mapping[str, Scalar]) -> bool:
        return all(chosen.get(name) in values for name, values in self.when.items())

    @property
    def is_key(self) -> bool:
        """True for a key of the configuration; overlays have a name of their own."""
        return not isinstance(self.values, Overlays)


class Space:
    """The parameters of a search.

    Args:
        entries: as in a study's YAML, see this module's first lines.

    Raises:
        UserError: names the entry that cannot be read.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        if not entries:
            raise UserError("space is empty: name at least one key of the configuration to search")
        self.parameters: list[Parameter] = []
        for name, entry in entries.items():
            try:
                self.parameters.append(self._read(name, entry))
            except (ValueError, TypeError) as error:
                raise UserError(f"space: {name}: {error}") from error

    def _read(self, name: str, entry: Any) -> Parameter:
        kinds = [kind for kind in _FIELDS if isinstance(entry, Mapping) and kind in entry]
        if len(kinds) != 1:
            raise ValueError(
                f"is {entry!r}; expected one of choices, low and high, overlays, architecture"
            )
        unknown = entry.keys() - _FIELDS[kinds[0]] - {"when"}
        if unknown:
            expected = ", ".join([*sorted(_FIELDS[kinds[0]]), "when"])
            raise ValueError(f"has {sorted(unknown)[0]}; expected only {expected}")
        return Parameter(name, _values(kinds[0], entry), self._conditions(entry.get("when") or {}))

    def _conditions(self, when: Any) -> dict[str, list[Scalar]]:
        if not isinstance(when, Mapping):
            raise ValueError(f"when is {when!r}; expected other keys of the space and their values")
        known = {parameter.name: parameter.values for parameter in self.parameters}
        conditions = {}
        for other, wanted in when.items():
            if other not in known:
                raise ValueError(f"when names {other}, which is not in the space before it")
            conditions[other] = [
                _scalar(v) for v in (wanted if isinstance(wanted, list) else [wanted])
            ]
            there = known[other].cells()
            for value in conditions[other]:
                if there is not None and value not in there:
                    every = ", ".join(map(str, there))
                    raise ValueError(f"when wants {other} to be {value}; it is one of {every}")
        return conditions

    def suggest(self, trial: BaseTrial) -> dict[str, Scalar]:
        """Draw a value for every parameter that exists in this trial."""
        chosen: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.exists(chosen):
                chosen[parameter.name] = parameter.values.suggest(trial, parameter.name)
        return chosen

    def values(self, params: Mapping[str, Any]) -> dict[str, Scalar]:
        """Values that a trial with these Optuna parameters had chosen."""
        return self.suggest(FixedTrial(dict(params)))

    def arguments(self, chosen: Mapping[str, Scalar]) -> list[str]:
        """``train.py fit``'s options for the chosen values: files first, then single keys."""
        there = [p for p in self.parameters if p.name in chosen]
        there.sort(key=lambda parameter: parameter.is_key)
        return [a for p in there for a in p.values.arguments(p.name, chosen[p.name])]

    def cells(self) -> Iterator[dict[str, Scalar]]:
        """Every combination, each once.

        Raises:
            UserError: a parameter is unbounded.
        """
        columns = []
        for parameter in self.parameters:
            cells = parameter.values.cells()
            if cells is None:
                raise UserError(
                    f"space: {parameter.name} is unbounded, so there is no grid of its values; "
                    "give it choices, or low, high and step"
                )
            columns.append(cells)
        seen = set()
        for combination in itertools.product(*columns):
            chosen: dict[str, Scalar] = {}
            for parameter, value in zip(self.parameters, combination, strict=True):
                if parameter.exists(chosen):
                    chosen[parameter.name] = value
            if (cell := json.dumps(chosen)) not in seen:
                seen.add(cell)
                yield chosen


def _values(kind: str, entry: Mapping[str, Any]) -> Values:
    match kind:
        case "choices":
            choices = entry["choices"]
            if not isinstance(choices, list) or not choices:
                raise ValueError(f"choices is {choices!r}; expected a list of at least one value")
            plain = [_scalar(choice) for choice in choices]
            if len(set(plain)) < len(plain):  # also 1 and true, which Optuna takes for the same
                raise ValueError(f"choices is {choices!r}; expected every value once")
            return Choices(tuple(plain))
        case "low":
            return _range(entry)
        case "overlays":
            return _overlays(entry["overlays"])
    architecture = entry["architecture"] or {}
    if not isinstance(architecture, Mapping):
        raise ValueError(f"architecture is {architecture!r}; expected fields such as max_blocks: 3")
    known = [item.name for item in fields(Architecture)]
    for name in architecture:
        if name not in known:
            raise ValueError(f"architecture has {name}; expected only {', '.join(known)}")
    return Architectures(Architecture(**architecture))


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, Scalar) else json.dumps(value)


def _range(entry: Mapping[str, Any]) -> Range:
    numbers = {name: entry.get(name) for name in ("low", "high", "step")}
    for name, number in numbers.items():
        finite = isinstance(number, int | float | None) and number not in (math.inf, -math.inf)
        if isinstance(number, bool) or not finite:
            raise ValueError(f"{name} is {number!r}; expected a number such as 1.0e-3")
    low, high, step = numbers.values()
    if low is None or high is None or not low < high:
        raise ValueError(f"low is {low} and high is {high}; expected two numbers, low below high")
    log = entry.get("log") or False
    if not isinstance(log, bool):
        raise ValueError(f"log is {log!r}; expected true or false")
    values = Range(low, high, step, log)
    if step is not None and step > 0 and (last := values._at(values.steps)) != high:
        raise ValueError(f"high is {high}, but the last step is at {last}; write that")
    # Optuna knows what does not go together: a log scale from 0, a step and a log scale.
    FloatDistribution(low, high, log=log, step=step)
    return values


def _overlays(entry: Any) -> Overlays:
    if isinstance(entry, Mapping):  # a study that is read again: label → texts
        return Overlays({str(label): list(texts) for label, texts in entry.items()})
    if not isinstance(entry, list) or not entry:
        raise ValueError(f"overlays is {entry!r}; expected a list of files, with none for no file")
    texts: dict[str, list[str]] = {}
    for choice in entry:
        paths = [] if choice in (None, "none") else choice if isinstance(choice, list) else [choice]
        for path in paths:
            if not isinstance(path, str) or not found(path).is_file():
                raise ValueError(f"there is no file {path}")
        label = "+".join(Path(path).stem for path in paths) or "none"
        if label in texts:
            raise ValueError(f"overlays has two called {label}; expected every name once")
        texts[label] = [found(path).read_text(encoding="utf-8") for path in paths]
    return Overlays(texts)


def resolved(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries with the overlays' texts in place of their paths: what a worker elsewhere needs.

    Raises:
        UserError: names the entry that cannot be read.
    """
    space = Space(entries)
    return {
        parameter.name: {**entries[parameter.name], "overlays": parameter.values.texts}
        if isinstance(parameter.values, Overlays)
        else dict(entries[parameter.name])
        for parameter in space.parameters
    }
