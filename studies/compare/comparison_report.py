"""What a comparison found: tables for the terminal, CSV and Markdown, and a report with figures."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from foundation.whole_file import write
from studies.compare.comparison_figures import FIGURES, interval, points
from studies.compare.paired_statistics import (
    BETTER,
    FAILED,
    SAME,
    TOO_FEW,
    UNCLEAR,
    WORSE,
    Comparison,
    Difference,
    Row,
    rows,
)
from studies.report import html_page
from studies.report.html_page import Section

Cell = str | int | None

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
# What a terminal has room for.
_TERMINAL = {"group", "variant", "verdict", "n", "test accuracy", "difference", "95% interval"}
_TERMINAL |= {"step", "time"}
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
    """What helped, what hurt and what showed no difference, a sentence each."""
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


def _budget(comparison: Comparison) -> str:
    """One line: budget, seeds and how many runs there are."""
    failed = sum(run.reason is not None for run in comparison.runs)
    epochs = f"{comparison.epochs} epoch{'' if comparison.epochs == 1 else 's'} per run"
    seeds = f"seeds {', '.join(map(str, comparison.seeds))} (n = {len(comparison.seeds)})"
    runs = f"{len(comparison.runs)} runs" + (f", {failed} failed" if failed else "")
    return f"{epochs}; {seeds}; {runs}"


# One table for people, in three forms.


def _decimals(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def accuracy(row: Row) -> str | None:
    """Mean ± standard deviation over the seeds; None where there is no result."""
    text = _decimals(row.mean, 4)
    return text if row.sd is None else f"{text} ± {row.sd:.4f}"


def _difference(difference: Difference | None) -> str | None:
    return None if difference is None else points(difference.mean)


def _interval(difference: Difference | None) -> str | None:
    return None if difference is None else interval(difference)


def _epochs(row: Row) -> str | None:
    if row.epochs_to_base is None:
        return None
    return f"{row.epochs_to_base:.1f} ({row.reached} of {row.comparable})"


def _cells(comparison: Comparison, row: Row) -> dict[str, Cell]:
    """What a row shows, by header; only what the comparison has."""
    cells: dict[str, Cell] = {"group": row.group} if comparison.groups != [""] else {}
    cells |= {
        "variant": row.variant,
        "verdict": row.verdict,
        "n": row.n,
        "test accuracy": accuracy(row),
        "difference": _difference(row.difference),
        "95% interval": _interval(row.difference),
    }
    if comparison.chain:
        cells |= {
            "step": _difference(row.step),
            "step's interval": _interval(row.step),
            "step's verdict": (row.step.verdict or TOO_FEW) if row.step else None,
        }
    return cells | {
        "validation loss": _decimals(row.validation_loss, 4),
        "calibration error": _decimals(row.calibration_error, 4),
        "gap": None if row.gap is None else points(row.gap),
        "time": _decimals(row.time, 2),
        "memory": _decimals(row.memory, 2),
        "epochs to base's best": _epochs(row),
        "failed": len(row.failed) or None,
        "diagnosis": row.diagnosis,
    }


def _columns(cells: Sequence[dict[str, Cell]]) -> list[str]:
    """The headers of which some row has a value."""
    headers = list(cells[0]) if cells else []
    return [header for header in headers if any(row[header] is not None for row in cells)]


def results_table(comparison: Comparison) -> Table:
    """The rows for the terminal, with the reasons of what failed below."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left"
    )
    found = rows(comparison)
    cells = [_cells(comparison, row) for row in found]
    headers = [header for header in _columns(cells) if header in _TERMINAL]
    for header in headers:
        words = header in ("group", "variant", "verdict")
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(
            Text(header),
            justify=justify,
            min_width=len(header),
            no_wrap=not words,
            overflow="fold",
        )
    styles = {BETTER: "blue", WORSE: "red", FAILED: "red", "base": "bold"}
    for row, texts in zip(found, cells, strict=True):
        texts["verdict"] = _SHORT.get(row.verdict, row.verdict)
        # Text, because a value in [brackets] is no markup.
        shown = (Text("—" if texts[header] is None else str(texts[header])) for header in headers)
        table.add_row(*shown, style=styles.get(row.verdict))
    notes = [
        f"{_title(row)}, seed {r.seed} failed: {r.reason}" for row in found for r in row.failed
    ]
    table.caption = Text("\n".join(notes)) if notes else None
    return table


def _unbroken(cell: Cell) -> Cell:
    """In the page's table, which scrolls, no cell takes a second line."""
    return cell.replace(" ", "\N{NO-BREAK SPACE}") if isinstance(cell, str) else cell


def _markdown(comparison: Comparison, shown: Sequence[Row], headers: Sequence[str] = ()) -> str:
    cells = [_cells(comparison, row) for row in shown]
    columns = [header for header in _columns(cells) if not headers or header in headers]
    lines = [columns, ["---"] * len(columns)]
    lines += [["—" if row[h] is None else str(row[h]) for h in columns] for row in cells]
    escaped = ([cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


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
    headers = ("group", "variant", "test accuracy", "difference", "95% interval", "n", "verdict")
    return _markdown(comparison, [*bases, *chosen], [*headers, "time"])


def _furthest(row: Row) -> float:
    difference = row.difference
    if difference is None or difference.low is None or difference.high is None:
        return abs(difference.mean) if difference else 0.0
    return max(-difference.low, difference.high)


# Files.


def _csv(records: Sequence[dict[str, Any]]) -> str:
    """Unrounded; a column per key of any record."""
    text = io.StringIO()
    columns = list({key: None for record in records for key in record})
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


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
    table = rows(comparison)
    write(folder / "results.csv", _csv([_record(comparison, row) for row in table]))
    runs = [
        {"group": run.group, "variant": run.variant, "seed": run.seed}
        | {"diagnosis": run.diagnosis, "reason": run.reason}
        | run.measured
        for run in comparison.runs
    ]
    write(folder / "runs.csv", _csv(runs))
    budget = _budget(comparison)
    known = "; ".join(f"{name}: {text}" for name, text in facts.items())
    head = f"**{comparison.name}**: {budget}" + (f"; {known}" if known else "")
    parts = [f"{head}.", *summary(comparison, table), _markdown(comparison, table), _NOTES]
    if len(table) > _MANY:
        parts[-2:-2] = ["The most telling:", telling_rows(comparison), "All:"]
    write(folder / "results.md", "\n\n".join(part.strip() for part in parts) + "\n")
    drawn = {name: (alt, draw(comparison, table)) for name, (alt, draw) in FIGURES.items()}
    drawings = html_page.figures(folder / "figures", drawn)
    opening = [html_page.paragraph(sentence) for sentence in summary(comparison, table)]
    opening.append(html_page.definitions({"budget": budget, **facts}))
    sections = [Section("", opening)]
    cells = [_cells(comparison, row) for row in table]
    headers = _columns(cells)
    values = [[_unbroken(row[header]) for header in headers] for row in cells]
    caption = "In the order of the configuration; a click on a header sorts."
    results = html_page.table(headers, values, caption, name="results")
    sections.append(Section("Results", [results, html_page.paragraph(_NOTES)]))
    if drawings:
        sections.append(Section("Figures", drawings))
    failed = [(_title(row), run.seed, run.reason) for row in table for run in row.failed]
    if failed:
        failures = html_page.table(["variant", "seed", "reason"], failed, name="failures")
        sections.append(Section("Failures", [failures]))
    configs = [html_page.code(text, key.strip("/")) for key, text in comparison.configs.items()]
    if configs:
        sections.append(Section("Configurations", configs))
    write(folder / "report.html", html_page.page(f"Comparison: {comparison.name}", sections))
