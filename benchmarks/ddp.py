"""What two processes cost on the same cores: DDP with half of the cores each, one process with all.

    python -m benchmarks.ddp

All train ``configs/optimized_cnn.yaml``, and take turns: one process, two with Lightning's ``ddp``,
two with ``configs/hardware/multi_cpu.yaml``. The batch size is that over all processes, and so is
the speed, which is that of ``summary.json``.
Prints a Markdown table and writes it to ``results/benchmarks/ddp.{md,json}``.
"""

import argparse
import statistics
from pathlib import Path

from benchmarks import recipes
from benchmarks.recipes import ROOT, median_range, save, shown_command

CONFIG = ROOT / "configs" / "optimized_cnn.yaml"
OVERLAY = ROOT / "configs" / "hardware" / "multi_cpu.yaml"
BATCHES = (256, 1024)
# By contestant: how many processes, and what makes them.
CONTESTANTS: dict[str, tuple[int, list[Path], list[str]]] = {
    "one process": (1, [], ["--trainer.accelerator=cpu"]),
    "two, ddp": (
        2,
        [],
        [f"--trainer.{o}" for o in ("accelerator=cpu", "devices=2", "strategy=ddp")],
    ),
    "two, multi_cpu.yaml": (2, [OVERLAY], []),
}


def speed(contestant: str, batch: int, root: str, images: int) -> float:
    """Images per second of two epochs."""
    processes, overlays, options = CONTESTANTS[contestant]
    arguments = [
        f"--data.root={root}",
        f"--data.batch_size={batch // processes}",
        "--trainer.max_epochs=2",
        f"--trainer.limit_train_batches={images // batch}",
        "--trainer.limit_val_batches=1",
        "--trainer.enable_progress_bar=false",
        "--test_best=false",
    ]
    return recipes.run([CONFIG, *overlays], 0, [*options, *arguments])["images_per_second"]


def table(speeds: dict[int, dict[str, list[float]]]) -> str:
    """Medians and ranges by batch size, and ratios to one process, as Markdown."""
    names = [*CONTESTANTS]
    lines = [f"| images a step | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for batch, by_name in speeds.items():
        one = statistics.median(by_name[names[0]])
        cells = [
            f"{median_range(by_name[name], ',.0f')}: {statistics.median(by_name[name]) / one:.2f}"
            for name in names
        ]
        lines.append(f"| {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=3, help="of each")
    parser.add_argument("--images", type=int, default=15_360, help="per epoch")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    speeds: dict[int, dict[str, list[float]]] = {
        batch: {name: [] for name in CONTESTANTS} for batch in BATCHES
    }
    for _ in range(options.turns):
        for batch, by_name in speeds.items():
            for name, found in by_name.items():
                found.append(speed(name, batch, options.root, options.images))
    save(
        options.results / "ddp",
        shown_command("benchmarks.ddp", arguments),
        f"n = {options.turns} commands of each, taking turns; images/s, median (range): ratio to "
        "one process",
        table(speeds),
        images_per_second=speeds,
    )


if __name__ == "__main__":
    main()
