"""How the cost of a training step grows: batch size, width, depth, size of the training set.

    python -m benchmarks.scaling

Steps of the bare loop (``benchmarks/contestants.py``) with our short recipe's network on images of
FashionMNIST, in bfloat16; the settings take turns. Gathering a batch counts, which matters for the
training set, tiled up to 20 times; shuffling, once an epoch, does not. "Stops" is the first setting
from which on nothing is gained: a larger batch brings less than 5% more images a second, a wider or
deeper network takes in proportion to its operations (within 5%), a larger set slows each step by
more than 5%.
Prints Markdown tables and writes them to ``results/benchmarks/scaling.{md,json}``, with a figure.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.recipes import ROOT, median_range, save, shown_command
from benchmarks.step import bfloat16_step, flops, seconds
from datamodules import FashionMNISTDataModule
from datamodules.image_dataset import ImageDataset
from foundation.workarounds.glibc_malloc import keep_freed_memory
from lightning_modules import MinMaxScaling, OptimizedCNN
from studies.report.canvas import BLUE, canvas, plain

SETTINGS: dict[str, tuple[int, ...]] = {
    "batch size": (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    "width": (8, 16, 32, 64, 128, 256),
    "depth": (1, 2, 3, 4),
    "training set, times": (1, 2, 5, 10, 20),
}
USUAL = {"batch size": 128, "width": 32, "depth": 2, "training set, times": 1}


class Work:
    """Training steps in one setting.

    Args:
        data: FashionMNIST, set up.
        setting: a value for each of ``SETTINGS``.
    """

    def __init__(self, data: FashionMNISTDataModule, setting: dict[str, int]) -> None:
        train = data.train_set
        assert train is not None
        self.batch, times = setting["batch size"], setting["training set, times"]
        self.module = FashionMNISTDataModule(str(data.root), batch_size=self.batch)
        self.module.train_set = ImageDataset(
            train.images.repeat(times, 1, 1, 1), train.labels.repeat(times)
        )
        scaling = MinMaxScaling()
        scaling.fit(train.images)
        model: Any = OptimizedCNN(
            num_classes=10,
            image_shape=(1, 28, 28),
            width=setting["width"],
            depth=setting["depth"],
            order="pool-norm-activation",
            norm_hidden=True,
            hidden_size=256,
            dropout=0.2,
            preprocessing=scaling,
            channels_last=True,
        )
        model = model.to(memory_format=torch.channels_last)
        self.train = bfloat16_step(model, torch.optim.Adam(model.parameters(), lr=0.001))
        self.batches = self._endless()
        self.flops = flops(self.step) / self.batch

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.module.train_dataloader()

    def step(self) -> None:
        self.train(next(self.batches))

    def speed(self, images: int) -> float:
        """Images per second."""
        return self.batch / seconds(self.step, max(2, images // self.batch))


def stops(name: str, values: list[int], speeds: list[float], work: list[float]) -> int | None:
    """The setting from which on nothing is gained, or cost grows; None where that never comes."""
    rates = [speed * flop for speed, flop in zip(speeds, work, strict=True)]
    for i, value in enumerate(values[:-1]):
        ended = {
            "batch size": max(speeds[i + 1 :]) < 1.05 * speeds[i],
            "training set, times": speeds[i + 1] < 0.95 * speeds[0],
        }.get(name, max(rates[i + 1 :]) < 1.05 * rates[i])
        if ended:
            return value
    return None


def draw(speeds: dict[str, dict[int, list[float]]]) -> Figure:
    """The median speed by each setting, from 0 upwards."""
    figure = canvas("Images per second by what varies", 6.5)
    for (name, by_value), axes in zip(speeds.items(), figure.subplots(2, 2).flat, strict=True):
        places = range(len(by_value))
        axes.plot(places, list(map(statistics.median, by_value.values())), marker="o", color=BLUE)
        axes.set_xticks(places, list(map(str, by_value)))
        axes.set(xlabel=name, ylabel="images/s", ylim=(0, None))
        plain(axes)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5, help="of each setting")
    parser.add_argument("--images", type=int, default=4096, help="per turn")
    parser.add_argument("--most", type=int, help="leave out larger values; for a short run")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.manual_seed(0)
    data = FashionMNISTDataModule(options.root)
    data.setup("fit")
    lines: list[str] = []
    report: dict[str, Any] = {}
    for name in SETTINGS:
        values = [v for v in SETTINGS[name] if options.most is None or v <= options.most]
        speeds: dict[int, list[float]] = {value: [] for value in values}
        work: dict[int, float] = {}
        for _ in range(options.turns):
            for value in values:
                setting = Work(data, {**USUAL, name: value})
                work[value] = setting.flops
                speeds[value].append(setting.speed(options.images))
        middle = [statistics.median(speeds[value]) for value in values]
        end = stops(name, values, middle, list(work.values()))
        lines += [
            f"| {name} | images/s, median (range) | µs per image | MFLOP per image | GFLOP/s |",
            "|---|---|---|---|---|",
            *(
                f"| {value} | {median_range(speeds[value], ',.0f')} | {1e6 / speed:.0f} | "
                f"{work[value] / 1e6:.1f} | {work[value] * speed / 1e9:.0f} |"
                for value, speed in zip(values, middle, strict=True)
            ),
            "",
            f"Stops at {end}." if end is not None else "Does not stop in this range.",
            "",
        ]
        report[name] = {"images_per_second": speeds, "flops_per_image": work, "stops": end}
    save(
        options.results / "scaling",
        shown_command("benchmarks.scaling", arguments),
        f"n = {options.turns} turns of each setting",
        "\n".join(lines).rstrip(),
        **report,
    )
    figure = draw({name: report[name]["images_per_second"] for name in SETTINGS})
    figure.savefig(options.results / "scaling.png", dpi=100)


if __name__ == "__main__":
    main()
