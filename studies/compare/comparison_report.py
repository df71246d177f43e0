"""Results of a comparison: tables for the terminal, CSV and Markdown, and a report with figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foundation.whole_file import write
from studies.compare.comparison_table import FAILED, IDENTICAL, Comparison, Row, rows
from studies.compare.paired_statistics import (
    BETTER,
    EQUIVALENT,
    TOO_FEW,
    UNDECIDED,
    WORSE,
    Difference,
)
from studies.compare.runs_file import as_text
from studies.names import all_failed
from studies.report import tables
from studies.report.html_page import PageTable, draw, render
from studies.report.tables import Cell
from studies.report.words import (
    counted,
    decimals,
    interval,
    mean_and_deviation,
    points,
    sentence,
)

# More rows than these are worth a selection.
_MANY = 12
# What an excerpt shows, and what a terminal has room for.
ALONE, TOGETHER = "95% interval", "95% for all"
_EXCERPT = ["group", "variant", "verdict", "n", "test accuracy", "difference", ALONE, TOGETHER]
_EXCERPT += ["time"]
_TERMINAL = [header for header in [*_EXCERPT, "step"] if header != ALONE]


def _notes(comparison: Comparison) -> str:
    images = (
        "Intervals cover the seeds and the test images together. "
        if any(run.right is not None for run in comparison.runs)
        else "Intervals cover the seeds, not the choice of the images. "
    )
    return (
        "Differences are to the base of the same group, paired by seed, in percentage points of "
        f"{_metric(comparison)}; n counts the seeds. {ALONE}: of one difference alone. {TOGETHER}: "
        "the intervals of the row's family that hold all at once (Bonferroni); verdicts are read "
        "off them: better wholly above 0, worse wholly below, equivalent wholly within ±"
        f"{100 * comparison.margin:g} points, else undecided, and then *detectable* is the "
        f"difference that would have been shown with a probability of 80%. {images}"
        "Identical runs count once. Gap: accuracy on training minus test images, in points. Time "
        "per epoch and peak memory are medians over seeds, as a ratio to the base. Epochs to "
        "base's best: until the validation accuracy reached the best of the base's run with that "
        "seed, mean over the seeds where it did."
    )


def _metric(comparison: Comparison) -> str:
    return "test accuracy" if comparison.metric.startswith("test/") else "validation accuracy"


# In words.


def _title(row: Row) -> str:
    return f"{row.variant} ({row.group})" if row.group else row.variant


def _t(row: Row) -> float:
    """The difference over its standard error."""
    difference = row.difference
    return difference.mean / difference.error if difference and difference.error else 0.0


def _listed(found: Sequence[tuple[Row, Difference]]) -> str:
    return ", ".join(f"{_title(row)} {points(difference.mean)}" for row, difference in found)


def summary(comparison: Comparison, table: Sequence[Row]) -> list[str]:
    """Sentences on what is better, worse, equivalent and undecided, and on what was not judged."""
    if failed := everything_failed(comparison):
        return [sentence(failed)]
    base = comparison.base
    others = [row for row in table if not row.is_base]
    judged = [(row, row.difference) for row in others if row.difference and not row.identical]
    of = len(judged)
    sentences = _verdicts(comparison, judged, f"than {base}", f"to {base}", f"{of}")
    left: dict[str, list[str]] = {}
    for row in others:
        if row.identical is not None:
            left.setdefault(f"{IDENTICAL} to {row.identical}", []).append(_title(row))
        elif row.difference is None:
            left.setdefault(row.verdict, []).append(_title(row))
    for verdict, names in left.items():
        sentences.append(f"{verdict.capitalize()}: {', '.join(names)}.")
    steps = [(row, row.step) for row in others if row.step is not None]
    if steps:
        than, to = "than the variant before", "to the variant before"
        sentences += _verdicts(comparison, steps, than, to, f"{len(steps)} steps")
    sentences += _tuning(comparison)
    for seed, machines in comparison.mixed_seeds().items():
        sentences.append(
            f"Seed {seed} was run on several kinds of machines, whose results differ in the last "
            f"digits: {'; '.join(machines)}."
        )
    return sentences


def _tuning(comparison: Comparison) -> list[str]:
    """A screening's choices, over what, and at what cost."""
    if not comparison.tuned:
        return []
    chosen = [
        f"{choice['variant'].strip('/')} {choice['chosen']} (of {', '.join(choice['values'])})"
        for choice in comparison.tuned
        if choice["key"]
    ]
    epochs = [
        f"{choice['variant'].strip('/')} {choice['epochs']}"
        for choice in comparison.tuned
        if choice["epochs"] is not None
    ]
    seeds = comparison.tuned[0]["seeds"]
    trainings = sum(len(seeds) * max(len(c["values"]), 1) for c in comparison.tuned)
    seconds = sum(choice["seconds"] for choice in comparison.tuned)
    cost = f"{counted(trainings, 'training')}, {seconds:.0f} s in all"
    over = f"on validation images, with seeds {', '.join(map(str, seeds))} ({cost})"
    return [f"Tuned {over}: {'; '.join(chosen)}."] * bool(chosen) + [
        f"As much time as the base's, {over}, in epochs: {'; '.join(epochs)}."
    ] * bool(epochs)


def _verdicts(
    comparison: Comparison,
    judged: Sequence[tuple[Row, Difference]],
    than: str,
    to: str,
    of: str,
) -> list[str]:
    """Sentences on differences, by verdict, the greatest first."""
    by_size = sorted(judged, key=lambda pair: -pair[1].mean)
    found = {
        verdict: [pair for pair in by_size if pair[1].verdict == verdict]
        for verdict in (BETTER, WORSE, EQUIVALENT, UNDECIDED, TOO_FEW)
    }
    sentences = []
    if few := found[TOO_FEW]:
        least = max(difference.least for _, difference in few)
        n = min(difference.n for _, difference in few)
        sentences.append(
            f"Too few seeds for a verdict, {len(few)} of {of}: n = {n}, and "
            f"{counted(least, 'seed')} would be the least for so many. Ranked only: {_listed(few)}."
        )
    if len(few) < len(judged):
        unit = f"in percentage points of {_metric(comparison)}"
        for verdict, which in ((BETTER, than), (WORSE, than)):
            pairs = found[verdict] if verdict == BETTER else found[verdict][::-1]
            sentences.append(
                f"{sentence(verdict)[:-1]} {which}, {unit}, {len(pairs)} of {of}: {_listed(pairs)}."
                if pairs
                else f"Nothing was shown to be {verdict} {which}."
            )
    if pairs := found[EQUIVALENT]:
        sentences.append(
            f"Equivalent {to} within {100 * comparison.margin:g} points, {len(pairs)} of {of}: "
            f"{_listed(pairs)}."
        )
    if pairs := found[UNDECIDED]:
        detectable = sorted(difference.detectable or 0.0 for _, difference in pairs)
        ends = dict.fromkeys(f"{100 * size:.2f}" for size in (detectable[0], detectable[-1]))
        sizes = " to ".join(ends)
        sentences.append(
            f"Undecided, {len(pairs)} of {of}; a difference of {sizes} points would probably have "
            f"been shown: {_listed(pairs)}."
        )
    return sentences


def everything_failed(comparison: Comparison) -> str | None:
    """The sentence that all runs failed; None where one did not."""
    return all_failed("run", [run.reason for run in comparison.runs])


def _budget(comparison: Comparison) -> str:
    """One line: budget, seeds and how many runs there are."""
    failed = sum(run.reason is not None for run in comparison.runs)
    seeds = f"seeds {', '.join(map(str, comparison.seeds))} (n = {len(comparison.seeds)})"
    runs = f"{len(comparison.runs)} runs" + (f", {failed} failed" if failed else "")
    return f"{counted(comparison.epochs, 'epoch')} per run; {seeds}; {runs}"


# One table for people, in three forms.


def accuracy(row: Row) -> str | None:
    """Mean ± standard deviation over the seeds; None where there is no result."""
    return mean_and_deviation(row.accuracies.values())


def _epochs(row: Row) -> str | None:
    if row.epochs_to_base is None:
        return None
    return f"{row.epochs_to_base:.1f} ({row.reached} of {row.comparable})"


def _cells(comparison: Comparison, row: Row) -> dict[str, Cell]:
    """Cells of a row, by header; only what the comparison has."""
    cells: dict[str, Cell] = {"group": row.group} if comparison.groups != [""] else {}
    cells |= {
        "variant": row.variant,
        "verdict": row.verdict,
        "n": row.n,
        _metric(comparison): accuracy(row),
        "difference": points(row.difference.mean) if row.difference else None,
        ALONE: interval(row.difference.low, row.difference.high) if row.difference else None,
        TOGETHER: interval(row.difference.wide_low, row.difference.wide_high)
        if row.difference
        else None,
        "detectable": decimals(100 * row.difference.detectable, 2)
        if row.verdict == UNDECIDED and row.difference and row.difference.detectable
        else None,
    }
    if comparison.chain:
        cells |= {
            "step": points(row.step.mean) if row.step else None,
            "step's 95% for all": interval(row.step.wide_low, row.step.wide_high)
            if row.step
            else None,
            "step's verdict": row.step.verdict if row.step else None,
        }
    return cells | {
        "validation loss": decimals(row.validation_loss),
        "calibration error": decimals(row.calibration_error),
        "gap": None if row.gap is None else points(row.gap),
        "time": decimals(row.time, 2),
        "memory": decimals(row.memory, 2),
        "epochs to base's best": _epochs(row),
        "failed": len(row.failed) or None,
        "diagnosis": row.diagnosis,
    }


def _table(
    comparison: Comparison, found: Sequence[Row], only: Sequence[str] = ()
) -> tuple[list[str], list[list[Cell]]]:
    """The headers of which some row has a value, and the rows; of ``only`` these if given."""
    cells = [_cells(comparison, row) for row in found]
    headers = [
        header
        for header in (cells[0] if cells else {})
        if (not only or header in only) and any(row[header] is not None for row in cells)
    ]
    return headers, [[row[header] for header in headers] for row in cells]


def results_table(comparison: Comparison) -> Table:
    """The rows for the terminal, with the reasons of what failed below."""
    found = rows(comparison)
    headers, cells = _table(comparison, found, _TERMINAL)
    styles = {BETTER: "blue", WORSE: "red", FAILED: "red", "base": "bold"}
    words = ("group", "variant", "verdict")
    notes = [
        f"{_title(row)}, seed {r.seed} failed: {r.reason}" for row in found for r in row.failed
    ]
    return tables.for_terminal(
        headers,
        cells,
        words=words,
        wrapped=words,
        styles=[styles.get(row.verdict) for row in found],
        notes=notes,
    )


def telling_rows(comparison: Comparison, n: int = 10) -> str:
    """The most telling rows as a Markdown table, below the bases of their groups.

    Of ``n``, two fifths are what helped with the greatest t, two fifths what hurt, and the rest
    the clearest of the others: the interval's further end is the nearest to zero.
    Places that one kind cannot fill go to the others, in this order. Sorted by the difference.
    """
    table = rows(comparison)
    by_t = sorted(table, key=lambda row: -abs(_t(row)))
    helped = [row for row in by_t if row.verdict == BETTER]
    hurt = [row for row in by_t if row.verdict == WORSE]
    nulls = [row for row in table if row.verdict in (EQUIVALENT, UNDECIDED)]
    nulls.sort(key=_furthest)
    most = 2 * n // 5
    chosen = [*helped[:most], *hurt[:most], *nulls[: n - 2 * most]]
    chosen += [*helped[most:], *hurt[most:], *nulls[n - 2 * most :]][: n - len(chosen)]
    chosen.sort(key=lambda row: -(row.difference.mean if row.difference else 0.0))
    groups = {row.group for row in chosen}
    bases = [row for row in table if row.is_base and row.group in groups]
    return tables.as_markdown(*_table(comparison, [*bases, *chosen], _EXCERPT))


def _furthest(row: Row) -> float:
    difference = row.difference
    if difference is None or difference.wide_low is None or difference.wide_high is None:
        return math.inf
    return max(-difference.wide_low, difference.wide_high)


# Files.


def _record(comparison: Comparison, row: Row) -> dict[str, Any]:
    numbers = ["n", "mean", "error", "df", "low", "high", "wide_low", "wide_high", "p"]
    numbers += ["corrected", "count", "detectable", "verdict"]
    record: dict[str, Any] = {
        "group": row.group,
        "variant": row.variant,
        "n": row.n,
        "test_accuracy": row.mean,
        "test_accuracy_sd": row.sd,
        "verdict": row.verdict,
        "family": comparison.family(row.variant),
    }
    for name, difference in (("difference", row.difference), ("step", row.step)):
        if name == "difference" or comparison.chain:
            record |= {f"{name}_{key}": getattr(difference, key, None) for key in numbers}
    record |= {
        "validation_loss": row.validation_loss,
        "calibration_error": row.calibration_error,
        "generalisation_gap": row.gap,
        "time_ratio": row.time,
        "memory_ratio": row.memory,
        "epochs_to_base_best": row.epochs_to_base,
        "reached_base_best": row.reached,
        "failed": len(row.failed),
        "reasons": "; ".join(dict.fromkeys(str(run.reason) for run in row.failed)),
        "diagnosis": row.diagnosis,
    }
    return record | {
        f"test_accuracy_seed_{seed}": row.accuracies.get(seed) for seed in comparison.seeds
    }


def write_report(comparison: Comparison, folder: Path, facts: dict[str, str]) -> None:
    """Write ``results.csv``, ``runs.csv``, ``results.md``, ``report.html`` and ``figures/*.png``.

    Args:
        comparison: finished or not.
        folder: is made if need be; the files of an earlier report are replaced.
        facts: shown at the top, by name: command, machine, versions, commit, …
    """
    from studies.compare.comparison_figures import FIGURES  # matplotlib, which no worker needs

    table = rows(comparison)
    write(folder / "results.csv", tables.as_csv([_record(comparison, row) for row in table]))
    write(folder / "runs.csv", as_text(comparison.runs))
    budget, sentences = _budget(comparison), summary(comparison, table)
    headers, cells = _table(comparison, table)
    known = "; ".join(f"{name}: {text}" for name, text in facts.items())
    head = f"**{comparison.name}**: {budget}" + (f"; {known}" if known else "")
    parts = [f"{head}.", *sentences, tables.as_markdown(headers, cells), _notes(comparison)]
    if len(table) > _MANY:
        parts[-2:-2] = ["The most telling:", telling_rows(comparison), "All:"]
    write(folder / "results.md", "\n\n".join(part.strip() for part in parts) + "\n")
    drawn = {name: (alt, figure(comparison, table)) for name, (alt, figure) in FIGURES.items()}
    failed = [(_title(row), run.seed, run.reason) for row in table for run in row.failed]
    page = render(
        "comparison.html",
        title=f"Comparison: {comparison.name}",
        sentences=sentences,
        facts={"budget": budget, **facts},
        results=PageTable(
            headers,
            [list(map(_unbroken, row)) for row in cells],
            "results",
            "In the order of the configuration; a click on a header sorts.",
        ),
        notes=_notes(comparison),
        pictures=draw(folder / "figures", drawn),
        failures=PageTable(["variant", "seed", "reason"], failed, "failures"),
        configs={key.strip("/"): text for key, text in comparison.configs.items()},
    )
    write(folder / "report.html", page)


def _unbroken(cell: Cell) -> Cell:
    """In the page's table, which scrolls, no cell takes a second line."""
    return cell.replace(" ", "\N{NO-BREAK SPACE}") if isinstance(cell, str) else cell
