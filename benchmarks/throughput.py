"""How fast the tutorial's optimized network trains: its own loop, plain Lightning, train.py.

    python -m benchmarks.throughput

See ``benchmarks/contestants.py``. Every turn is a process of its own; the contestants take turns.
Prints a Markdown table and writes it to ``results/benchmarks/throughput.{md,json}``.
"""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import contestants
from benchmarks.recipes import ROOT, machine, median_range, save, take_turns
from train import quiet

CONTESTANTS: dict[str, Callable[[str, int], float]] = {
    "the tutorial's loop": contestants.tutorial_loop,
    "plain Lightning": contestants.plain_lightning,
    "plain Lightning, 2 workers": functools.partial(contestants.plain_lightning, num_workers=2),
    "train.py": contestants.ours,
    "bare loop": contestants.bare_loop,
}


def table(speeds: dict[str, list[float]]) -> str:
    """Medians and ranges, and the ratio of each to the first contestant, as Markdown."""
    first = statistics.median(next(iter(speeds.values())))
    lines = ["| | images/s, median (range) | ratio |", "|---|---|---|"]
    for name, each in speeds.items():
        ratio = statistics.median(each) / first
        lines.append(f"| {name} | {median_range(each, ',.0f')} | {ratio:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5, help="of each contestant")
    parser.add_argument("--images", type=int, default=12_800, help="per turn, after the warm-up")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        quiet()
        torch.manual_seed(0)
        seconds = CONTESTANTS[options.one](options.root, options.images)
        print(json.dumps(options.images / seconds))
        return
    given = (f"--images={options.images}", f"--root={options.root}")
    speeds = take_turns("benchmarks.throughput", CONTESTANTS, options.turns, *given)
    shown = f"python -m benchmarks.throughput --turns {options.turns} --images {options.images}"
    text = (
        f"`{shown}`, n = {options.turns} processes of each, taking turns, on {machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n\n{table(speeds)}\n"
    )
    report = {"command": shown, "machine": machine(), "images_per_second": speeds}
    save("throughput", text, report, options.results)


if __name__ == "__main__":
    main()
