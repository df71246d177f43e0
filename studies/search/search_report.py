"""Results of a search: a table for the terminal, ``trials.csv``, and a report with figures.

All of it comes from the study's storage; no trial's folder is needed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from foundation.whole_file import write
from studies.names import (
    all_failed,
    failure,
    label,
    metric_name,
    reached,
    short_names,
    trials_of,
)
from studies.report import tables
from studies.report.html_page import PageTable, draw, render
from studies.report.tables import Cell
from studies.report.words import counted, decimals, mean_and_deviation, sentence, signed

_STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
# More parameters than these would be columns of a few characters in a usual terminal.
_MOST_COLUMNS = 5


def best_first(study: Study) -> list[FrozenTrial]:
    """The finished trials: completed ones by value, then pruned ones by their last, then failed."""
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    groups = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    def place(trial: FrozenTrial) -> tuple[int, float, int]:
        value = reached(trial)
        worth = math.inf if value is None else sign * value
        return groups.index(trial.state), worth, trial.number

    return sorted(trials_of(study, *groups), key=place)


def _values(trial: FrozenTrial) -> dict[str, Any]:
    """Values that were set; of a trial that died before that was known, what was drawn."""
    return trial.user_attrs.get("values") or trial.params


def _columns(trials: Sequence[FrozenTrial]) -> list[str]:
    """Config keys worth a column.

    The parts that an architecture was drawn from are none where other trials have it whole.
    """
    known = {key: None for trial in trials for key in trial.user_attrs.get("values") or ()}
    drawn = {key: None for trial in trials for key in _values(trial)}
    return [
        key for key in {**known, **drawn} if not any(key.startswith(f"{whole}.") for whole in known)
    ]


def _definition(study: Study) -> dict[str, Any]:
    return study.user_attrs.get("definition", {})


# In words.


def summary(study: Study) -> list[str]:
    """Result and cost of the search in a few plain sentences."""
    count = {state: len(trials_of(study, state)) for state in TrialState}
    ranked = best_first(study)
    if count[TrialState.COMPLETE]:
        best = ranked[0]
        names = short_names(_columns(ranked))
        chosen = [f"{names[key]} {label(v)}" for key, v in _values(best).items() if key in names]
        scores = best.user_attrs.get("scores") or ()
        mean = f" (mean of {len(scores)} seeds)" if len(scores) > 1 else ""
        found = f"Best {metric_name(study)}: {decimals(best.value)}{mean}, trial {best.number}"
        sentences = [found + (f", with {', '.join(chosen)}." if chosen else ".")]
    else:
        failed = everything_failed(study)
        sentences = [sentence(failed) if failed else "No trial has completed."]
    others = [f"{number} {_STATES[state]}" for state, number in count.items() if number]
    sentences.append(f"{counted(sum(count.values()), 'trial')}: {', '.join(others) or 'none'}.")
    return [*sentences, *_spent(study)]


def everything_failed(study: Study) -> str | None:
    """The sentence that all finished trials failed; None where one did not."""
    ended = best_first(study)
    return all_failed("trial", [failure(t) if t.state == TrialState.FAIL else None for t in ended])


def _spent(study: Study) -> list[str]:
    """Epochs that pruning and early stopping saved; failed trials are no saving and not counted."""
    definition = _definition(study)
    trials = trials_of(study, TrialState.COMPLETE, TrialState.PRUNED)
    each = definition.get("epochs", 0) * len(definition.get("seeds") or [0])
    budget = len(trials) * each
    spent = sum(trial.user_attrs.get("epochs") or 0 for trial in trials)
    if not budget:
        return []
    text = (
        f"The completed and pruned trials trained {spent:,} of {counted(budget, 'epoch')} "
        f"({spent / budget:.0%})"
    )
    text += "; pruning and early stopping saved the rest." if spent < budget else "."
    lost = sum(t.user_attrs.get("epochs") or 0 for t in trials_of(study, TrialState.FAIL))
    return [text, f"Failed trials trained {lost:,} more."] if lost else [text]


# The terminal.


def trials_table(study: Study, limit: int | None = None) -> Table:
    """The finished trials for the terminal, best first, failures and their reasons at the end.

    Args:
        study: to show.
        limit: at most so many trials, and so many failures; None shows all.
    """
    ranked = best_first(study)
    finished = [trial for trial in ranked if trial.state != TrialState.FAIL][:limit]
    failed = [trial for trial in ranked if trial.state == TrialState.FAIL][:limit]
    names = short_names(_columns(ranked))
    cells = [_row(trial, list(names)) for trial in [*finished, *failed]]
    parameters = list(names.values())
    if len(names) > _MOST_COLUMNS:
        for row in cells:
            pairs = zip(parameters, row[5:], strict=True)
            row[5:] = [", ".join(f"{name} {value}" for name, value in pairs if value is not None)]
        parameters = ["parameters"]
    notes = [f"trial {trial.number} failed: {failure(trial)}" for trial in failed]
    if len(finished) + len(failed) < len(ranked):
        notes.append(f"{len(finished) + len(failed)} of {len(ranked)} finished trials")
    styles = {TrialState.PRUNED: "dim", TrialState.FAIL: "red"}
    return tables.for_terminal(
        _headers(study, parameters),
        cells,
        words=["state", *parameters],
        wrapped=parameters,
        styles=[styles.get(trial.state) for trial in [*finished, *failed]],
        notes=notes,
    )


def _headers(study: Study, parameters: Sequence[str]) -> list[str]:
    return ["trial", metric_name(study), "state", "epochs", "seconds", *parameters]


def _row(trial: FrozenTrial, keys: Sequence[str]) -> list[Cell]:
    """Number, value, state, epochs, seconds, and the values of these keys; None is unknown."""
    values = _values(trial)
    return [
        trial.number,
        decimals(reached(trial)),
        _STATES[trial.state],
        trial.user_attrs.get("epochs"),
        decimals(trial.user_attrs.get("seconds"), 1),
        *(label(values[key]) if key in values else None for key in keys),
    ]


# Files.


def write_trials_csv(study: Study, path: Path) -> None:
    """One row per trial, whatever its state; values unrounded, under their whole config keys."""
    records = [
        {"number": trial.number, "state": trial.state.name, "value": reached(trial)}
        | {name: trial.user_attrs.get(name) for name in ("epochs", "seconds", "reason")}
        | _values(trial)
        for trial in trials_of(study)
    ]
    first = ("number", "state", "value", "epochs", "seconds", "reason")
    write(path, tables.as_csv(records, first))


def write_report(
    study: Study,
    folder: Path,
    best_config: str | None,
    confirmation: dict[str, Any] | None,
    facts: dict[str, str],
) -> None:
    """Write ``report.html``, ``trials.csv`` and ``figures/*.png`` into a folder.

    Args:
        study: finished or not.
        folder: is made if need be; the files of an earlier report are replaced.
        best_config: the best trial's configuration as YAML.
        confirmation: the best trial against the base on the test set: ``variants`` {name: [test
            accuracy per seed, None where there is none]}, ``seeds``, ``difference`` {mean, low,
            high} and ``config``, the best trial's as YAML.
        facts: shown at the top, by name: command, versions, machine, commit, …
    """
    from studies.search.search_figures import FIGURES  # matplotlib, which no worker needs

    write_trials_csv(study, folder / "trials.csv")
    drawn = {name: (alt, figure(study)) for name, (alt, figure) in FIGURES.items()}
    ranked = best_first(study)
    names = short_names(_columns(ranked))
    failed = [(t.number, failure(t)) for t in ranked if t.state == TrialState.FAIL]
    found, *took = summary(study)
    definition = _definition(study)
    page = render(
        "search.html",
        title=f"Search: {definition.get('name') or study.study_name}",
        found=found,
        took=" ".join(took),
        facts=facts,
        confirmation=confirmation
        and {
            "table": _confirmation_table(confirmation),
            "difference": _difference(confirmation["difference"]),
            "config": confirmation.get("config"),
        },
        pictures=draw(folder / "figures", drawn),
        trials=PageTable(
            _headers(study, list(names.values())),
            [_row(trial, list(names)) for trial in ranked],
            "trials",
            "Best first; a click on a header sorts. A pruned trial's value is its last epoch's.",
        ),
        failures=PageTable(["trial", "reason"], failed, "failures"),
        best_config=best_config,
        definition=yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=96),
    )
    write(folder / "report.html", page)


def _confirmation_table(confirmation: dict[str, Any]) -> PageTable:
    """The variants, and what each reached with which seed."""
    seeds = confirmation["seeds"]
    rows: list[list[Cell]] = []
    for name, values in confirmation["variants"].items():
        padded = [*values, *[None] * (len(seeds) - len(values))]
        rows.append([name, *_mean(values), *map(decimals, padded)])
    return PageTable(
        ["variant", "mean ± sd", "n", *(f"seed {seed}" for seed in seeds)],
        rows,
        "confirmation",
        "Test accuracy after training on training and validation images. The search did not read "
        "the test set.",
    )


def _mean(values: Sequence[float | None]) -> tuple[str | None, int]:
    """Mean ± standard deviation of the known values, and how many there are."""
    known = [value for value in values if value is not None]
    return mean_and_deviation(known), len(known)


def confirmation_lines(confirmation: dict[str, Any] | None) -> list[str]:
    """Lines for the terminal; see :func:`write_report`. None without a confirmation."""
    if confirmation is None:
        return []
    means = {name: _mean(values) for name, values in confirmation["variants"].items()}
    reached = ", ".join(f"{name} {mean or 'failed'} (n = {n})" for name, (mean, n) in means.items())
    return [
        f"Test accuracy, trained on training and validation images: {reached}.",
        _difference(confirmation["difference"]),
    ]


def _difference(difference: dict[str, Any]) -> str:
    """Difference between winner and base, and what it means, in a sentence."""
    mean, low, high, n = (difference.get(key) for key in ("mean", "low", "high", "n"))
    if mean is None:
        return "The difference between winner and base is unknown."
    text = f"Difference, winner − base: {signed(mean)}"
    if low is None or high is None or not math.isfinite(low + high):
        return f"{text}, from {counted(n or 0, 'seed')}: too few for an interval."
    text += f", 95% interval {signed(low)} to {signed(high)}, paired by seed, n = {n}. "
    if low <= 0 <= high:
        return text + "The interval includes zero: the difference may be chance."
    return text + f"The interval excludes zero: the winner is {'better' if low > 0 else 'worse'}."
