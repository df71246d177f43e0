"""Figures in the pages are those that a command wrote under ``results/``."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMPARED = sorted((ROOT / "results" / "compare").glob("*/results.md"))


def test_the_readmes_rows_are_the_comparisons() -> None:
    def rows(text: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    page = (ROOT / "README.md").read_text().split("## Which is worth it")[1].split("\n## ")[0]
    shown = rows(page)
    printed = rows((ROOT / "results/compare/speedrun_techniques/results.md").read_text())
    columns = [printed[0].index(name) for name in shown[0]]
    assert len(shown) == 2 + 1 + 9  # the header, the base and nine
    assert shown == [[row[column] for column in columns] for row in printed]


def test_every_comparison_is_on_the_page_as_run_or_as_not_run_yet() -> None:
    configs = {path.stem for path in (ROOT / "configs" / "compare").glob("*.yaml")}
    page = (ROOT / "docs" / "comparisons.md").read_text()
    found, waiting = page.split("### Not yet run with enough seeds")
    for name in configs:
        was_run = f"](../results/compare/{name}/report.html)" in found
        assert was_run == (name in {path.parent.name for path in COMPARED})
        assert was_run != (f"[{name}.yaml](../configs/compare/{name}.yaml)" in waiting)


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
