"""Definition of a comparison: variants of a base, each trained over the same seeds."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from foundation.checkout import ROOT, found
from foundation.errors import UserError
from foundation.parser import Parser
from studies.settings import add_settings, check_least, check_seeds, listed, study_name
from studies.training import complete_config, config_keys

BASE = "base"
_NO_FOLDER = re.compile(r"[/\\\x00-\x1f\x7f]")  # separators and control characters


@dataclass
class ComparisonSettings:
    """A comparison.

    Args:
        base: configuration files of train.py, composed from left to right.
        variants: by name, what is added to the base: files, and single values as key=value; or a
            mapping whose base is there instead of the comparison's.
        each: a pattern of files, e.g. configs/techniques/*/*.yaml; every one is a variant.
        leave_out: names of variants of ``each`` that are none.
        budget: files and values for every run, the base's too; after the variant's, so that a
            variant cannot give itself more epochs.
        groups: conditions, by name, under each of which everything is compared: files and values
            that come last; or a mapping with a base and variants of its own.
        chain: whether a variant is added to the one before it instead of to the base alone.
        seeds: of the runs; the seed pairs them.
        storage: URL of a database where several machines work on one comparison; a SQLite file in
            the comparison's folder unless given.
        workers: processes on this machine. Times are comparable with one only.
        runs_dir: folder of all comparisons.
        keep_checkpoints: whether the runs' checkpoints stay on disk.
    """

    base: list[str] | str
    variants: dict[str, Any] = field(default_factory=dict)
    each: str | None = None
    leave_out: list[str] = field(default_factory=list)
    budget: list[str] | str = field(default_factory=list)
    groups: dict[str, Any] = field(default_factory=dict)
    chain: bool = False
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    storage: str | None = None
    workers: int = 1
    runs_dir: str = "runs/compare"
    keep_checkpoints: bool = False


@dataclass
class ComparisonDefinition:
    """A checked comparison, complete in itself.

    Args:
        name: of the comparison.
        base: the base's files, for the record.
        chain, seeds, keep_checkpoints: see :class:`ComparisonSettings`.
        groups: conditions, in their order; [""] where there is one only.
        variants: over all groups, in their order, the base first.
        configs: complete configuration of each, YAML, by ``<group>/<variant>``.
        metric: what is compared, ``test/accuracy``; or ``val/accuracy``, and then the test images
            are not looked at.
        precision: of every run whose configuration gives none; chosen once, where the comparison
            began, so that no machine's own choice comes between runs.
    """

    name: str
    base: list[str]
    chain: bool
    seeds: list[int]
    keep_checkpoints: bool
    groups: list[str]
    variants: list[str]
    configs: dict[str, str]
    metric: str = "test/accuracy"
    precision: str | None = None

    # What must not change while a comparison goes on; variants and seeds may be added.
    FIXED = ("chain", "keep_checkpoints", "metric")

    def cells(self) -> list[dict[str, Any]]:
        """Every run: seeds outermost, so that a comparison that was cut short is still fair."""
        names = [key.rsplit("/", 1) for key in self.configs]
        return [
            {"group": group, "variant": variant, "seed": seed}
            for seed in self.seeds
            for group, variant in names
        ]


def comparison_parser() -> Parser:
    """The parser of ``compare.py``."""
    parser = Parser(
        prog="compare.py", description="Compare variants of a configuration of train.py."
    )
    add_settings(parser, ComparisonSettings)
    return parser


def define(settings: Namespace) -> ComparisonDefinition:
    """Check a comparison, all of it, before anything runs.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    check_least(settings, workers=1)
    if not settings.seeds:
        raise UserError("seeds is []; expected at least one, e.g. [0, 1, 2]")
    check_seeds(settings, "seeds")
    shared = _variants(settings)
    budget = fit_options("budget", settings.budget)
    base = fit_options("base", settings.base)
    if not base:
        raise UserError("base is empty; expected at least one configuration of train.py")
    configs: dict[str, str] = {}
    names = {BASE: None}
    groups = {str(name): entry for name, entry in settings.groups.items()} or {"": []}
    if settings.groups:
        _check_names("groups", groups)
    for group, entry in groups.items():
        own = entry if isinstance(entry, Mapping) else {"options": entry}
        if unknown := own.keys() - {"base", "variants", "options"}:
            raise UserError(
                f"groups: {group} has {sorted(unknown)[0]}; expected base, variants, options"
            )
        start = fit_options(f"groups: {group}: base", own["base"]) if "base" in own else base
        last = fit_options(f"groups: {group}", own.get("options", []))
        more = own.get("variants") or {}
        if not isinstance(more, Mapping):
            raise UserError(
                f"groups: {group}: variants is {more!r}; expected names, each with files and "
                "key=value"
            )
        variants = {**shared, **{str(name): items for name, items in more.items()}}
        _check_names("variants", [*names, *variants], variants)
        added: list[str] = []
        for variant, items in {BASE: [], **variants}.items():
            instead = isinstance(items, Mapping) and set(items) == {"base"}
            options = fit_options(f"variants: {variant}", items["base"] if instead else items)
            added = [*added, *options] if settings.chain and not instead else options
            names[variant] = None
            begin = [] if instead else start
            try:
                config = complete_config([*begin, *added, *budget, *last])
            except UserError as error:
                where = f"{group}: {variant}" if group else variant
                raise UserError(f"variants: {where}: {error}") from error
            if config_keys(config).get("trainer.limit_test_batches") == 0:
                raise UserError(
                    f"variants: {variant}: trainer.limit_test_batches is 0, but test images decide "
                    "a comparison; leave it out"
                )
            configs[f"{group}/{variant}"] = config
    if len(names) == 1:
        raise UserError("there are no variants; give variants, or each with a pattern of files")
    return ComparisonDefinition(
        name=study_name(settings),
        base=listed(settings.base),
        chain=settings.chain,
        seeds=list(settings.seeds),
        keep_checkpoints=settings.keep_checkpoints,
        groups=list(groups),
        variants=list(names),
        configs=configs,
    )


def _variants(settings: Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.each is not None:
        files: dict[str, str] = {}
        for path in sorted(glob(settings.each) or glob(str(ROOT / settings.each))):
            if (name := Path(path).stem) in files:
                raise UserError(
                    f"each is {settings.each}, which matches {files[name]} and {path}; expected "
                    "files with names of their own"
                )
            files[name] = path
        if not files:
            raise UserError(f"each is {settings.each}; no file matches")
        for name in settings.leave_out:
            if name not in files:
                raise UserError(f"leave_out names {name}, which {settings.each} does not match")
        found = {name: path for name, path in files.items() if name not in settings.leave_out}
    found |= {str(name): items for name, items in settings.variants.items()}
    return found


def _check_names(what: str, names: Iterable[str], variants: Collection[str] = ()) -> None:
    """Refuse names that make no folders, or one folder where cases do not differ.

    Args:
        what: the setting, for the message.
        names: of one kind, in their order.
        variants: those among them that must not be the base's.

    Raises:
        UserError: names the one to change.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not name or name.strip(". ") != name or _NO_FOLDER.search(name) or len(name) > 100:
            raise UserError(
                f"{what}: {name!r} makes no name of a folder; choose another name, without / and "
                "\\, not beginning or ending with a dot or a space, of at most 100 characters"
            )
        if name.casefold() == BASE and name in variants:
            raise UserError(f"{what}: {name}: choose another name; base is the base's own")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                f"{what}: {other} and {name} differ in case only, and would be one folder on some "
                "machines; choose another name for one of them"
            )


def fit_options(name: str, items: Any) -> list[str]:
    """``train.py fit``'s options for files and key=value.

    Raises:
        UserError: what is neither.
    """
    if not isinstance(items, str | list):
        raise UserError(f"{name} is {items!r}; expected files and key=value")
    options = []
    for item in listed(items):
        text = str(item)
        if "=" in text and not found(text).is_file():
            options.append(f"--{text}")
        elif found(text).is_file():
            options.append(f"--config={text}")
        else:
            raise UserError(f"{name}: {text} is no file; expected one, or key=value")
    return options
