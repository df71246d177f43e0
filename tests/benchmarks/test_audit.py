"""The audit finds what was tampered with, and nothing in what a comparison wrote."""

import csv
import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import audit
from studies.compare.comparison_definition import ComparisonDefinition
from studies.compare.comparison_report import write_report
from studies.compare.comparison_runner import of_runs
from studies.compare.comparison_table import Run

NAMES = ["base", "good", "bad", "same", "copy", "as base", "few", "broken"]


def made(rng: np.random.Generator, groups: list[str], commit: str, *, chain: bool) -> list[Run]:
    """Six seeds and three more of the base; copies, missing seeds and failed runs among them."""
    runs: list[Run] = []
    for group in groups:
        for name in NAMES:
            for seed in range(9 if name == "base" else 3 if name == "few" else 6):
                if name in ("copy", "as base"):
                    of = "good" if name == "copy" else "base"
                    twin = next(
                        r for r in runs if (r.group, r.variant, r.seed) == (group, of, seed)
                    )
                    runs.append(Run(group, name, seed, twin.measured, right=twin.right))
                elif name == "broken":
                    runs.append(Run(group, name, seed, reason="ValueError: no"))
                else:
                    shift = {"good": 0.05, "bad": -0.06}.get(name, 0.0)
                    right = rng.random(400) < 0.85 + shift
                    measured = {"test/accuracy": float(right.mean()), "test/loss": rng.random()}
                    runs.append(Run(group, name, seed, measured, right=right))
    for run in runs:
        run.commit, run.machine = commit, "one"
    return runs


@pytest.fixture(scope="module")
def commit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=audit.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, whole: Path) -> Path:
    """A tree to tamper with."""
    return Path(shutil.copytree(whole, tmp_path / "tree", symlinks=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, commit: str) -> Path:
    """A checkout's pages and results, with two comparisons in them."""
    root = tmp_path_factory.mktemp("audit") / "tree"
    subprocess.run(["git", "clone", "-q", str(audit.ROOT), str(root)], check=True)
    shutil.rmtree(root / "results" / "compare", ignore_errors=True)
    for page in ("README.md", "docs/comparisons.md"):
        (root / page).write_text("# Page\n")
    rng = np.random.default_rng(0)
    for name, groups, chain in (("one", [""], False), ("two", ["x", "y"], True)):
        definition = ComparisonDefinition(
            name,
            [],
            chain,
            list(range(6)),
            keep_checkpoints=False,
            groups=groups,
            variants=NAMES,
            configs={},
            margin=0.02,
            families={"few": ["good", "few"]},
        )
        folder = root / "results" / "compare" / name
        write_report(of_runs(definition, made(rng, groups, commit, chain=chain)), folder, {})
        (folder / "comparison.yaml").write_text(yaml.safe_dump(asdict(definition)))
    return root


def faults(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        audit.main(["--root", str(root)])
    assert ended.value.code == 1
    return capsys.readouterr().err.splitlines()


def test_what_a_comparison_wrote_is_what_the_audit_finds(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.main(["--root", str(tree)])
    out, error = capsys.readouterr()
    assert error == ""
    assert out.splitlines()[-1].endswith("values and statements checked, 0 differ")
    assert "older results that name no clean commit" in out


def changed(path: Path, row: int, **values: str) -> None:
    records = list(csv.DictReader(io.StringIO(path.read_text())))
    records[row] |= values
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    path.write_text(text.getvalue())


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an accuracy": (
        lambda one: changed(one / "runs.csv", 10, **{"test/accuracy": "0.5"}),
        "results/compare/one/results.csv: ('', 'good'): difference_mean",
    ),
    "a verdict": (
        lambda one: changed(one / "results.csv", 3, difference_verdict="better"),
        "results/compare/one/results.csv: ('', 'same'): difference_verdict: 'better' is written",
    ),
    "a page's row": (
        lambda one: (one / "results.md").write_text(
            (one / "results.md").read_text().replace("| worse |", "| equivalent |")
        ),
        "results/compare/one/results.md: ('', 'bad'): no row with worse",
    ),
    "a dirty commit": (
        lambda one: changed(one / "runs.csv", 0, commit="0" * 40 + "+"),
        "results/compare/one/runs.csv: its commit is " + "0" * 40 + "+; expected a clean one",
    ),
    "a commit from elsewhere": (
        lambda one: changed(one / "runs.csv", 0, commit="1" * 40),
        f"its commit {'1' * 40} is not in this repository's history",
    ),
    "an accuracy in README": (
        lambda one: (one.parents[2] / "README.md").write_text("It reaches 0.9876 ± 0.0001.\n"),
        "README.md:1: 0.9876 ± 0.0001 is in no result",
    ),
    "a quoted sentence": (
        lambda one: (one.parents[2] / "docs" / "comparisons.md").write_text("> All is better.\n"),
        "docs/comparisons.md: quoted, but in no result: All is better.",
    ),
    "a recipe's header": (
        lambda one: (one.parents[2] / "configs" / "mlp.yaml").write_text(
            (audit.ROOT / "configs" / "mlp.yaml")
            .read_text()
            .replace("over 3 seeds", "over 9 seeds")
        ),
        "configs/mlp.yaml: accuracy and seeds",
    ),
    "a result without a commit": (
        lambda one: (one.parents[1] / "benchmarks" / "new.json").write_text("{}"),
        "results/benchmarks/new.json: its commit is not named; expected a clean one",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_named(
    what: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, message = TAMPERED[what]
    tamper(tree / "results" / "compare" / "one")
    assert any(message in fault for fault in faults(tree, capsys))
