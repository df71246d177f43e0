"""Time to the tutorial's final test accuracy: its own loop, and ``configs/speedrun.yaml``.

    python -m benchmarks.time_to_accuracy --seeds 5

The tutorial's loop trains its ten epochs as in ``benchmarks/contestants.py``; what it reaches is
the target. Ours is the whole command ``train.py fit --config configs/speedrun.yaml``. Each run is a
process of its own, and they take turns. Training seconds are those of the loop, or of ``fit`` with
its validation, checkpoints and logging. A whole process is imports, reading the data, fitting the
first layer, training, and one test; of the tutorial's tests after each epoch only the last counts.
Prints a Markdown table and writes it to ``results/benchmarks/time_to_accuracy.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import recipes
from benchmarks.contestants import tutorial_run
from benchmarks.recipes import ROOT, mean_spread, one_turn, save, shown_command

CLOCKS = ("seconds", "wall_seconds")
SPEEDRUN = ROOT / "configs" / "speedrun.yaml"


def tutorial(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run of the tutorial's loop in a process of its own."""
    given = [f"--root={options.root}", f"--epochs={options.epochs}"]
    if options.images is not None:
        given.append(f"--images={options.images}")
    began = time.perf_counter()
    found = one_turn("benchmarks.time_to_accuracy", str(seed), *given)
    wall = time.perf_counter() - began
    return {"seed": seed, "wall_seconds": wall - sum(found["test_seconds"][:-1]), **found}


def table(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation of each, the ratios, and the tutorial's way epoch by epoch."""
    rows = (
        ("the tutorial's loop", theirs, [run["accuracy"][-1] for run in theirs]),
        ("configs/speedrun.yaml", ours, [run["test"]["test/accuracy"] for run in ours]),
    )
    lines = [
        "| | test accuracy | training, seconds | whole process, seconds |",
        "|---|---|---|---|",
    ]
    for name, runs, accuracy in rows:
        cells = [mean_spread([run[key] for run in runs], ".1f") for key in CLOCKS]
        lines.append(f"| {name} | {mean_spread(accuracy, '.4f')} | {' | '.join(cells)} |")
    ratios = [
        f"{statistics.fmean(r[key] for r in theirs) / statistics.fmean(r[key] for r in ours):.1f}"
        for key in CLOCKS
    ]
    lines.append(f"| ratio of the means | | {ratios[0]} | {ratios[1]} |")
    target = statistics.fmean(rows[0][2])
    above = sum(accuracy >= target for accuracy in rows[1][2])
    lines += ["", f"{above} of {len(ours)} speedruns reached the tutorial's mean, {target:.4f}."]
    lines += ["", "| epoch of the tutorial's loop | test accuracy | seconds |", "|---|---|---|"]
    for epoch in range(len(theirs[0]["accuracy"])):
        accuracy = [run["accuracy"][epoch] for run in theirs]
        seconds = statistics.fmean(run["epoch_seconds"][epoch] for run in theirs)
        lines.append(f"| {epoch + 1} | {mean_spread(accuracy, '.4f')} | {seconds:.1f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0…N-1")
    parser.add_argument("--epochs", type=int, default=10, help="of the tutorial's loop")
    parser.add_argument("--images", type=int, help="of its epochs; all unless given")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options, short = parser.parse_known_args(arguments)
    if options.one is not None:
        torch.manual_seed(options.one)
        print(json.dumps(tutorial_run(options.root, options.epochs, options.images)))
        return
    theirs, ours = [], []
    for seed in range(options.seeds):
        theirs.append(tutorial(options, seed))
        ours.append(recipes.run([SPEEDRUN], seed, [f"--data.root={options.root}", *short]))
        print(
            f"seed {seed}: {theirs[-1]['accuracy'][-1]:.4f} in {theirs[-1]['seconds']:.1f} s, "
            f"{ours[-1]['test']['test/accuracy']:.4f} in {ours[-1]['seconds']:.1f} s",
            flush=True,
        )
    save(
        options.results / "time_to_accuracy",
        shown_command("benchmarks.time_to_accuracy", arguments),
        f"n = {options.seeds} seeds of each, taking turns, mean ± standard deviation",
        table(theirs, ours),
        tutorial=theirs,
        speedrun=ours,
    )


if __name__ == "__main__":
    main()
