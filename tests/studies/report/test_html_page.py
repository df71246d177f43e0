import base64
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure

from studies.report.html_page import PageTable, draw, environment, picture

EVIL = "<script>alert('1')</script> \" & </pre>"
ROWS = [("b", 9, "0.9000", None), ("a", 10, "—", "2"), ("c", 1, "1e-05", "10"), ("d", 2, "-3", "x")]


class Elements(HTMLParser):
    """Start tags with their attributes, and how often each tag is open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: dict[str, int] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open[tag] = self.open.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        self.open[tag] -= 1


PAGE = """{% extends "page.html" %}
{% from "parts.html" import code, definitions, figures, table as table_of %}
{% block content %}
<p>{{ text }}</p>
{{ definitions({text: text}) }}
{{ code(text, text) }}
{{ figures(pictures) }}
{{ table_of(table) }}
{% endblock %}
"""


def page(table: PageTable, title: str = "Test", pictures: Sequence[Any] = ()) -> str:
    """A page of everything that pages are made of."""
    template = environment().from_string(PAGE)
    return template.render(title=title, text=title, pictures=pictures, table=table)


def drawing() -> Figure:
    drawn = Figure(figsize=(3, 2), dpi=100)
    drawn.subplots().plot([1, 2])
    return drawn


@pytest.fixture
def whole(tmp_path: Path) -> str:
    rows = [(EVIL, *row[1:]) for row in ROWS]
    table = PageTable([EVIL, "n", "x", "y"], rows, "numbers", EVIL)
    return page(table, EVIL, draw(tmp_path, {"drawn": (EVIL, drawing())}))


def test_everything_is_escaped(whole: str) -> None:
    elements = Elements(whole)
    assert "<script>alert" not in whole
    assert [tag for tag, _ in elements.found].count("script") == 1  # the page's own
    assert set(elements.open.values()) == {0}  # well-formed
    assert next(attrs for tag, attrs in elements.found if tag == "img")["alt"] == EVIL


def test_nothing_is_loaded_from_elsewhere(whole: str) -> None:
    elements = Elements(whole)
    sources = [a[k] for _, a in elements.found for k in ("src", "href", "srcset") if k in a]
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert len(sources) == 1
    assert "http:" not in whole
    assert "https:" not in whole
    assert "url(" not in whole
    policy = next(attrs for tag, attrs in elements.found if "http-equiv" in attrs)["content"]
    assert policy is not None
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )


def test_figure_is_a_png_of_its_size(tmp_path: Path) -> None:
    (one,) = draw(tmp_path, {"drawn": ("nothing", drawing()), "gone": ("of before", None)})
    data = base64.b64decode(one.source.removeprefix("data:image/png;base64,"))
    assert matplotlib.image.imread(io.BytesIO(data)).shape[:2] == (200, 300)
    assert picture(data, "nothing") == one
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.png"]
    assert (tmp_path / "drawn.png").read_bytes() == data


def test_table_cells() -> None:
    rows = [("a", 1, 0.123456), ("b", None, 1e-5), ("c", 3, None)]
    text = page(PageTable(["name", "n", "x"], rows))
    assert re.findall(r"<td[^>]*>([^<]*)", text) == [
        *("a", "1", "0.1235"),
        *("b", "—", "1e-05"),
        *("c", "3", "—"),
    ]
    assert text.count('<td class="number">') == 6
    assert "<caption" not in text


def test_table_without_rows_and_with_a_short_row() -> None:
    assert "<tbody>" in page(PageTable(["a"], []))
    with pytest.raises(ValueError, match=r"expected 2 cells for \['a', 'b'\], got \[1\]"):
        PageTable(["a", "b"], [(1,)])


def test_what_a_template_names_must_be_given() -> None:
    with pytest.raises(UndefinedError, match="'table' is undefined"):
        environment().from_string(PAGE).render(title="", text="", pictures=[])


# In a browser.


@pytest.fixture
def names_in_order(tmp_path: Path) -> Callable[[str], list[str]]:
    """The table's first cells from top to bottom, after opening the page with ``#<fragment>``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium in PATH: apt-get install chromium")
    file = tmp_path / "page.html"
    headers = ["name", "n", "x", "mixed"]
    file.write_text(page(PageTable(headers, ROWS, "numbers")))

    def order(fragment: str) -> list[str]:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        command += ["--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--virtual-time-budget=20000", "--dump-dom", f"{file.as_uri()}#{fragment}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return re.findall(r"<tr><td[^>]*>(\w)<", done.stdout)

    return order


@pytest.mark.browser
@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", "bacd"),
        ("sort=numbers:0", "abcd"),
        ("sort=numbers:1", "cdba"),  # 1, 2, 9, 10
        ("sort=numbers:2", "dcba"),  # -3, 1e-05, 0.9, —
        ("sort=numbers:-2", "bcda"),  # the missing value stays last
        ("sort=numbers:3", "acdb"),  # text with numbers: 2, 10, x, —
    ],
)
def test_sorting(names_in_order: Callable[[str], list[str]], fragment: str, expected: str) -> None:
    assert names_in_order(fragment) == list(expected)
