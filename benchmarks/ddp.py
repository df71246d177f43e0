"""Cost of two processes on the same cores: DDP with half of them each, one process with all.

    python -m benchmarks.ddp

Both train the same configuration and take turns; ``configs/hardware/multi_cpu.yaml`` makes it two
processes. The batch size is that over all processes, and so is the speed, which is that of
``summary.json``. Prints a Markdown table and writes it to ``results/benchmarks/ddp.{md,json}``.
"""

import argparse
import statistics
from pathlib import Path

from benchmarks import recipes
from benchmarks.recipes import ROOT, median_range, save, shown_command

CONFIGS = {
    "tutorial": ["tutorial/optimized_cnn.yaml", "hardware/cpu_bf16.yaml"],
    "configs/optimized_cnn.yaml": ["optimized_cnn.yaml"],
}
BATCHES = (256, 1024)
CONTESTANTS = {"one process": 1, "two DDP processes": 2}
Speeds = dict[str, dict[int, dict[str, list[float]]]]


def speed(network: str, processes: int, batch: int, root: str, images: int) -> float:
    """Images per second of two epochs."""
    overlay = ["hardware/multi_cpu.yaml"] if processes > 1 else []
    arguments = [
        f"--data.root={root}",
        f"--data.batch_size={batch // processes}",
        "--trainer.accelerator=cpu",
        f"--trainer.devices={processes}",
        "--trainer.max_epochs=2",
        f"--trainer.limit_train_batches={images // batch}",
        "--trainer.limit_val_batches=1",
        "--trainer.enable_progress_bar=false",
        "--test_best=false",
    ]
    configs = [ROOT / "configs" / path for path in CONFIGS[network] + overlay]
    return recipes.run(configs, 0, arguments)["images_per_second"]


def table(speeds: Speeds) -> str:
    """Medians and ranges by network and batch size, as Markdown."""
    lines = [
        f"| network | images a step | {' | '.join(CONTESTANTS)} | ratio |",
        "|---|---|---|---|---|",
    ]
    for network, by_batch in speeds.items():
        for batch, by_name in by_batch.items():
            one, two = by_name.values()
            cells = f"{median_range(one, ',.0f')} | {median_range(two, ',.0f')}"
            ratio = statistics.median(two) / statistics.median(one)
            lines.append(f"| {network} | {batch} | {cells} | {ratio:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=3, help="of each")
    parser.add_argument("--images", type=int, default=30_720, help="per epoch")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    speeds: Speeds = {
        network: {batch: {name: [] for name in CONTESTANTS} for batch in BATCHES}
        for network in CONFIGS
    }
    for _ in range(options.turns):
        for network, by_batch in speeds.items():
            for batch, by_name in by_batch.items():
                for name, found in by_name.items():
                    processes = CONTESTANTS[name]
                    found.append(speed(network, processes, batch, options.root, options.images))
    save(
        options.results / "ddp",
        shown_command("benchmarks.ddp", arguments),
        f"n = {options.turns} commands of each, taking turns; images/s, median (range)",
        table(speeds),
        images_per_second=speeds,
    )


if __name__ == "__main__":
    main()
