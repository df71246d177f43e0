"""Definition of a search: its YAML, checked and completed before the first trial."""

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

import optuna
from jsonargparse import Namespace
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from typing_extensions import override

from datamodules.from_config import datamodule_of
from foundation.checkout import found
from foundation.errors import UserError
from foundation.monitor import mode_of
from foundation.parser import Parser, explain
from foundation.yaml_text import load_yaml
from studies.search import ReinforceSampler
from studies.search.space import Parameter, Scalar, Space, resolved
from studies.settings import add_settings, check_least, check_seeds, listed, study_name
from studies.training import check_validated, complete_config, config_keys, written_config

_DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}


@dataclass
class Objective:
    """The objective of a trial.

    Args:
        metric: of validation; a trial counts with its best epoch, as its checkpoint would.
        direction: minimize a loss and maximize everything else unless given.
        epochs: the budget of a trial; the configuration's trainer.max_epochs unless given.
    """

    metric: str = "val/accuracy"
    direction: Literal["maximize", "minimize"] | None = None
    epochs: int | None = None


@dataclass
class SearchSettings:
    """A study.

    Args:
        base: configuration files of train.py, composed from left to right.
        space: what varies: configuration keys with choices, ranges, overlays or architectures.
        proxy: overlays that make a trial cheap (fewer images, fewer epochs); not for the
            confirmation.
        objective: what a trial is judged by.
        n_trials: how many trials in all, restarts and workers together; a grid's number of cells
            unless given.
        timeout: seconds after which this command starts no further trial.
        seeds: of every trial's trainings; several are averaged, and pruning looks at the first.
        confirmation_seeds: seeds with which the winner and the base are trained on training and
            validation images and tested, once; [] for none.
        storage: URL of a database, e.g. postgresql+psycopg://user@host/name, where several machines
            work on one study; a SQLite file in the study's folder unless given.
        workers: processes on this machine.
        runs_dir: folder of all studies.
    """

    base: list[str] | str
    space: dict  # of anything: no value of it is to be taken for an object to make
    proxy: list[str] | str = field(default_factory=list)
    objective: Objective = field(default_factory=Objective)
    n_trials: int | None = None
    timeout: float | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    confirmation_seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    storage: str | None = None
    workers: int = 1
    runs_dir: str = "runs/search"


class _SettingsParser(Parser):
    """Of ``search.py``: ``--space.model.init_args.dropout {…}`` adds a key to the space."""

    @override
    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        # A dotted key of a dict is cut at its first dot and takes the place of what is there.
        given = sys.argv[1:] if args is None else args
        return super().parse_args(
            [_SPACE_KEY.sub(_undotted, arg) for arg in given], *rest, **kwargs
        )


_DOT = "\N{ONE DOT LEADER}"
_SPACE_KEY = re.compile(r"^--space\.[^=\s]+")


def _undotted(key: re.Match[str]) -> str:
    return "--space." + key[0].removeprefix("--space.").replace(".", _DOT)


def search_parser() -> Parser:
    """The parser of ``search.py``."""
    parser = _SettingsParser(
        prog="search.py",
        description="Search the hyper-parameters of a configuration of train.py.",
    )
    add_settings(parser, SearchSettings)
    _add_algorithms(parser)
    return parser


def _add_algorithms(parser: Parser) -> None:
    parser.add_subclass_arguments(
        BaseSampler,
        "sampler",
        skip={"search_space"},  # a grid's is the study's space
        default={"class_path": "optuna.samplers.TPESampler"},
        help="Proposes the trials: any sampler of optuna.samplers, or ReinforceSampler.",
    )
    parser.add_subclass_arguments(
        BasePruner,
        "pruner",
        default={"class_path": "optuna.pruners.NopPruner"},
        help="Ends losing trials early: any pruner of optuna.pruners; steps are epochs.",
    )


@dataclass
class SearchDefinition:
    """A checked study, complete in itself: a worker elsewhere needs nothing else.

    Args:
        name: of the study.
        base: the base configuration's files, for the record.
        metric, direction, epochs, seeds, confirmation_seeds: see :class:`SearchSettings`.
        space: as in the YAML, with the overlays' texts in place of their paths.
        sampler, pruner: ``class_path`` and ``init_args``.
        config: what the base of a trial writes, YAML; classes bring the rest.
        full_config: the same without the proxy's overlays.
    """

    name: str
    base: list[str]
    metric: str
    direction: Literal["maximize", "minimize"]
    epochs: int
    seeds: list[int]
    confirmation_seeds: list[int]
    space: dict[str, Any]
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    config: str
    full_config: str

    # What must not change while a study goes on.
    FIXED = (
        "metric",
        "direction",
        "epochs",
        "seeds",
        "space",
        "sampler",
        "pruner",
        "config",
        "full_config",
    )

    @property
    def better(self) -> Callable[..., float]:
        return max if self.direction == "maximize" else min

    @property
    def is_grid(self) -> bool:
        return self.sampler["class_path"].endswith("GridSampler")

    def sampler_for(self, number: int, kept: BaseSampler | None) -> BaseSampler:
        """The sampler of trial ``number``.

        Made anew for each trial, with a seed from the study's seed and the trial's number: so a
        resumed study proposes what an uninterrupted one would have, and no two workers draw the
        same. QMC and REINFORCE keep count in the study's history by themselves.
        """
        if isinstance(kept, QMCSampler | ReinforceSampler):
            return kept
        if self.is_grid:
            return RandomSampler()  # never asked: a grid's cells are in the queue
        return _build("sampler", _seeded(self.sampler, number))

    def make_pruner(self) -> BasePruner:
        return _build("pruner", self.pruner)

    def options(self, chosen: Sequence[str]) -> list[str]:
        """Complete options of a trial's training: base, chosen values, budget."""
        return [f"--config={self.config}", *chosen, f"--trainer.max_epochs={self.epochs}"]


def _seeded(spec: Any, number: int) -> Any:
    """A sampler's class and arguments, its samplers' too, with the seeds of a trial."""
    if not isinstance(spec, Mapping):
        return spec
    counts = str(spec.get("class_path")).endswith(("QMCSampler", "ReinforceSampler"))
    seeded = {}
    for name, value in spec.items():
        if name == "init_args" and "seed" in value:
            seed = value["seed"] or 0
            if not counts:
                seed = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])
            value = {**value, "seed": seed}
        seeded[name] = _seeded(value, number)
    return seeded


def _build(name: str, spec: Mapping[str, Any]) -> Any:
    parser = Parser(exit_on_error=False)
    _add_algorithms(parser)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        config = parser.parse_object({name: dict(spec)})
        return parser.instantiate(Namespace({name: config[name]}))[name]


def define(settings: Namespace) -> SearchDefinition:
    """Check a study's settings, all of them, before anything runs.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    check_least(settings, n_trials=1, timeout=0, workers=1)
    if not settings.seeds:
        raise UserError("seeds is []; expected at least one, e.g. --seeds '[0]'")
    check_seeds(settings, "seeds", "confirmation_seeds")
    entries = resolved(flat(settings.space))
    base, proxy = _files("base", settings.base), _files("proxy", settings.proxy)
    full = _read("base", base)
    config = _read("proxy", [*base, *proxy]) if proxy else full
    for entry in entries.values():
        if "architecture" in entry:  # a pooling more than the images allow would fail as a trial
            side = min(_image_shape(config)[1:])
            entry["architecture"] = {"side": side, **(entry["architecture"] or {})}
    metric = settings.objective.metric
    epochs = settings.objective.epochs
    if epochs is None:
        epochs = _keys(config)["trainer.max_epochs"]
    if epochs is None or epochs < 1:
        raise UserError(f"objective.epochs is {epochs}; expected at least 1")
    if not metric.startswith("val/"):
        raise UserError(
            f"objective.metric is {metric}; expected one of validation, e.g. val/accuracy: a "
            "search that looks at the test set finds what fits the test set"
        )
    check_validated("a search", config)
    definition = SearchDefinition(
        name=study_name(settings),
        base=listed(settings.base),
        metric=metric,
        direction=settings.objective.direction or _DIRECTIONS[mode_of(metric)],
        epochs=epochs,
        seeds=list(settings.seeds),
        confirmation_seeds=list(settings.confirmation_seeds),
        space=entries,
        sampler=settings.sampler.as_dict(),
        pruner=settings.pruner.as_dict(),
        config=config,
        full_config=full,
    )
    _check_space(definition)
    _check_algorithms(definition)
    return definition


def _image_shape(config: str) -> tuple[int, int, int]:
    """(channels, height, width) of the data that a completed configuration names."""
    return datamodule_of(json.dumps(load_yaml(config)["data"])).image_shape


def flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of a space that is written nested, as a configuration is."""
    found: dict[str, Any] = {}
    for key, entry in entries.items():
        name = str(key).replace(_DOT, ".")
        known = {"choices", "low", "high", "overlays", "architecture", "when"}
        if isinstance(entry, Mapping) and entry and not known & entry.keys():
            nested = all(isinstance(child, Mapping) for child in entry.values())
        else:
            nested = False
        found |= flat(entry, f"{prefix}{name}.") if nested else {prefix + name: entry}
    return found


def _files(name: str, paths: list[str] | str) -> list[str]:
    files = listed(paths)
    if name == "base" and not files:
        raise UserError("base is empty; expected at least one configuration of train.py")
    for path in files:
        if not found(path).is_file():
            raise UserError(f"{name}: there is no file {path} (from {os.getcwd()})")
    return [f"--config={path}" for path in files]


def _read(name: str, options: Sequence[str]) -> str:
    try:
        return written_config(options)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _keys(config: str) -> dict[str, Any]:
    """Every key of the complete configuration."""
    return config_keys(complete_config([f"--config={config}"]))


def _check_space(definition: SearchDefinition) -> None:
    """Let train.py's parser read every kind of value once.

    Raises:
        UserError: a key that no configuration of this study has, with the nearest one; or a value
            that the key does not take.
    """
    space = Space(definition.space)
    # As the options of a trial: files first. What a file or a class brings, a later key may set.
    order = sorted(space.parameters, key=lambda parameter: parameter.is_key)
    known = set(_keys(definition.config))
    for i, parameter in enumerate(order):
        name = parameter.name
        if name in _BUDGET:
            raise UserError(f"space: {name} cannot vary; it is {_BUDGET[name]} of the study")
        if parameter.is_key and name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.0)
            raise UserError(
                f"space: {name} is no key of this configuration; did you mean {close[0]}?"
            )
        for value in parameter.values.probes():
            try:
                config = _complete(definition, space, parameter, value, order[:i])
            except UserError:  # a class may need an argument that a later key gives
                config = _complete(definition, space, parameter, value, order)
            known |= set(config_keys(config))
    for parameter in order[:-1]:
        for value in parameter.values.probes():
            if isinstance(value, str):  # a file or a class, which may refuse a later key
                _complete(definition, space, parameter, value, order)


_BUDGET = {"trainer.max_epochs": "objective.epochs", "seed_everything": "seeds"}


def _beside(
    space: Space, others: Sequence[Parameter], parameter: Parameter, value: Scalar
) -> dict[str, Scalar]:
    """A trial with this value, in which the others that exist have their first one."""
    wanted = {parameter.name: value}
    named = {other.name: other for other in space.parameters}
    conditions = dict(parameter.when)
    while conditions:
        name, values = conditions.popitem()
        wanted.setdefault(name, values[0])
        conditions |= named[name].when
    chosen: dict[str, Scalar] = {}
    for other in space.parameters:
        values = [wanted[other.name]] if other.name in wanted else other.values.probes()
        if values and other.exists(chosen) and (other.name in wanted or other in others):
            chosen[other.name] = values[0]
    return chosen


def _complete(
    definition: SearchDefinition,
    space: Space,
    parameter: Parameter,
    value: Scalar,
    others: Sequence[Parameter],
) -> str:
    chosen = _beside(space, others, parameter, value)
    try:
        return complete_config(definition.options(space.arguments(chosen)))
    except UserError as error:
        raise UserError(f"space: {parameter.name}: {value}: {error}") from error


def _check_algorithms(definition: SearchDefinition) -> None:
    """Make the sampler and the pruner once, and let the sampler propose a trial.

    Raises:
        UserError: what they refuse.
    """
    space = Space(definition.space)
    if definition.is_grid:
        next(space.cells())
    for name in ("sampler", "pruner"):
        try:
            if name == "sampler":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    study = optuna.create_study(sampler=definition.sampler_for(0, None))
                    space.suggest(study.ask())
            else:
                definition.make_pruner()
        except (ImportError, ValueError, TypeError) as error:
            text = explain(str(error))
            raise UserError(f"{name}: {getattr(definition, name)['class_path']}: {text}") from error
    if not isinstance(definition.make_pruner(), NopPruner) and definition.epochs == 1:
        raise UserError(
            f"pruner is {definition.pruner['class_path']}, but a trial has one epoch, so there is "
            "nothing to prune; raise --objective.epochs, or --pruner NopPruner"
        )
