"""Protocol of a comparison: screen each variant's own values, confirm with fresh seeds, combine.

What is compared is a technique at a value that suits it: its values are tried on validation images,
the same number of trainings for each, and the best goes into the comparison, whose seeds are fresh
and which reads the test images once. What is better there is combined and confirmed in turn.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jsonargparse import Namespace

from foundation.checkout import found
from foundation.errors import UserError
from foundation.yaml_text import load_yaml
from studies.compare.comparison_definition import (
    BASE,
    Cell,
    Choice,
    ComparisonDefinition,
    compose,
    define,
)
from studies.compare.comparison_table import Comparison, Row, Run
from studies.compare.paired_statistics import BETTER
from studies.training import check_validated, complete_config, config_keys


@dataclass(frozen=True)
class Tuned:
    """A screening's choice for a variant.

    Args:
        variant: "group/variant".
        key: the option; "" where nothing was tuned.
        values: that were tried, as typed.
        chosen: the best of them.
        reached: mean validation accuracy of each, over the seeds; None where all runs failed.
        seeds: of the screening.
        epochs: of a run with as much time as the base's; None where epochs are equal.
        seconds: that its trainings took.
    """

    variant: str
    key: str
    values: list[str]
    chosen: str
    reached: list[float | None]
    seeds: list[int]
    epochs: int | None
    seconds: float

    @property
    def choice(self) -> Choice:
        return Choice(
            (f"--{self.key}={self.chosen}",) if self.key else (),
            () if self.epochs is None else (f"--trainer.max_epochs={self.epochs}",),
        )


def tune_lists(settings: Namespace, cells: Mapping[str, Cell]) -> dict[str, tuple[str, list[str]]]:
    """The key and the values of every variant that has some.

    Raises:
        UserError: names the file or the setting, and what was expected.
    """
    lists = {}
    for name in settings.tune:
        if all(key.rpartition("/")[2] != name for key in cells):
            raise UserError(f"tune: {name} is no variant")
    for key, cell in cells.items():
        variant = key.rpartition("/")[2]
        given = settings.tune.get(variant)
        where = f"tune: {variant}"
        if given is None and variant != BASE:
            for option in cell.own:
                if option.startswith("--config="):
                    where = option.removeprefix("--config=")
                    given = load_yaml(found(where).read_text(encoding="utf-8")).get("tune") or given
        if given is not None:
            lists[key] = _one_list(where, given)
    return lists


def _one_list(where: str, given: Any) -> tuple[str, list[str]]:
    good = isinstance(given, Mapping) and len(given) == 1
    values = next(iter(given.values())) if good else None
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(
            f"{where}: tune is {given!r}; expected one option and its values, e.g. "
            "model.init_args.dropout: [0.1, 0.25, 0.5]"
        )
    return str(next(iter(given))), [
        str(value).lower() if isinstance(value, bool) else str(value) for value in values
    ]


def screening(
    settings: Namespace, name: str, cells: Mapping[str, Cell]
) -> tuple[ComparisonDefinition, dict[str, dict[str, str]]]:
    """The comparison of every variant's values, on validation images.

    Returns:
        It, and the value by the name of its variant, by "group/variant".

    Raises:
        UserError: a value that does not go with its variant; names both.
    """
    lists = tune_lists(settings, cells)
    configs: dict[str, str] = {}
    named: dict[str, dict[str, str]] = {}
    for key, cell in cells.items():
        option, values = lists.get(key, ("", [""]))
        if key not in lists and settings.equal == "steps":
            continue
        for value in values:
            added = [f"--{option}={value}"] if option else []
            label = f"{key.rpartition('/')[2]} {value}".strip().replace("/", "-")
            try:
                config = complete_config([*cell.begin, *cell.added, *added, *cell.budget])
            except UserError as error:
                raise UserError(f"tune: {label}: {error}") from error
            check_validated("a screening", config)
            configs[f"{key.rpartition('/')[0]}/{label}"] = config
            named.setdefault(key, {})[f"{key.rpartition('/')[0]}/{label}"] = value
    if not configs:
        raise UserError(
            "screen is given, but no variant has values to tune; give tune, or no screen"
        )
    return ComparisonDefinition(
        name=f"{name}-screen",
        base=[],
        chain=False,
        seeds=list(settings.screen),
        keep_checkpoints=False,
        groups=list(dict.fromkeys(key.rpartition("/")[0] for key in configs)),
        variants=list(dict.fromkeys(key.rpartition("/")[2] for key in configs)),
        configs=configs,
        metric="val/accuracy",
    ), named


def choose(
    settings: Namespace,
    cells: Mapping[str, Cell],
    screened: Comparison,
    named: Mapping[str, Mapping[str, str]],
) -> list[Tuned]:
    """The best value of each variant, and the epochs that take the base's time.

    Raises:
        UserError: all runs of a variant's values failed, or a speed is not known.
    """
    lists = tune_lists(settings, cells)
    runs: dict[str, list[Run]] = {}
    for run in screened.runs:
        runs.setdefault(f"{run.group}/{run.variant}", []).append(run)
    chosen = []
    for key, candidates in named.items():
        means = {name: _mean(runs.get(name, []), "val/accuracy") for name in candidates}
        known = {name: mean for name, mean in means.items() if mean is not None}
        if not known:
            reason = next((run.reason for name in candidates for run in runs.get(name, [])), None)
            raise UserError(f"screen: all runs of {key.strip('/')} failed: {reason}")
        best = max(known, key=lambda name: known[name])
        epochs = None
        if settings.equal == "time":
            base = named[f"{key.rpartition('/')[0]}/{BASE}"]
            theirs = _speed(runs, base)
            budget = config_keys(complete_config(cells[key].options))["trainer.max_epochs"]
            epochs = max(1, round(budget * theirs / _speed(runs, [best])))
        chosen.append(
            Tuned(
                variant=key,
                key=lists[key][0] if key in lists else "",
                values=list(candidates.values()) if key in lists else [],
                chosen=candidates[best],
                reached=list(means.values()),
                seeds=list(settings.screen),
                epochs=epochs,
                seconds=sum(
                    run.measured.get("seconds_per_epoch", 0) * run.measured.get("epochs", 0)
                    for name in candidates
                    for run in runs.get(name, [])
                ),
            )
        )
    return chosen


def _mean(runs: Sequence[Run], name: str) -> float | None:
    known = [value for run in runs if (value := run.value(name)) is not None]
    return statistics.fmean(known) if known else None


def _speed(runs: Mapping[str, Sequence[Run]], names: Sequence[str] | Mapping[str, str]) -> float:
    known = [v for n in names for run in runs[n] if (v := run.value("seconds_per_epoch"))]
    if not known:
        raise UserError(f"equal is time, but no run of {next(iter(names))} told its speed")
    return statistics.median(known)


def confirmation(settings: Namespace, tuned: Sequence[Tuned]) -> ComparisonDefinition:
    """The comparison itself, of what was chosen."""
    definition = define(settings, {of.variant: of.choice for of in tuned})
    definition.tuned = [asdict(of) for of in tuned]
    return definition


# The winning combination.


def winners(comparison: Comparison, table: Sequence[Row], group: str) -> list[str]:
    """The variants shown better, the best one of each family, in the comparison's order."""
    best: dict[str, Row] = {}
    for row in table:
        if row.group == group and row.difference is not None and row.verdict == BETTER:
            family = comparison.family(row.variant) or f"/{row.variant}"
            held = best.get(family)
            if (
                held is None
                or held.difference is None
                or row.difference.mean > held.difference.mean
            ):
                best[family] = row
    return [row.variant for row in table if row.group == group and row in best.values()]


def combined(
    settings: Namespace, definition: ComparisonDefinition, group: str, variants: Sequence[str]
) -> list[str]:
    """The options of the base with all of these; what cannot be added to the others raises.

    Raises:
        UserError: names a variant that cannot be combined.
    """
    chosen = {of["variant"]: Tuned(**of).choice for of in definition.tuned}
    cells = compose(settings, chosen)
    base = cells[f"{group}/{BASE}"]
    begin, added = list(base.begin), list[str]()
    for variant in variants:
        cell = cells[f"{group}/{variant}"]
        if not cell.begin:
            raise UserError(f"{variant} has a base of its own")
        begin = [option for option in begin if option in cell.begin]
        added += cell.added
    return [*begin, *added, *base.budget]


def combination(
    settings: Namespace,
    definition: ComparisonDefinition,
    comparison: Comparison,
    table: Sequence[Row],
) -> ComparisonDefinition | None:
    """The confirmation of the winning combination, with seeds of its own; None where there is none.

    Raises:
        UserError: the winners cannot be combined.
    """
    configs: dict[str, str] = {}
    for group in definition.groups:
        variants = winners(comparison, table, group)
        if len(variants) > 1:
            configs[f"{group}/{BASE}"] = definition.configs[f"{group}/{BASE}"]
            label = " + ".join(variants)
            options = combined(settings, definition, group, variants)
            configs[f"{group}/{label[:100]}"] = complete_config(options)
    if not configs:
        return None
    first = max([*definition.seeds, *definition.base_seeds, *settings.screen]) + 1
    return ComparisonDefinition(
        name=f"{definition.name}-combination",
        base=definition.base,
        chain=False,
        seeds=list(range(first, first + len(definition.seeds))),
        keep_checkpoints=definition.keep_checkpoints,
        groups=list(dict.fromkeys(key.rpartition("/")[0] for key in configs)),
        variants=list(dict.fromkeys(key.rpartition("/")[2] for key in configs)),
        configs=configs,
        margin=definition.margin,
        precision=definition.precision,
    )
