"""What a configuration reaches and costs: whole ``train.py fit`` commands over several seeds.

    python -m benchmarks.recipes configs/optimized_cnn.yaml --seeds 3

Each run is a process of its own, timed from start to end, one after another. Prints a Markdown
table and writes it, with every run's summary, to ``results/recipes/<configuration>.{md,json}``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from whole_file import write

ROOT = Path(__file__).parent.parent


def machine() -> str:
    """The processor and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return f"{len(os.sched_getaffinity(0))} cores of {name}, Python {platform.python_version()}"


def take_turns(
    module: str, contestants: Iterable[str], turns: int, *options: str
) -> dict[str, list[Any]]:
    """Run ``python -m module --one <contestant>``, one after another, so many times each.

    Returns:
        By contestant what each of its processes printed last, which is JSON.
    """
    command = [sys.executable, "-m", module, *options, "--one"]
    printed: dict[str, list[Any]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, found in printed.items():
            done = subprocess.run([*command, name], cwd=ROOT, check=True, stdout=subprocess.PIPE)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return printed


def shown_command(module: str, arguments: Sequence[str] | None) -> str:
    """What was typed to run a benchmark."""
    return " ".join(["python -m", module, *(sys.argv[1:] if arguments is None else arguments)])


def median_range(values: Sequence[float], form: str) -> str:
    """``12.3 (11.9 to 12.8)``."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def save(name: str, text: str, report: dict[str, Any], folder: Path) -> None:
    """Print a benchmark's table, and write it beside what it was made from."""
    write(folder / f"{name}.md", text)
    write(folder / f"{name}.json", json.dumps(report, indent=2) + "\n")
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
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.fmean(values)
        each = ", ".join(format(value, form) for value in values)
        return f"| {name} | {mean:{form}} ± {spread:{form}} | {each} |"

    return "\n".join(
        [
            f"| n = {len(runs)} | mean ± standard deviation | each seed |",
            "|---|---|---|",
            line("test accuracy", [r["test"]["test/accuracy"] for r in runs], ".4f"),
            line("validation accuracy", [r["best"]["val/accuracy"] for r in runs], ".4f"),
            line("best epoch", [r["best"]["epoch"] for r in runs], ".1f"),
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
    text = f"`{command}` on {machine()}, torch {runs[0]['versions']['torch']}\n\n{table(runs)}\n"
    report = {"command": command, "machine": machine(), "runs": runs}
    save(name, text, report, options.results)


if __name__ == "__main__":
    main()
