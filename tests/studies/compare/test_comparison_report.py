import csv
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from studies.compare.comparison_report import results_table, summary, telling_rows, write_report
from studies.compare.comparison_table import Comparison, Run, rows

FACTS = {"command": "python compare.py --config x.yaml", "machine": "2 cores <b>"}
REASON = "ValueError: <script>alert(1)</script> | [bold]"
EFFECTS = {"base": 0.0, "good": 0.03, "bad": -0.03, "same": 0.0, "broken": 0.0}


def made(
    groups: tuple[str, ...] = ("",), chain: bool = False, more: Mapping[str, float] = {}
) -> Comparison:
    rng = np.random.default_rng(1)
    effects, runs = {**EFFECTS, **more}, []
    for group in groups:
        for variant, effect in effects.items():
            for seed in range(5):
                if variant == "broken":
                    runs.append(Run(group, variant, seed, reason=REASON))
                    continue
                reached = float(0.9 + effect + rng.normal(0, 0.001))
                measured = {"test/accuracy": reached, "val/loss": 0.3, "seconds_per_epoch": 2.0}
                measured |= {"train_accuracy": reached + 0.02, "peak_memory": 1e9}
                curves = {"val/accuracy": [reached - 0.1, reached]}
                runs.append(Run(group, variant, seed, measured, curves, "a good fit"))
    configs = {f"{g}/{v}": f"model: {v}<i>\n" for g in groups for v in effects}
    return Comparison("trial", list(groups), list(effects), chain, list(range(5)), configs, 5, runs)


def test_sentences_say_what_helped_what_hurt_and_what_did_not() -> None:
    of = made()
    better, worse, equivalent, failed = summary(of, rows(of))
    assert re.fullmatch(r"Better than base, in .*, 1 of 3: good \+[23]\.\d\d\.", better)
    assert re.fullmatch(r"Worse than base, in .*, 1 of 3: bad −[23]\.\d\d\.", worse)
    assert re.fullmatch(
        r"Equivalent to base within 0\.3 points, 1 of 3: same [+−]0\.\d\d\.", equivalent
    )
    assert failed == "Failed: broken."
    of.margin = 0.0001
    assert re.fullmatch(
        r"Undecided, 1 of 3; a difference of 0\.\d\d points would probably have been shown: "
        r"same .*",
        summary(of, rows(of))[2],
    )
    of.variants, of.runs = ["base", "same"], [r for r in of.runs if r.variant in ("base", "same")]
    assert summary(of, rows(of))[:2] == [
        "Nothing was shown to be better than base.",
        "Nothing was shown to be worse than base.",
    ]


def test_sentences_of_a_chain_are_about_its_steps_too() -> None:
    of = made(chain=True)
    steps = summary(of, rows(of))[-2:]
    unit = "in percentage points of test accuracy"
    assert re.fullmatch(
        rf"Better than the variant before, {unit}, 2 of 3 steps: same .*, good .*", steps[0]
    )
    assert re.fullmatch(
        rf"Worse than the variant before, {unit}, 1 of 3 steps: bad −[56]\..*", steps[1]
    )


def test_too_few_seeds_rank_without_a_verdict() -> None:
    of = made()
    of.runs = [r for r in of.runs if r.seed < 3]
    ranked, *_ = summary(of, rows(of))
    assert re.fullmatch(
        r"Too few seeds for a verdict, 3 of 3: n = 3, and 4 seeds would be the least for so many\. "
        r"Ranked only: good \+.*, same .*, bad −.*\.",
        ranked,
    )
    assert not any("Better" in line or "shown" in line for line in summary(of, rows(of)))


def test_what_was_run_on_several_machines_is_said() -> None:
    of = made()
    for r in of.runs:
        r.machine = "A" if r.variant == "good" and r.seed == 2 else "B"
    assert summary(of, rows(of))[-1] == (
        "Seed 2 was run on several kinds of machines, whose results differ in the last digits: "
        "A; B."
    )


def test_files(tmp_path: Path) -> None:
    of = made(("x", "y"))
    write_report(of, tmp_path / "r", FACTS)
    assert not list(tmp_path.rglob("*.partial"))
    assert {path.name for path in (tmp_path / "r" / "figures").iterdir()} == {
        *("forest.png", "cost.png", "learning_curves.png"),
    }
    with open(tmp_path / "r" / "results.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 10
    good = records[1]
    row = rows(of)[1]
    assert row.difference is not None
    assert float(good["test_accuracy"]) == row.mean  # unrounded
    assert float(good["difference_low"]) == row.difference.low
    assert [float(good[f"test_accuracy_seed_{s}"]) for s in range(5)] == list(
        row.accuracies.values()
    )
    assert (records[4]["reasons"], records[4]["failed"]) == (REASON, "5")
    assert records[0]["difference_mean"] == ""
    with open(tmp_path / "r" / "runs.csv", newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 50
    assert float(runs[0]["test/accuracy"]) == of.runs[0].measured["test/accuracy"]
    lines = (tmp_path / "r" / "results.md").read_text().splitlines()
    assert lines[0].startswith(
        "**trial**: 5 epochs per run; seeds 0, 1, 2, 3, 4 (n = 5); 50 runs, 10 failed"
    )
    assert lines[0].endswith("machine: 2 cores <b>.")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 12
    assert {line.replace(r"\|", "").count("|") for line in table} == {table[0].count("|")}


def test_figures_of_an_earlier_report_go(tmp_path: Path) -> None:
    write_report(made(chain=True), tmp_path, {})
    assert (tmp_path / "figures" / "waterfall.png").is_file()
    write_report(Comparison("trial", [""], ["base"], False, [0], {}, 1, []), tmp_path, {})
    assert list((tmp_path / "figures").iterdir()) == []


def test_nothing_finished(tmp_path: Path) -> None:
    empty = Comparison("trial", [""], ["base"], False, [0], {}, 1, [])
    write_report(empty, tmp_path, FACTS)
    assert "Comparison: trial" in (tmp_path / "report.html").read_text()
    assert telling_rows(empty).count("\n") == 2
    results_table(empty)


def test_terminal() -> None:
    file = io.StringIO()
    Console(file=file, width=120).print(results_table(made()))
    text = file.getvalue()
    assert "equivalent" in text
    assert f"broken, seed 0 failed: {REASON}" in text
    assert len(max(text.splitlines(), key=len)) <= 120


def test_telling_rows_are_both_ends_and_the_clearest_nulls() -> None:
    helped = {f"h{i}": 0.02 + i / 500 for i in range(6)}
    hurt = {f"w{i}": -0.02 - i / 500 for i in range(6)}
    of = made(more={**helped, **hurt, "n1": 0.0, "n2": 0.0, "n3": 0.0})

    def names(n: int) -> list[str]:
        lines = telling_rows(of, n).splitlines()[2:]
        return [line.split(" | ")[0].strip("| ") for line in lines]

    found = names(10)
    assert found[0] == "base"
    assert len(found) == 11
    assert sum(name[0] in "hg" for name in found) == 4
    assert sum(name[0] in "wb" for name in found[1:]) == 4
    assert sum(name[0] in "ns" for name in found) == 2
    assert len(names(100)) == 1 + 7 + 7 + 4
    few = telling_rows(made(("x", "y")), 10)
    assert few.count("| base | base |") == 2
    assert few.splitlines()[0].startswith("| group | variant |")


# The page.


def test_page_is_escaped_and_loads_nothing(tmp_path: Path) -> None:
    write_report(made(), tmp_path, FACTS)
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "2 cores &lt;b&gt;" in text
    assert "model: good&lt;i&gt;" in text
    assert "<summary>good</summary>" in text
    assert not re.search(r"https?:|url\(|//cdn", text)
    assert all(
        source.startswith("data:image/png;base64,") for source in re.findall('src="(.*?)"', text)
    )
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[0]
    assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.fixture(scope="module")
def dom(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report in a browser, after opening it with ``#<fragment>``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium in PATH: apt-get install chromium")
    folder = tmp_path_factory.mktemp("report")
    write_report(made(), folder, FACTS)
    page = folder / "report.html"
    # The natural sizes, which only a browser knows, in the title, which --dump-dom shows; and what
    # the page asked the network for.
    asked = """<script>addEventListener("load", () => document.title = JSON.stringify([
      [...document.images].map(i => i.naturalWidth * i.naturalHeight),
      performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length
    ]))</script>"""
    page.write_text(page.read_text().replace("</body>", asked + "</body>"))

    def opened(fragment: str) -> str:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        command += ["--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
        command += ["--virtual-time-budget=20000", "--dump-dom", f"{page.as_uri()}#{fragment}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    return opened


@pytest.mark.browser
def test_page_in_a_browser(dom: Any) -> None:
    text = dom("sort=results:-4")
    body = re.findall(r'id="results".*?</table>', text, re.DOTALL)[0]
    names = re.findall(r"<tr><td[^>]*>(\w+)<", body)
    assert names[0] == "good"
    assert names[1:3] == ["same", "bad"]
    assert set(names[3:]) == {"base", "broken"}  # without a difference: last
    [title] = re.findall("<title>(.*?)</title>", text)
    sizes, requests = re.findall(r"\[\[([\d,]+)\],(\d+)\]", title)[0]
    assert len(sizes.split(",")) == 3
    assert all(int(size) > 900 * 200 for size in sizes.split(","))
    assert requests == "0"
