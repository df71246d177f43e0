"""Results of a comparison: tables for the terminal, CSV and Markdown, and a report with figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foundation.whole_file import write
from studies.compare.paired_statistics import (
    BETTER,
    FAILED,
    SAME,
    TOO_FEW,
    UNCLEAR,
    WORSE,
    Comparison,
    Row,
    rows,
)
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

_NOTES = (
    "Differences are to the base of the same group, paired by seed, in percentage points of test "
    "accuracy; n counts the seeds. Each 95% interval is of one difference alone; the verdict is "
    "corrected for the number of differences (Holm), so an interval may exclude zero where no "
    "difference is shown. Variances are moderated over a group's variants (Smyth 2004). Gap: "
    "accuracy on training minus test images, in points. Time per epoch and peak memory are "
    "medians over seeds, as a ratio to the base. Epochs to base's best: until the validation "
    "accuracy reached the best of the base's run with that seed, mean over the seeds where it did."
)

# More rows than these are worth a selection.
_MANY = 12
# What an excerpt shows, and what a terminal has room for.
_EXCERPT = ["group", "variant", "verdict", "n", "test accuracy", "difference", "95% interval"]
_EXCERPT += ["time"]
_TERMINAL = [*_EXCERPT, "step"]
_SHORT = {UNCLEAR: "not shown", SAME: "identical"}


# In words.


def _title(row: Row) -> str:
    return f"{row.variant} ({row.group})" if row.group else row.variant


def _t(row: Row) -> float:
    return (row.difference.t if row.difference else None) or 0.0


def _listed(found: Sequence[Row]) -> str:
    return ", ".join(
        f"{_title(row)} {points(row.difference.mean)}" for row in found if row.difference
    )


def summary(comparison: Comparison, table: Sequence[Row]) -> list[str]:
    """Sentences on what helped, what hurt and what showed no difference."""
    if failed := everything_failed(comparison):
        return [sentence(failed)]
    others = [row for row in table if not row.is_base]
    by_difference = sorted(others, key=lambda row: -(row.difference.mean if row.difference else 0))
    found = {
        verdict: [row for row in by_difference if row.verdict == verdict]
        for verdict in dict.fromkeys(row.verdict for row in by_difference)
    }
    helped, hurt, unclear = (found.pop(verdict, []) for verdict in (BETTER, WORSE, UNCLEAR))
    of, base = len(others), comparison.base
    none = f"Nothing was shown to be {{}} than {base}."
    sentences = [
        f"Better than {base}, in percentage points of test accuracy, {len(helped)} of {of}: "
        f"{_listed(helped)}."
        if helped
        else none.format(BETTER),
        f"Worse than {base}, {len(hurt)} of {of}: {_listed(hurt[::-1])}."
        if hurt
        else none.format(WORSE),
    ]
    if unclear:
        sentences.append(f"No difference shown, {len(unclear)} of {of}: {_listed(unclear)}.")
    for verdict, left in found.items():
        names = ", ".join(map(_title, left))
        sentences.append(f"{verdict.capitalize()}, {len(left)} of {of}: {names}.")
    steps = [(row, row.step) for row in others if row.step is not None]
    for verdict in (BETTER, WORSE, UNCLEAR):
        named = [f"{_title(r)} {points(step.mean)}" for r, step in steps if step.verdict == verdict]
        if named:
            to = "" if verdict == UNCLEAR else " than the variant before"
            text = f"{verdict.capitalize()}{to}, {len(named)} of {len(steps)} steps"
            sentences.append(f"{text}: {', '.join(named)}.")
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
        "test accuracy": accuracy(row),
        "difference": points(row.difference.mean) if row.difference else None,
        "95% interval": interval(row.difference.low, row.difference.high)
        if row.difference
        else None,
    }
    if comparison.chain:
        cells |= {
            "step": points(row.step.mean) if row.step else None,
            "step's interval": interval(row.step.low, row.step.high) if row.step else None,
            "step's verdict": (row.step.verdict or TOO_FEW) if row.step else None,
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
    for row, line in zip(found, cells, strict=True):
        line[headers.index("verdict")] = _SHORT.get(row.verdict, row.verdict)
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
    the clearest nulls: no difference shown, and the interval's further end the nearest to zero.
    Places that one kind cannot fill go to the others, in this order. Sorted by the difference.
    """
    table = rows(comparison)
    by_t = sorted(table, key=lambda row: -abs(_t(row)))
    helped = [row for row in by_t if row.verdict == BETTER]
    hurt = [row for row in by_t if row.verdict == WORSE]
    nulls = [row for row in table if row.verdict == UNCLEAR and row.difference is not None]
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
    if difference is None or difference.low is None or difference.high is None:
        return abs(difference.mean) if difference else 0.0
    return max(-difference.low, difference.high)


# Files.


def _record(comparison: Comparison, row: Row) -> dict[str, Any]:
    numbers = ("n", "mean", "low", "high", "t", "df", "p", "corrected", "verdict")
    record: dict[str, Any] = {
        "group": row.group,
        "variant": row.variant,
        "n": row.n,
        "test_accuracy": row.mean,
        "test_accuracy_sd": row.sd,
        "verdict": row.verdict,
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
    runs = [
        {"group": run.group, "variant": run.variant, "seed": run.seed}
        | {"diagnosis": run.diagnosis, "reason": run.reason}
        | run.measured
        for run in comparison.runs
    ]
    write(folder / "runs.csv", tables.as_csv(runs))
    budget, sentences = _budget(comparison), summary(comparison, table)
    headers, cells = _table(comparison, table)
    known = "; ".join(f"{name}: {text}" for name, text in facts.items())
    head = f"**{comparison.name}**: {budget}" + (f"; {known}" if known else "")
    parts = [f"{head}.", *sentences, tables.as_markdown(headers, cells), _NOTES]
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
        notes=_NOTES,
        pictures=draw(folder / "figures", drawn),
        failures=PageTable(["variant", "seed", "reason"], failed, "failures"),
        configs={key.strip("/"): text for key, text in comparison.configs.items()},
    )
    write(folder / "report.html", page)


def _unbroken(cell: Cell) -> Cell:
    """In the page's table, which scrolls, no cell takes a second line."""
    return cell.replace(" ", "\N{NO-BREAK SPACE}") if isinstance(cell, str) else cell
