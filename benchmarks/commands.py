"""Time and memory of whole commands, from the start of the process to its end.

    python -m benchmarks.commands

The commands take turns; ``make fit``, the longest, runs in the first ``--fits`` turns only. Memory
is the most that the process had resident, as the system counts it.
Prints a Markdown table and writes it to ``results/benchmarks/commands.{md,json}``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recipes import ROOT, median_range, save, shown_command

IMPORT, HELP, MLP, FIT = (
    "import lightning.pytorch.cli",
    "train.py fit --help",
    "one epoch of the MLP on MNIST",
    "make fit",
)


def commands(root: str, runs: str, short: Sequence[str]) -> dict[str, list[str]]:
    """Each command by its name; ``short`` goes to the trainings."""
    fit = [sys.executable, "train.py", "fit"]
    data = [f"--data.root={root}", f"--runs_dir={runs}", *short]
    return {
        # Beside this processor's torch, torchvision needs foundation to be imported at all.
        IMPORT: [sys.executable, "-c", "import foundation, lightning.pytorch.cli"],
        HELP: [*fit, "--help"],
        MLP: [
            *fit,
            "--config=configs/mlp.yaml",
            "--config=configs/data/mnist.yaml",
            "--trainer.max_epochs=1",
            *data,
        ],
        FIT: [*fit, "--config=configs/optimized_cnn.yaml", *data],
    }


def measure(command: Sequence[str]) -> dict[str, float]:
    """Seconds, and the peak of resident memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"seconds": seconds, "MB": usage.ru_maxrss * 1024 / 1e6}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Medians and ranges, and what ``--help`` takes over the import alone, as Markdown."""
    lines = [
        "| command | seconds, median (range) | peak memory, MB | n |",
        "|---|---|---|---|",
    ]
    for name, turns in found.items():
        seconds = median_range([turn["seconds"] for turn in turns], ".2f")
        memory = median_range([turn["MB"] for turn in turns], ".0f")
        lines.append(f"| {name} | {seconds} | {memory} | {len(turns)} |")
    help_, import_ = (
        statistics.median(turn["seconds"] for turn in found[name]) for name in (HELP, IMPORT)
    )
    return "\n".join([*lines, "", f"`--help` over the import alone: {help_ / import_:.2f}."])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5, help="of each command")
    parser.add_argument("--fits", type=int, default=2, help="of make fit")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options, short = parser.parse_known_args(arguments)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as runs:
        for turn in range(options.turns):
            for name, command in commands(options.root, runs, short).items():
                if name != FIT or turn < options.fits:
                    found.setdefault(name, []).append(measure(command))
                    print(f"{name}: {found[name][-1]['seconds']:.2f} s", flush=True)
    shown = shown_command("benchmarks.commands", arguments)
    save(options.results / "commands", shown, "taking turns", table(found), turns=found)


if __name__ == "__main__":
    main()
