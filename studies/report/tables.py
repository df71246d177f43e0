"""Tables of results as CSV, as Markdown and for the terminal."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

Cell = str | int | float | None


def shown(cell: Cell) -> str:
    """A cell's text: a dash for None, four digits of a float."""
    if cell is None:
        return "—"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def as_csv(records: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> str:
    """CSV of unrounded values: these columns first, then one per key of any record."""
    text = io.StringIO()
    columns = list(dict.fromkeys([*first, *(key for record in records for key in record)]))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_markdown(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A Markdown table, a line each."""
    lines = [headers, ["---"] * len(headers), *(list(map(shown, row)) for row in rows)]
    escaped = ([cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def for_terminal(
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    words: Collection[str] = (),
    wrapped: Collection[str] = (),
    styles: Iterable[str | None],
    notes: Sequence[str] = (),
) -> Table:
    """A table for rich to print.

    Args:
        headers: of the columns.
        rows: a value per column, None where there is none.
        words: headers of columns that stand at the left; numbers stand at the right.
        wrapped: headers of columns that may take several lines.
        styles: rich's, of each row.
        notes: lines below.
    """
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left"
    )
    for header in headers:
        justify: Literal["left", "right"] = "left" if header in words else "right"
        # Text, because a value in [brackets] is no markup.
        table.add_column(
            Text(header),
            justify=justify,
            min_width=len(header),
            no_wrap=header not in wrapped,
            overflow="fold",
        )
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(shown(cell)) for cell in row), style=style)
    table.caption = Text("\n".join(notes)) if notes else None
    return table
