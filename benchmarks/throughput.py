"""How fast a training is: the tutorial's loop, plain Lightning, train.py, the bare loop.

    python -m benchmarks.throughput --network cnn
    python -m benchmarks.throughput --network mlp --images 53760

The CNN is the tutorial's optimized network on FashionMNIST, the MLP is ``configs/mnist/mlp.yaml``
on MNIST. See ``benchmarks/contestants.py``. Every turn is a process of its own; the contestants
take turns. Prints a Markdown table and writes it to
``results/benchmarks/throughput_<network>.{md,json}``.
"""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from benchmarks import contestants
from benchmarks.contestants import plain_lightning
from benchmarks.recipes import ROOT, median_range, save, shown_command, take_turns
from train import quiet

_plain_mlp = partial(plain_lightning, network=contestants.tutorial_mlp, data_set=MNIST)
CONTESTANTS: dict[str, dict[str, Callable[[str, int], float]]] = {
    "cnn": {
        "the tutorial's loop": contestants.tutorial_loop,
        "plain Lightning": plain_lightning,
        "plain Lightning, 2 workers": partial(plain_lightning, num_workers=2),
        "train.py": contestants.our_cnn,
        "bare loop": contestants.bare_loop,
    },
    "mlp": {
        "plain Lightning": _plain_mlp,
        "plain Lightning, 2 workers": partial(_plain_mlp, num_workers=2),
        "train.py": contestants.our_mlp,
        "train.py, batches of 512": partial(contestants.our_mlp, batch_size=512),
    },
}


def table(speeds: dict[str, list[float]]) -> str:
    """Medians and ranges, and the ratio of each to the first contestant, as Markdown."""
    middle = {name: statistics.median(each) for name, each in speeds.items()}
    first = next(iter(middle.values()))
    lines = ["| | images/s, median (range) | ratio |", "|---|---|---|"]
    for name, each in speeds.items():
        lines.append(f"| {name} | {median_range(each, ',.0f')} | {middle[name] / first:.2f} |")
    if "bare loop" in middle:
        over = middle["bare loop"] / middle["train.py"] - 1
        lines += ["", f"A step of train.py takes {over:+.1%} beside one of the bare loop."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", choices=CONTESTANTS, default="cnn")
    parser.add_argument("--turns", type=int, default=5, help="of each contestant")
    parser.add_argument("--images", type=int, default=12_800, help="per turn, after the warm-up")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.images % 512:
        parser.error(f"--images is {options.images}; expected a multiple of 512, whole batches")
    among = CONTESTANTS[options.network]
    if options.one:
        quiet()
        torch.manual_seed(0)
        seconds = among[options.one](options.root, options.images)
        print(json.dumps(options.images / seconds))
        return
    given = (f"--network={options.network}", f"--images={options.images}", f"--root={options.root}")
    speeds = take_turns("benchmarks.throughput", among, options.turns, *given)
    save(
        options.results / f"throughput_{options.network}",
        shown_command("benchmarks.throughput", arguments),
        f"n = {options.turns} processes of each, taking turns",
        table(speeds),
        images_per_second=speeds,
    )


if __name__ == "__main__":
    main()
