"""What a study is: its YAML, checked and completed before the first trial."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import optuna
from jsonargparse import ActionConfigFile, Namespace
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from optuna.trial import BaseTrial

from command_line import Parser
from errors import UserError
from studies.reinforce import ReinforceSampler
from studies.space import Scalar, Space, resolved
from studies.training import complete_config, config_keys


@dataclass
class Objective:
    """What a trial is judged by.

    Args:
        metric: of validation; a trial counts with its best epoch, as its checkpoint would.
        direction: minimize a loss and maximize everything else unless given.
        epochs: the budget of a trial; the configuration's trainer.max_epochs unless given.
    """

    metric: str = "val/accuracy"
    direction: Literal["maximize", "minimize"] | None = None
    epochs: int | None = None


@dataclass
class Settings:
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
    space: dict[str, dict[str, Any]]
    proxy: list[str] | str = field(default_factory=list)
    objective: Objective = field(default_factory=Objective)
    n_trials: int | None = None
    timeout: float | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    confirmation_seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    storage: str | None = None
    workers: int = 1
    runs_dir: str = "runs/search"


def settings_parser() -> Parser:
    """The parser of ``search.py``."""
    parser = Parser(
        prog="search.py",
        description="Search the hyper-parameters of a configuration of train.py.",
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="The study's YAML.")
    parser.add_argument(
        "--name", type=str | None, help="Of the study and its folder; the YAML's unless given."
    )
    parser.add_class_arguments(Settings, None)
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
class Definition:
    """A checked study, complete in itself: a worker elsewhere needs nothing else.

    Args:
        name: of the study.
        base: the base configuration's files, for the record.
        metric, direction, epochs, seeds, confirmation_seeds: see :class:`Settings`.
        space: as in the YAML, with the overlays' texts in place of their paths.
        sampler, pruner: ``class_path`` and ``init_args``.
        config: complete base configuration of a trial, YAML.
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
    FIXED = ("metric", "direction", "epochs", "seeds", "space", "config")

    @property
    def better(self) -> Callable[..., float]:
        return max if self.direction == "maximize" else min

    @property
    def is_grid(self) -> bool:
        return self.sampler["class_path"].endswith("GridSampler")

    def fingerprint(self) -> str:
        """The same for studies whose trials can be compared."""
        fixed = {name: getattr(self, name) for name in self.FIXED}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

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
        spec = json.loads(json.dumps(self.sampler))
        arguments = spec.get("init_args") or {}
        if "seed" in arguments:
            seed = arguments["seed"] or 0
            if not spec["class_path"].endswith(("QMCSampler", "ReinforceSampler")):
                seed = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])
            arguments["seed"] = seed
        return _build("sampler", spec)

    def make_pruner(self) -> BasePruner:
        return _build("pruner", self.pruner)

    def arguments(self, trial: BaseTrial) -> tuple[dict[str, Scalar], list[str]]:
        """The values chosen for a trial, and ``train.py fit``'s options that set them."""
        space = Space(self.space)
        chosen = space.suggest(trial)
        return chosen, self.options(space.arguments(chosen))

    def options(self, chosen: Sequence[str]) -> list[str]:
        """Complete options of a trial's training: base, chosen values, budget."""
        return [f"--config={self.config}", *chosen, f"--trainer.max_epochs={self.epochs}"]


def _build(name: str, spec: Mapping[str, Any]) -> Any:
    parser = Parser(exit_on_error=False)
    _add_algorithms(parser)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        config = parser.parse_object({name: dict(spec)})
        return parser.instantiate(Namespace({name: config[name]}))[name]


def define(settings: Namespace) -> Definition:
    """Check a study's settings, all of them, before anything runs.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    for name, least in (("n_trials", 1), ("timeout", 0), ("workers", 1)):
        value = settings[name]
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; expected at least {least}")
    if not settings.seeds:
        raise UserError("seeds is []; expected at least one, e.g. --seeds '[0]'")
    entries = resolved(flat(settings.space))
    full = complete_config(_files("base", settings.base))
    proxy = _files("proxy", settings.proxy)
    config = complete_config([*_files("base", settings.base), *proxy]) if proxy else full
    metric = settings.objective.metric
    epochs = settings.objective.epochs or config_keys(config)["trainer.max_epochs"]
    if not epochs or epochs < 1:
        raise UserError(f"objective.epochs is {epochs}; expected at least 1")
    if not metric.startswith("val/"):
        raise UserError(
            f"objective.metric is {metric}; expected one of validation, e.g. val/accuracy: a "
            "search that looks at the test set finds what fits the test set"
        )
    definition = Definition(
        name=settings.name or _stem(settings.config),
        base=[settings.base] if isinstance(settings.base, str) else list(settings.base),
        metric=metric,
        direction=settings.objective.direction or _direction(metric),
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


def flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``--space.model.init_args.dropout {…}`` arrives nested: join its key again."""
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        known = {"choices", "low", "high", "overlays", "architecture", "when"}
        if isinstance(entry, Mapping) and entry and not known & entry.keys():
            nested = all(isinstance(child, Mapping) for child in entry.values())
        else:
            nested = False
        found |= flat(entry, f"{prefix}{name}.") if nested else {prefix + name: entry}
    return found


def _files(name: str, paths: list[str] | str) -> list[str]:
    listed = [paths] if isinstance(paths, str) else paths
    if name == "base" and not listed:
        raise UserError("base is empty; expected at least one configuration of train.py")
    for path in listed:
        if not Path(path).is_file():
            raise UserError(f"{name}: there is no file {path} (from {os.getcwd()})")
    return [f"--config={path}" for path in listed]


def _stem(configs: Any) -> str:
    return Path(str(configs[0])).stem if configs else "study"


def _direction(metric: str) -> Literal["maximize", "minimize"]:
    return "minimize" if metric.endswith(("loss", "error")) else "maximize"


def _check_space(definition: Definition) -> None:
    """Let train.py's parser read every kind of value once.

    Raises:
        UserError: a key that no configuration of this study has, with the nearest one; or a value
            that the key does not take.
    """
    space = Space(definition.space)
    # A class that one parameter chooses brings keys that another one may set.
    known = set(config_keys(definition.config))
    classes = [p for p in space.parameters if not p.is_key or any(_names_class(p.values.probes()))]
    for parameter in classes:
        for value in parameter.values.probes():
            chosen = parameter.values.arguments(parameter.name, value)
            known |= set(config_keys(_complete(definition, parameter.name, value, chosen)))
    for parameter in space.parameters:
        if parameter.is_key and parameter.name not in known:
            close = get_close_matches(parameter.name, known, n=1, cutoff=0.0)
            raise UserError(
                f"space: {parameter.name} is no key of this configuration; did you mean "
                f"{close[0] if close else ', '.join(sorted(known))}?"
            )
    for parameter in space.parameters:
        if parameter.when or parameter in classes:
            continue  # read with the class it belongs to, or read already
        for value in parameter.values.probes():
            chosen = parameter.values.arguments(parameter.name, value)
            _complete(definition, parameter.name, value, chosen)


def _names_class(values: Sequence[Scalar]) -> list[bool]:
    return [isinstance(value, str) for value in values]


def _complete(definition: Definition, name: str, value: Scalar, chosen: list[str]) -> str:
    try:
        return complete_config(definition.options(chosen))
    except UserError as error:
        raise UserError(f"space: {name}: {value}: {error}") from error


def _check_algorithms(definition: Definition) -> None:
    """Make the sampler and the pruner once.

    Raises:
        UserError: what they refuse.
    """
    if definition.is_grid:
        next(Space(definition.space).cells())
    try:
        definition.sampler_for(0, None)
        definition.make_pruner()
    except ImportError as error:
        raise UserError(f"{definition.sampler['class_path']}: {error}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"sampler or pruner: {error}") from error
    if isinstance(definition.make_pruner(), NopPruner):
        return
    if definition.epochs == 1:
        raise UserError(
            f"pruner is {definition.pruner['class_path']}, but a trial has one epoch, so there is "
            "nothing to prune; raise --objective.epochs, or --pruner NopPruner"
        )
