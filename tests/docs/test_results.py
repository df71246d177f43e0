"""Figures in the pages are those that a command wrote under ``results/``."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMPARED = sorted((ROOT / "results" / "compare").glob("*/results.md"))


def test_the_readmes_ten_rows_are_the_comparisons() -> None:
    page = (ROOT / "README.md").read_text()
    section = page.split("## Which is worth it")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    printed = (ROOT / "results/compare/techniques/results.md").read_text().splitlines()
    assert len(rows) == 2 + 1 + 10  # the header, the base and ten
    assert [row for row in rows if row not in printed] == []


def test_every_comparison_was_run_and_is_on_the_page() -> None:
    configs = {path.stem for path in (ROOT / "configs" / "compare").glob("*.yaml")}
    assert {path.parent.name for path in COMPARED} == configs
    page = (ROOT / "docs" / "comparisons.md").read_text()
    for name in configs:
        assert f"](../results/compare/{name}/report.html)" in page


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.parent.name)
def test_what_the_page_says_of_a_comparison_is_what_it_found(path: Path) -> None:
    page = (ROOT / "docs" / "comparisons.md").read_text()
    section = page.split(f"](../results/compare/{path.parent.name}/report.html)")[1]
    quoted = re.findall(r"^> (.+)$", section.split("\n### ")[0], re.MULTILINE)
    printed = " ".join(path.read_text().split())
    assert quoted
    for sentence in " ".join(quoted).split(" <br> "):
        assert sentence in printed


@pytest.mark.parametrize(
    "name",
    [
        *("commands", "ddp", "precision", "precision_emulated", "step"),
        *("throughput_cnn", "throughput_mlp", "time_to_accuracy"),
    ],
)
def test_the_performance_page_has_the_benchmarks_tables(name: str) -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    head, _, table = (ROOT / "results" / "benchmarks" / f"{name}.md").read_text().split("\n", 2)
    assert table.strip() in page
    assert head[: head.index("`", 1) + 1] in page


def test_the_speedruns_steps_are_the_comparisons() -> None:
    def rows(path: str) -> list[list[str]]:
        lines = [line for line in (ROOT / path).read_text().splitlines() if line.startswith("| ")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    page = rows("docs/performance.md")
    (first,) = (number for number, row in enumerate(page) if row[0] == "variant")
    printed = rows("results/compare/speedrun/results.md")
    chosen = [printed[0].index(name) for name in page[first]]
    expected = [[row[column] for column in chosen] for row in printed]
    assert page[first : first + len(expected)] == expected
