"""Reports as single HTML files that need no network, no server and no other file.

The pages are the Jinja2 templates beside this module: ``page.html`` is the frame, with ``page.css``
and ``page.js``; ``parts.html`` has what pages are made of. Whatever is put into them is escaped.
"""

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from foundation.whole_file import write
from studies.report.tables import Cell, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent


class Column(NamedTuple):
    """A column's header, and whether all its values are numbers."""

    header: str
    numeric: bool


@dataclass(frozen=True)
class PageTable:
    """A table for the macro ``table``; a click on a header sorts it.

    Args:
        headers: of the columns.
        rows: a value per column, None where there is none. A float is shown with four digits; one
            that should be shown otherwise comes as text, and is sorted by its number all the same.
        name: the element's id: ``#sort=<name>:2`` in the address sorts by the third column.
        caption: stands above.

    Raises:
        ValueError: a row is not as long as the headers.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                expected = f"{len(self.headers)} cells for {list(self.headers)}"
                raise ValueError(f"expected {expected}, got {list(row)}")

    @property
    def columns(self) -> list[Column]:
        columns = []
        for i, header in enumerate(self.headers):
            known = [row[i] for row in self.rows if row[i] is not None]
            columns.append(Column(header, bool(known) and all(map(_is_number, known))))
        return columns


def _is_number(value: Cell) -> bool:
    try:
        float(value or 0)
    except ValueError:
        return False
    return not isinstance(value, bool)


class Picture(NamedTuple):
    """A PNG file's content as an image's source, and what it shows in words."""

    alt: str
    source: str


def picture(png: bytes, alt: str) -> Picture:
    """A picture within the page.

    Args:
        png: content of the file.
        alt: what it shows, for those who do not see it.
    """
    return Picture(alt, f"data:image/png;base64,{base64.b64encode(png).decode()}")


def draw(folder: Path, figures: Mapping[str, tuple[str, "Figure | None"]]) -> list[Picture]:
    """Write figures into a folder, and return them for the page.

    Args:
        folder: gets ``<name>.png`` of each; that of one that is None is removed.
        figures: alternative text and figure, by name.
    """
    pictures = []
    for name, (alt, figure) in figures.items():
        path = folder / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)  # of an earlier report
            continue
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        write(path, buffer.getvalue())
        pictures.append(picture(buffer.getvalue(), alt))
    return pictures


@functools.cache
def environment() -> Environment:
    """The templates, with ``page.css`` and ``page.js`` in them."""
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["cell"] = shown
    found.globals |= {
        "zip": zip,
        "style": Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        "script": Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),
    }
    return found


def render(template: str, **content: Any) -> str:
    """A whole HTML file.

    Args:
        template: its file name, e.g. ``search.html``.
        content: what the template names, ``title`` among it.
    """
    return environment().get_template(template).render(**content)
