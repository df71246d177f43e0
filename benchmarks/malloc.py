"""What it brings to keep freed memory: training and evaluation with and without, taking turns.

    python -m benchmarks.malloc

See ``glibc_malloc.py``. Each turn is a process of its own, since the switch cannot be undone: the
optimized CNN in bfloat16, channels last, without Lightning.
Prints a Markdown table and writes it to ``results/benchmarks/malloc.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

from benchmarks.recipes import ROOT, median_range, save, shown_command, take_turns
from benchmarks.step import bfloat16_step
from foundation.workarounds.glibc_malloc import keep_freed_memory
from lightning_modules import OptimizedCNN

WORK = (("train", 128), ("train", 256), ("train", 512), ("evaluate", 250), ("evaluate", 1000))
CONTESTANTS = ("glibc's way", "kept")


def turn(kept: bool, images: int) -> dict[str, dict[str, float]]:
    """Images per second and page faults per image of each work, in this process."""
    if kept and not keep_freed_memory():
        raise SystemExit(
            "benchmarks.malloc: error: this C library is not glibc: nothing to compare"
        )
    torch.manual_seed(0)
    model = OptimizedCNN(num_classes=10, image_shape=(1, 28, 28)).to(
        memory_format=torch.channels_last
    )
    train = bfloat16_step(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    data = torch.rand(images, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (images,))
    found = {}
    for name, batch in WORK:
        model.train(name == "train")
        for measured in (False, True):  # the first pass warms up
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            began = time.perf_counter()
            for part in zip(data.split(batch), labels.split(batch), strict=True):
                if name == "train":
                    train(part)
                    continue
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                    model(part[0])
            if measured:
                seconds = time.perf_counter() - began
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
                found[f"{name} {batch}"] = {"speed": images / seconds, "faults": faults / images}
    found["peak"] = {"MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
    return found


def table(turns: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Medians and ranges, as Markdown."""
    lines = [
        "| batches of | images/s, glibc's way | images/s, kept | ratio | page faults per image |",
        "|---|---|---|---|---|",
    ]
    for name, batch in WORK:
        key, cells, medians = f"{name} {batch}", [], []
        for contestant in CONTESTANTS:
            speeds = [found[key]["speed"] for found in turns[contestant]]
            medians.append(statistics.median(speeds))
            cells.append(median_range(speeds, ",.0f"))
        faults = " → ".join(
            f"{statistics.median(found[key]['faults'] for found in turns[contestant]):.1f}"
            for contestant in CONTESTANTS
        )
        ratio = f"{medians[1] / medians[0]:.2f}"
        lines.append(f"| {batch}, {name} | {' | '.join(cells)} | {ratio} | {faults} |")
    peaks = (
        f"{contestant} {statistics.median(found['peak']['MB'] for found in turns[contestant]):.0f}"
        for contestant in CONTESTANTS
    )
    return "\n".join([*lines, "", f"Peak memory of the process, MB: {', '.join(peaks)}."])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5, help="of each contestant")
    parser.add_argument("--images", type=int, default=10_000, help="per measurement")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(turn(options.one == "kept", options.images)))
        return
    images = f"--images={options.images}"
    turns = take_turns("benchmarks.malloc", CONTESTANTS, options.turns, images)
    save(
        options.results / "malloc",
        shown_command("benchmarks.malloc", arguments),
        f"n = {options.turns} processes of each, taking turns, median (range)",
        table(turns),
        turns=turns,
    )


if __name__ == "__main__":
    main()
