"""A report as one HTML file that needs nothing else: no network, no server, no other file.

``paragraph``, ``table``, ``figure``, ``code`` and ``definitions`` give HTML in which everything
that they were given is escaped; ``page`` puts sections of them together.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from foundation.whole_file import write

# Nothing may be loaded, whatever the text of a report contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d5dae0;
  --back: #ffffff; --pale: #f4f6f8; --link: #2f6db3; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde2e8; --soft: #98a2ad; --line: #343b44;
  --back: #14181d; --pale: #1d2329; --link: #7fb0e3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--back);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; }
p { max-width: 44rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 1.25rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); padding: .5rem; }
/* A wide table takes the margin to the right of the text, and scrolls beyond that. */
.scroll { overflow-x: auto; margin: 1rem 0; width: max-content; max-width: 100%; }
@media (min-width: 62rem) { .scroll { max-width: calc(50vw + 27.5rem); } }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .3rem .75rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; max-width: 36rem; overflow-wrap: break-word; }
th { white-space: nowrap; background: var(--pale); }
.number { text-align: right; white-space: nowrap; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th button::after { content: "\\2195"; color: var(--soft); opacity: .5; padding-left: .3em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
tbody tr:hover { background: var(--pale); }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
pre { background: var(--pale); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem 1rem; overflow-x: auto;
  font: .8125rem/1.5 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; }
""".strip()

# A click on a header sorts, a second one the other way; "#sort=trials:2" does it on opening, and
# "#sort=trials:-2" downwards (columns count from 0). Cells without a value always come last.
_SCRIPT = """
const text = (row, column) => row.cells[column].textContent.trim();
const missing = value => value === "" || value === "—" || value === "nan";
const number = value => parseFloat(value.replace("−", "-").replace(/inf$/, "Infinity")
  .replace(/(\\d),(?=\\d{3})/g, "$1"));
function sort(table, column, down) {
  const body = table.tBodies[0], rows = [...body.rows];
  const numeric = rows.map(row => text(row, column)).every(t => missing(t) || !isNaN(number(t)));
  const compare = numeric ? (a, b) => number(a) < number(b) ? -1 : number(a) > number(b) ? 1 : 0
    : (a, b) => a.localeCompare(b, "en", {numeric: true});
  rows.sort((one, other) => {
    const a = text(one, column), b = text(other, column);
    return missing(a) - missing(b) || (missing(a) ? 0 : down ? compare(b, a) : compare(a, b));
  });
  body.append(...rows);
  [...table.tHead.rows[0].cells].forEach(cell => cell.removeAttribute("aria-sort"));
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
}
document.querySelectorAll("table.sortable").forEach(table =>
  table.querySelectorAll("th button").forEach((button, column) => button.onclick = () =>
    sort(table, column, button.parentNode.getAttribute("aria-sort") === "ascending")));
const asked = location.hash.match(/^#sort=([\\w-]+):(-?)(\\d+)$/);
if (asked) sort(document.getElementById(asked[1]), +asked[3], asked[2] === "-");
""".strip()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading; without one the section opens the page.
        parts: HTML from the functions of this module.
    """

    title: str
    parts: Sequence[str]


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def definitions(facts: Mapping[str, str]) -> str:
    """A list of what is what."""
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def code(text: str, summary: str) -> str:
    """Text as it is, folded away behind its summary."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def png(drawn: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    return buffer.getvalue()


def figure(drawn: Figure | bytes, alt: str) -> str:
    """A figure, or the content of a PNG file, within the page.

    Args:
        drawn: what to show.
        alt: what it shows, for those who do not see it.
    """
    data = drawn if isinstance(drawn, bytes) else png(drawn)
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<figure><img alt="{escape(alt)}" src="{source}"></figure>'


def figures(folder: Path, drawn: Mapping[str, tuple[str, Figure | None]]) -> list[str]:
    """Write figures into a folder and into the page.

    Args:
        folder: gets ``<name>.png`` of each; that of one that is None is removed.
        drawn: alternative text and figure, by name.
    """
    parts = []
    for name, (alt, one) in drawn.items():
        path = folder / f"{name}.png"
        if one is None:
            path.unlink(missing_ok=True)  # of an earlier report
            continue
        data = png(one)
        write(path, data)
        parts.append(figure(data, alt))
    return parts


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str | int | float | None]],
    caption: str = "",
    name: str = "",
) -> str:
    """A table that a click on a header sorts.

    Args:
        headers: of the columns.
        rows: a value per column, None where there is none. A float is shown with four digits; one
            that should be shown otherwise comes as text, and is sorted by its number all the same.
        caption: stands above.
        name: the element's id: ``#sort=<name>:2`` in the address sorts by the third column.

    Raises:
        ValueError: if a row is not as long as the headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"expected {len(headers)} cells for {list(headers)}, got {list(row)}")
    columns = [[row[i] for row in rows if row[i] is not None] for i in range(len(headers))]
    numeric = [bool(column) and all(map(_is_number, column)) for column in columns]
    kinds = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(header)}</button></th>'
        for kind, header in zip(kinds, headers, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(_text(v))}</td>" for k, v in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    identity = f' id="{escape(name)}"' if name else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="sortable"{identity}>{title}'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _text(value: str | int | float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: str | int | float | None) -> bool:
    try:
        float(value or 0)
    except ValueError:
        return False
    return not isinstance(value, bool)


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole HTML file.

    Args:
        title: of the page.
        sections: from top to bottom.
    """
    body = "\n".join(
        "\n".join(
            [*([f"<h2>{escape(section.title)}</h2>"] if section.title else []), *section.parts]
        )
        for section in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<script>
{_SCRIPT}
</script>
</body>
</html>
"""
