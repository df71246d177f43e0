"""Definition of a comparison: variants of a base, each trained over the same seeds."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from foundation.checkout import ROOT, found
from foundation.errors import UserError
from foundation.parser import Parser
from studies.compare.paired_statistics import MARGIN
from studies.settings import add_settings, check_least, check_seeds, listed, study_name
from studies.training import both_configs, config_keys

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
        leave_one_out: makes a variant of each of the base's files but the first, which is left out.
        screen: seeds with which each variant's own values are tried first, on validation images;
            the best is what is compared, with the other seeds.
        tune: those values, by variant: an option's key, and a list; where a variant has none, the
            ``tune`` of its files.
        equal: what every run gets: as many epochs, or about as much time as the base, by the speed
            in the screening.
        combine: whether the variants that are better are combined at the end, and that is confirmed
            with seeds of its own; after a screening only.
        budget: files and values for every run, the base's too; after the variant's, so that a
            variant cannot give itself more epochs.
        groups: conditions, by name, under each of which everything is compared: files and values
            that come last; or a mapping with a base and variants of its own.
        chain: whether a variant is added to the one before it instead of to the base alone.
        seeds: of the runs; the seed pairs them, and draws the split and the subset of the images.
        start_from: ``runs.csv`` of an earlier, unfinished state of this comparison, whose runs need
            not be trained again.
        base_seeds: further ones for the base alone, with which every difference is compared.
        margin: percentage points; accuracies that differ by less are equivalent.
        families: variants whose verdicts are corrected together, by name; those in none are one
            family more. ``folders`` makes one of each folder that ``each`` matches.
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
    leave_one_out: bool = False
    screen: list[int] = field(default_factory=list)
    tune: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    equal: Literal["steps", "time"] = "steps"
    combine: bool = True
    budget: list[str] | str = field(default_factory=list)
    groups: dict[str, Any] = field(default_factory=dict)
    chain: bool = False
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    start_from: str | None = None
    base_seeds: list[int] = field(default_factory=list)
    margin: float = 0.3
    families: dict[str, list[str]] | Literal["folders"] = field(default_factory=dict)
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
        chain, seeds, base_seeds, keep_checkpoints: see :class:`ComparisonSettings`.
        groups: conditions, in their order; [""] where there is one only.
        variants: over all groups, in their order, the base first.
        configs: complete configuration of each, YAML, by ``<group>/<variant>``.
        metric: what is compared, ``test/accuracy``; or ``val/accuracy``, and then the test images
            are not looked at.
        precision: of every run whose configuration gives none; chosen once, where the comparison
            began, so that no machine's own choice comes between runs.
        margin: accuracies that differ by less are equivalent.
        families: of variants, by name.
        digests: of what each configuration's files and values wrote, by ``<group>/<variant>``: what
            nobody wrote may have another default in a later version.
        tuned: what a screening chose, each the fields of a ``Tuned``.
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
    margin: float = MARGIN
    families: dict[str, list[str]] = field(default_factory=dict)
    base_seeds: list[int] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    tuned: list[dict[str, Any]] = field(default_factory=list)

    # What must not change while a comparison goes on; variants and seeds may be added.
    FIXED = ("chain", "keep_checkpoints", "metric", "margin", "families")

    def cells(self) -> list[dict[str, Any]]:
        """Every run: seeds outermost, so that a comparison that was cut short is still fair."""
        names = [key.rsplit("/", 1) for key in self.configs]
        return [
            {"group": group, "variant": variant, "seed": seed}
            for seed in dict.fromkeys([*self.seeds, *self.base_seeds])
            for group, variant in names
            if seed in self.seeds or variant == BASE
        ]


@dataclass(frozen=True)
class Choice:
    """Options that a screening chose for a variant.

    Args:
        added: after the variant's own.
        last: after the budget's.
    """

    added: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A variant in a group, as options of ``train.py fit``, in their order.

    Args:
        begin: the base.
        added: what the variant adds; in a chain also what those before it add.
        budget: of every run, and of the group.
        own: what the variant alone adds.
    """

    begin: tuple[str, ...]
    added: tuple[str, ...]
    budget: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        return [*self.begin, *self.added, *self.budget]


def comparison_parser() -> Parser:
    """The parser of ``compare.py``."""
    parser = Parser(
        prog="compare.py", description="Compare variants of a configuration of train.py."
    )
    add_settings(parser, ComparisonSettings)
    return parser


def define(settings: Namespace, chosen: Mapping[str, Choice] = {}) -> ComparisonDefinition:
    """Check a comparison, all of it, before anything runs.

    Args:
        settings: of the command line.
        chosen: for variants, by ``<group>/<variant>``.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    check_least(settings, workers=1)
    if not settings.seeds:
        raise UserError("seeds is []; expected at least one, e.g. [0, 1, 2]")
    check_seeds(settings, "seeds", "base_seeds", "screen")
    compared = {*settings.seeds}
    for name in ("base_seeds", "screen"):
        if both := sorted(compared & {*settings[name]}):
            raise UserError(f"{name} has {both[0]}, which seeds has, too; expected further ones")
    if settings.equal == "time" and not settings.screen:
        raise UserError("equal is time, which the screening measures; give screen, e.g. [100, 101]")
    if settings.tune and not settings.screen:
        raise UserError("tune is given, but no seeds to try it with; give screen, e.g. [100, 101]")
    if not settings.margin > 0:
        raise UserError(
            f"margin is {settings.margin}; expected percentage points above 0, e.g. 0.3"
        )
    configs: dict[str, str] = {}
    digests: dict[str, str] = {}
    cells = compose(settings, chosen)
    for key, cell in cells.items():
        try:
            configs[key], written = both_configs(cell.options)
        except UserError as error:
            where = key.strip("/").replace("/", ": ")
            raise UserError(f"variants: {where}: {error}") from error
        if config_keys(configs[key]).get("trainer.limit_test_batches") == 0:
            raise UserError(
                f"variants: {key.rpartition('/')[2]}: trainer.limit_test_batches is 0, but test "
                "images decide a comparison; leave it out"
            )
        digests[key] = sha256(written.encode()).hexdigest()[:16]
    groups, names = (list(dict.fromkeys(key.rpartition("/")[i] for key in cells)) for i in (0, 2))
    if len(names) == 1:
        raise UserError("there are no variants; give variants, or each with a pattern of files")
    return ComparisonDefinition(
        name=study_name(settings),
        base=listed(settings.base),
        chain=settings.chain,
        seeds=list(settings.seeds),
        keep_checkpoints=settings.keep_checkpoints,
        groups=groups,
        variants=names,
        configs=configs,
        margin=settings.margin / 100,
        families=_families(settings, names[1:]),
        base_seeds=list(settings.base_seeds),
        digests=digests,
    )


def compose(settings: Namespace, chosen: Mapping[str, Choice] = {}) -> dict[str, Cell]:
    """The parts of every variant, the base first, by ``<group>/<variant>``.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    shared = _variants(settings)
    budget = fit_options("budget", settings.budget)
    base = fit_options("base", settings.base)
    if not base:
        raise UserError("base is empty; expected at least one configuration of train.py")
    cells: dict[str, Cell] = {}
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
        start = [*start, *chosen.get(f"{group}/{BASE}", Choice()).added]
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
            begin, instead = start, isinstance(items, Mapping) and set(items) == {"base"}
            if instead:
                begin, items = [], items["base"]
            elif isinstance(items, Mapping) and set(items) == {"without"}:
                begin = [option for option in start if option != f"--config={items['without']}"]
                items = []
            options = fit_options(f"variants: {variant}", items)
            choice = chosen.get(f"{group}/{variant}", Choice())
            options += choice.added if variant != BASE else ()
            added = [*added, *options] if settings.chain and not instead else options
            names[variant] = None
            cells[f"{group}/{variant}"] = Cell(
                tuple(begin), tuple(added), (*budget, *last, *choice.last), tuple(options)
            )
    return cells


def _families(settings: Namespace, variants: Sequence[str]) -> dict[str, list[str]]:
    """The variants that are corrected together, by the family's name.

    Raises:
        UserError: names a variant that there is not, or that is in two families.
    """
    if settings.families == "folders":
        if settings.each is None:
            raise UserError("families is folders, but each is not given; expected a pattern there")
        found: dict[str, list[str]] = {}
        for path in _matched(settings.each):
            if (name := Path(path).stem) in variants:
                found.setdefault(Path(path).parent.name, []).append(name)
        return found
    of: dict[str, str] = {}
    for family, names in settings.families.items():
        for name in names:
            if name not in variants:
                raise UserError(f"families: {family} has {name}, which is no variant")
            if name in of:
                raise UserError(f"families: {name} is in {of[name]} and in {family}; choose one")
            of[name] = family
    return dict(settings.families)


def _matched(pattern: str) -> list[str]:
    return sorted(glob(pattern) or glob(str(ROOT / pattern)))


def _variants(settings: Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.leave_one_out:
        files = listed(settings.base)
        if len(files) < 2:
            raise UserError(
                f"leave_one_out: base is {files}; expected a network's file, and others after it"
            )
        found = {
            f"without {Path(file).stem}": {"without": file} for file in files[1:] if "=" not in file
        }
    if settings.each is not None:
        matched: dict[str, str] = {}
        for path in _matched(settings.each):
            if (name := Path(path).stem) in matched:
                raise UserError(
                    f"each is {settings.each}, which matches {matched[name]} and {path}; expected "
                    "files with names of their own"
                )
            matched[name] = path
        if not matched:
            raise UserError(f"each is {settings.each}; no file matches")
        for name in settings.leave_out:
            if name not in matched:
                raise UserError(f"leave_out names {name}, which {settings.each} does not match")
        found |= {name: path for name, path in matched.items() if name not in settings.leave_out}
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
