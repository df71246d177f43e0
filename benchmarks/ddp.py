"""What two processes cost on the same cores: DDP with one thread each, one process with two.

    python -m benchmarks.ddp

Both train ``configs/optimized_cnn.yaml`` in batches of 256 images over all processes, and take
turns; the speed is that of ``summary.json``, over all processes.
Prints a Markdown table and writes it to ``results/benchmarks/ddp.{md,json}``.
"""

import argparse
import os
import statistics
from pathlib import Path

from benchmarks import recipes
from benchmarks.recipes import ROOT, median_range, save, shown_command

CONFIG = ROOT / "configs" / "optimized_cnn.yaml"
BATCH = 256
CONTESTANTS = {"one process": 1, "two DDP processes": 2}


def speed(processes: int, root: str, steps: int) -> float:
    """Images per second of two epochs."""
    arguments = [
        f"--data.root={root}",
        f"--data.batch_size={BATCH // processes}",
        "--trainer.accelerator=cpu",
        f"--trainer.devices={processes}",
        f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}",
        "--trainer.max_epochs=2",
        f"--trainer.limit_train_batches={steps}",
        "--trainer.limit_val_batches=1",
        "--trainer.enable_progress_bar=false",
        "--test_best=false",
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    summary = recipes.run([CONFIG], 0, arguments, {"OMP_NUM_THREADS": str(threads)})
    return summary["images_per_second"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5, help="of each")
    parser.add_argument("--steps", type=int, default=60, help="per epoch")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    speeds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.turns):
        for name, processes in CONTESTANTS.items():
            speeds[name].append(speed(processes, options.root, options.steps))
    one, two = (statistics.median(each) for each in speeds.values())
    lines = ["| | images/s, median (range) |", "|---|---|"]
    lines += [f"| {name} | {median_range(each, ',.0f')} |" for name, each in speeds.items()]
    lines += ["", f"Two processes over one: {two / one:.2f}."]
    save(
        options.results / "ddp",
        shown_command("benchmarks.ddp", arguments),
        f"n = {options.turns} commands of each, taking turns",
        "\n".join(lines),
        images_per_second=speeds,
    )


if __name__ == "__main__":
    main()
