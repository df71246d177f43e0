"""What a search found: a table for the terminal, ``trials.csv``, and a report with figures.

All of it comes from the study's storage; no trial's folder is needed.
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table
from rich.text import Text

from foundation.whole_file import write
from studies.names import failure, label, metric_name, reached, short_names, trials_of
from studies.report import html_page
from studies.report.html_page import Section
from studies.search.search_figures import FIGURES

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
    """What was set; of a trial that died before that was known, what was drawn."""
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


def _decimals(value: float | None, digits: int = 4) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


# In words.


def summary(study: Study) -> list[str]:
    """What was found and what it took, in a few plain sentences."""
    count = {state: len(trials_of(study, state)) for state in TrialState}
    ranked = best_first(study)
    if count[TrialState.COMPLETE]:
        best = ranked[0]
        names = short_names(_columns(ranked))
        chosen = [f"{names[key]} {label(v)}" for key, v in _values(best).items() if key in names]
        scores = best.user_attrs.get("scores") or ()
        mean = f" (mean of {len(scores)} seeds)" if len(scores) > 1 else ""
        found = f"Best {metric_name(study)}: {_decimals(best.value)}{mean}, trial {best.number}"
        sentences = [found + (f", with {', '.join(chosen)}." if chosen else ".")]
    else:
        sentences = ["No trial has completed."]
    others = [f"{number} {_STATES[state]}" for state, number in count.items() if number]
    sentences.append(f"{_count(sum(count.values()), 'trial')}: {', '.join(others) or 'none'}.")
    return [*sentences, *_spent(study)]


def _spent(study: Study) -> list[str]:
    """What pruning and early stopping saved; failed trials are no saving and not counted."""
    definition = _definition(study)
    trials = trials_of(study, TrialState.COMPLETE, TrialState.PRUNED)
    each = definition.get("epochs", 0) * len(definition.get("seeds") or [0])
    budget = len(trials) * each
    spent = sum(trial.user_attrs.get("epochs") or 0 for trial in trials)
    if not budget:
        return []
    text = (
        f"The completed and pruned trials trained {spent:,} of {_count(budget, 'epoch')} "
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
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left"
    )
    for header in ("trial", metric_name(study)):
        table.add_column(Text(header), justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for header in ("epochs", "seconds"):
        table.add_column(header, justify="right", no_wrap=True)
    in_columns = len(names) <= _MOST_COLUMNS
    for header in names.values() if in_columns else ["parameters"]:
        table.add_column(Text(header), overflow="fold")
    for trial in [*finished, *failed]:
        cells = _row(trial, list(names))
        if not in_columns:
            pairs = zip(names.values(), cells[5:], strict=True)
            cells[5:] = [", ".join(f"{name} {value}" for name, value in pairs if value is not None)]
        # Text, because a value in [brackets] is no markup.
        texts = (Text("—" if cell is None else str(cell)) for cell in cells)
        style = {TrialState.PRUNED: "dim", TrialState.FAIL: "red"}.get(trial.state)
        table.add_row(*texts, style=style)
    notes = [f"trial {trial.number} failed: {failure(trial)}" for trial in failed]
    if len(finished) + len(failed) < len(ranked):
        notes.append(f"{len(finished) + len(failed)} of {len(ranked)} finished trials")
    table.caption = Text("\n".join(notes)) if notes else None
    return table


def _row(trial: FrozenTrial, keys: Sequence[str]) -> list[str | int | None]:
    """Number, value, state, epochs, seconds, and the values of these keys; None is unknown."""
    values = _values(trial)
    return [
        trial.number,
        _decimals(reached(trial)),
        _STATES[trial.state],
        trial.user_attrs.get("epochs"),
        _decimals(trial.user_attrs.get("seconds"), 1),
        *(label(values[key]) if key in values else None for key in keys),
    ]


# Files.


def write_trials_csv(study: Study, path: Path) -> None:
    """One row per trial, whatever its state; values unrounded, under their whole config keys."""
    trials = trials_of(study)
    keys = list({key: None for trial in trials for key in _values(trial)})
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["number", "state", "value", "epochs", "seconds", "reason", *keys])
    for trial in trials:
        attributes = trial.user_attrs
        rows.writerow(
            [
                trial.number,
                trial.state.name,
                reached(trial),
                attributes.get("epochs"),
                attributes.get("seconds"),
                attributes.get("reason"),
                *(_values(trial).get(key) for key in keys),
            ]
        )
    write(path, text.getvalue())


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
    write_trials_csv(study, folder / "trials.csv")
    drawn = {name: (alt, draw(study)) for name, (alt, draw) in FIGURES.items()}
    drawings = html_page.figures(folder / "figures", drawn)
    ranked = best_first(study)
    failed = [trial for trial in ranked if trial.state == TrialState.FAIL]
    found, *took = summary(study)
    opening = [html_page.paragraph(found), html_page.paragraph(" ".join(took))]
    sections = [Section("", [*opening, html_page.definitions(facts)])]
    if confirmation is not None:
        sections.append(Section("Confirmation on the test set", _confirmation(confirmation)))
    if drawings:
        sections.append(Section("Figures", drawings))
    sections.append(Section("Trials", [_html_table(study, ranked)]))
    if failed:
        rows = [(trial.number, failure(trial)) for trial in failed]
        failures = html_page.table(["trial", "reason"], rows, name="failures")
        sections.append(Section("Failures", [failures]))
    definition = yaml.safe_dump(_definition(study), sort_keys=False, allow_unicode=True, width=96)
    settings = [html_page.code(definition, "Definition of the study")]
    if best_config is not None:
        settings.insert(0, html_page.code(best_config, "Configuration of the best trial"))
    sections.append(Section("Configuration", settings))
    title = f"Search: {_definition(study).get('name') or study.study_name}"
    write(folder / "report.html", html_page.page(title, sections))


def _html_table(study: Study, ranked: Sequence[FrozenTrial]) -> str:
    names = short_names(_columns(ranked))
    headers = ["trial", metric_name(study), "state", "epochs", "seconds", *names.values()]
    rows = [_row(trial, list(names)) for trial in ranked]
    caption = "Best first; a click on a header sorts. A pruned trial's value is its last epoch's."
    return html_page.table(headers, rows, caption, name="trials")


def _confirmation(confirmation: dict[str, Any]) -> list[str]:
    """The table of the variants, and what the difference says."""
    seeds = confirmation["seeds"]
    rows = []
    for name, values in confirmation["variants"].items():
        padded = [*values, *[None] * (len(seeds) - len(values))]
        rows.append([name, *_mean(values), *map(_decimals, padded)])
    headers = ["variant", "mean ± sd", "n", *(f"seed {seed}" for seed in seeds)]
    caption = (
        "Test accuracy after training on training and validation images. The search did not read "
        "the test set."
    )
    parts = [
        html_page.table(headers, rows, caption, name="confirmation"),
        html_page.paragraph(_difference(confirmation["difference"])),
    ]
    if confirmation.get("config"):
        parts.append(html_page.code(confirmation["config"], "Configuration of the winner"))
    return parts


def _mean(values: Sequence[float | None]) -> tuple[str | None, int]:
    """Mean ± standard deviation of the known values, and how many there are."""
    known = [value for value in values if value is not None]
    text = f"{statistics.mean(known):.4f}" if known else None
    if len(known) > 1:
        text = f"{text} ± {statistics.stdev(known):.4f}"
    return text, len(known)


def confirmation_lines(confirmation: dict[str, Any] | None) -> list[str]:
    """What the terminal says of it; see :func:`write_report`. Nothing where there is none."""
    if confirmation is None:
        return []
    means = {name: _mean(values) for name, values in confirmation["variants"].items()}
    reached = ", ".join(f"{name} {mean or 'failed'} (n = {n})" for name, (mean, n) in means.items())
    return [
        f"Test accuracy, trained on training and validation images: {reached}.",
        _difference(confirmation["difference"]),
    ]


def _difference(difference: dict[str, Any]) -> str:
    """Whether the winner is better than the base, in a sentence."""
    mean, low, high, n = (difference.get(key) for key in ("mean", "low", "high", "n"))
    if mean is None:
        return "The difference between winner and base is unknown."
    mean_text, *ends = (f"{x:+.4f}".replace("-", "−") for x in (mean, low or 0.0, high or 0.0))
    text = f"Difference, winner − base: {mean_text}"
    if low is None or high is None or not math.isfinite(low + high):
        return f"{text}, from {_count(n or 0, 'seed')}: too few for an interval."
    text += f", 95% interval {' to '.join(ends)}, paired by seed, n = {n}. "
    if low <= 0 <= high:
        return text + "The interval includes zero: the difference may be chance."
    return text + f"The interval excludes zero: the winner is {'better' if low > 0 else 'worse'}."
