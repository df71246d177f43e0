"""Accuracy and cost of a configuration: whole ``train.py fit`` commands over several seeds.

    python -m benchmarks.recipes configs/optimized_cnn.yaml --seeds 3

Each run is a process of its own, timed from start to end, one after another. Prints a Markdown
table and writes it, with every run's summary, to ``results/recipes/<configuration>.{md,json}``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foundation.checkout import ROOT, git_commit
from foundation.machine import machine
from foundation.whole_file import write


def one_turn(module: str, contestant: str, *options: str) -> Any:
    """Run ``python -m module --one=<contestant>`` and read what it prints last, which is JSON."""
    command = [sys.executable, "-m", module, *options, f"--one={contestant}"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(
    module: str, contestants: Iterable[str], turns: int, *options: str
) -> dict[str, list[Any]]:
    """By contestant what its turns print, one after another, so many each."""
    printed: dict[str, list[Any]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, found in printed.items():
            found.append(one_turn(module, name, *options))
    return printed


def shown_command(module: str, arguments: Sequence[str] | None) -> str:
    """The command that runs a benchmark, as typed."""
    return " ".join(["python -m", module, *(sys.argv[1:] if arguments is None else arguments)])


def median_range(values: Sequence[float], form: str) -> str:
    """``12.3 (11.9 to 12.8)``."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def mean_spread(values: Sequence[float], form: str) -> str:
    """``12.3 ± 0.5``, the standard deviation; 0 of a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {spread:{form}}"


def save(
    path: Path, command: str, how: str, table: str, *, where: str | None = None, **found: Any
) -> None:
    """Print a benchmark's table, and write it beside what it was made from.

    Args:
        path: of both files, without their suffixes.
        command: that was typed.
        how: n, and what else one must know to read the table.
        table: Markdown.
        where: the machine; this one unless given.
        found: what the table was made from, for the JSON.
    """
    where = where or machine()
    commit = git_commit() or "unknown"
    text = f"`{command}` on {where}, at {commit}; {how}\n\n{table}\n"
    report = {"command": command, "machine": where, "commit": commit, **found}
    write(path.with_name(f"{path.name}.md"), text)
    write(path.with_name(f"{path.name}.json"), json.dumps(report, indent=2) + "\n")
    print(f"\n{text}")


def run(configs: list[Path], seed: int, arguments: list[str]) -> dict[str, Any]:
    """Fit and test once; the run's summary, and its ``wall_seconds`` from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "fit", *(f"--config={path}" for path in configs)]
        command += ["--seed_everything", str(seed), "--runs_dir", folder, *arguments]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        (summary,) = Path(folder).glob("**/summary.json")
        return {"seed": seed, "wall_seconds": wall, **json.loads(summary.read_text())}


def table(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over the runs, as Markdown."""

    def line(name: str, values: list[float], form: str) -> str:
        each = ", ".join(format(value, form) for value in values)
        return f"| {name} | {mean_spread(values, form)} | {each} |"

    bests = [run["best"] for run in runs if "val/accuracy" in (run["best"] or {})]
    validated = (
        [
            line("validation accuracy", [best["val/accuracy"] for best in bests], ".4f"),
            line("best epoch", [best["epoch"] for best in bests], ".1f"),
        ]
        if bests
        else []  # a recipe may train without validation
    )
    return "\n".join(
        [
            f"| n = {len(runs)} | mean ± standard deviation | each seed |",
            "|---|---|---|",
            line("test accuracy", [r["test"]["test/accuracy"] for r in runs], ".4f"),
            *validated,
            line("training, seconds", [r["seconds"] for r in runs], ".1f"),
            line("whole command, seconds", [r["wall_seconds"] for r in runs], ".1f"),
            line("images per second", [r["images_per_second"] for r in runs], ".0f"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("configs", type=Path, nargs="+", help="composed from left to right")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0…N-1")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "recipes")
    options, arguments = parser.parse_known_args()
    first, *others = options.configs
    parts = first.resolve().relative_to(ROOT / "configs").with_suffix("").parts
    name = "+".join(["_".join(parts), *(path.stem for path in others)])
    runs = []
    for seed in range(options.seeds):
        runs.append(run(options.configs, seed, arguments))
        reached = runs[-1]["test"]["test/accuracy"]
        print(f"seed {seed}: {reached:.4f} in {runs[-1]['wall_seconds']:.1f} s", flush=True)
    command = shown_command("benchmarks.recipes", None)
    save(options.results / name, command, "one after another", table(runs), runs=runs)


if __name__ == "__main__":
    main()
