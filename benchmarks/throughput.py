"""Speed of training: the tutorial's loop, plain Lightning, train.py, the bare loop.

    python -m benchmarks.throughput --network cnn
    python -m benchmarks.throughput --network mlp --images 53760

The CNN is the tutorial's optimized network on FashionMNIST, the MLP is ``configs/mlp.yaml`` on
MNIST; ours have Adam in one kernel (``fused``). See ``benchmarks/contestants.py``. Every turn is
a process of its own; the contestants take turns. The first two batches have a column of their own:
there, kernels are compiled. Without a C++ compiler that contestant is left out.
Prints a Markdown table and writes it to ``results/benchmarks/throughput_<network>.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from benchmarks import contestants
from benchmarks.contestants import Timed, plain_lightning
from benchmarks.recipes import ROOT, median_range, save, shown_command, take_turns
from experiment.main import quiet
from lightning_modules.image_classifier import cpp_compiler

_plain_mlp = partial(plain_lightning, network=contestants.tutorial_mlp, data_set=MNIST)
CONTESTANTS: dict[str, dict[str, Callable[[str, int], Timed]]] = {
    "cnn": {
        "the tutorial's loop": contestants.tutorial_loop,
        "plain Lightning": plain_lightning,
        "plain Lightning, 2 workers": partial(plain_lightning, num_workers=2),
        "train.py": contestants.our_cnn,
        "train.py, compiled": partial(contestants.our_cnn, compiled=True),
        "bare loop": contestants.bare_loop,
    },
    "mlp": {
        "plain Lightning": _plain_mlp,
        "plain Lightning, 2 workers": partial(_plain_mlp, num_workers=2),
        "train.py": contestants.our_mlp,
        "train.py, batches of 512": partial(contestants.our_mlp, batch_size=512),
    },
}


def table(speeds: dict[str, list[float]], warm_ups: dict[str, list[float]]) -> str:
    """Medians and ranges, and the ratio of each to the first contestant, as Markdown."""
    middle = {name: statistics.median(each) for name, each in speeds.items()}
    first = next(iter(middle.values()))
    lines = ["| | images/s, median (range) | ratio | first two batches, s |", "|---|---|---|---|"]
    for name, each in speeds.items():
        lines.append(
            f"| {name} | {median_range(each, ',.0f')} | {middle[name] / first:.2f} | "
            f"{median_range(warm_ups[name], '.1f')} |"
        )
    if "bare loop" in middle:
        over = middle["bare loop"] / middle["train.py"] - 1
        lines += ["", f"A step of train.py takes {over:+.1%} beside one of the bare loop."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", choices=CONTESTANTS, default="cnn")
    parser.add_argument("--contestants", nargs="+", help="some of them; all unless given")
    parser.add_argument("--turns", type=int, default=5, help="of each contestant")
    parser.add_argument("--images", type=int, default=25_600, help="per turn, after the warm-up")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.images % 512:
        parser.error(f"--images is {options.images}; expected a multiple of 512, whole batches")
    among = CONTESTANTS[options.network]
    if unknown := set(options.contestants or ()) - set(among):
        parser.error(f"--contestants has {sorted(unknown)}; expected some of {list(among)}")
    if options.contestants:
        among = {name: among[name] for name in options.contestants}
    if not shutil.which(cpp_compiler()):
        among = {name: train for name, train in among.items() if "compiled" not in name}
    if options.one:
        quiet()
        torch.manual_seed(0)
        print(json.dumps(among[options.one](options.root, options.images)))
        return
    given = (f"--network={options.network}", f"--images={options.images}", f"--root={options.root}")
    turns = take_turns("benchmarks.throughput", among, options.turns, *given)
    speeds = {n: [options.images / took for _, took in each] for n, each in turns.items()}
    warm_ups = {name: [warm_up for warm_up, _ in each] for name, each in turns.items()}
    save(
        options.results / f"throughput_{options.network}",
        shown_command("benchmarks.throughput", arguments),
        f"n = {options.turns} processes of each, taking turns",
        table(speeds, warm_ups),
        images_per_second=speeds,
        warm_up_seconds=warm_ups,
    )


if __name__ == "__main__":
    main()
