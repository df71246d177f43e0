import base64
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from studies.report.html_page import Section, code, definitions, figure, page, paragraph, table

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


def whole() -> str:
    drawn = Figure(figsize=(3, 2), dpi=100)
    drawn.subplots().plot([1, 2])
    parts = [
        paragraph(EVIL),
        definitions({EVIL: EVIL}),
        code(EVIL, EVIL),
        figure(drawn, EVIL),
        table([EVIL, "n", "x", "y"], [(EVIL, *row[1:]) for row in ROWS], EVIL, name="numbers"),
    ]
    return page(EVIL, [Section("", [paragraph("opening")]), Section(EVIL, parts)])


def test_everything_is_escaped() -> None:
    text = whole()
    elements = Elements(text)
    assert "<script>alert" not in text
    assert [tag for tag, _ in elements.found].count("script") == 1  # the page's own
    assert set(elements.open.values()) == {0}  # well-formed
    assert next(attrs for tag, attrs in elements.found if tag == "img")["alt"] == EVIL


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = whole()
    elements = Elements(text)
    sources = [a[k] for _, a in elements.found for k in ("src", "href", "srcset") if k in a]
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert len(sources) == 1
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    policy = next(attrs for tag, attrs in elements.found if "http-equiv" in attrs)["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_figure_is_a_png_of_its_size() -> None:
    drawn = Figure(figsize=(3, 2), dpi=100)
    text = figure(drawn, "nothing")
    data = base64.b64decode(re.findall(r"base64,([^\"]+)", text)[0])
    assert matplotlib.image.imread(io.BytesIO(data)).shape[:2] == (200, 300)
    assert figure(data, "nothing") == text


def test_table_cells() -> None:
    text = table(["name", "n", "x"], [("a", 1, 0.123456), ("b", None, 1e-5), ("c", 3, None)])
    assert re.findall(r"<td[^>]*>([^<]*)", text) == [
        *("a", "1", "0.1235"),
        *("b", "—", "1e-05"),
        *("c", "3", "—"),
    ]
    assert text.count('<td class="number">') == 6
    assert "caption" not in text


def test_table_without_rows_and_with_a_short_row() -> None:
    assert "<tbody>" in table(["a"], [])
    with pytest.raises(ValueError, match=r"expected 2 cells for \['a', 'b'\], got \[1\]"):
        table(["a", "b"], [(1,)])


# In a browser.


@pytest.fixture
def names_in_order(tmp_path: Path) -> Callable[[str], list[str]]:
    """The table's first cells from top to bottom, after opening the page with ``#<fragment>``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium in PATH: apt-get install chromium")
    file = tmp_path / "page.html"
    headers = ["name", "n", "x", "mixed"]
    file.write_text(page("Test", [Section("", [table(headers, ROWS, name="numbers")])]))

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
