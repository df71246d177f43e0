"""Where a training step's time goes: its share of the machine's peak, and what takes the rest.

    python -m benchmarks.step

The peak is the median rate of a large bfloat16 matrix product. A step is forward, backward and Adam
on a batch of random images, without a loader; its floating-point operations are those that torch's
counter sees: convolutions and matrix products, forward and backward. The profile is torch's own,
by operator; it slows the step somewhat, so that it gives shares, not seconds.
Prints Markdown tables and writes them to ``results/benchmarks/step.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.recipes import ROOT, median_range, save, shown_command
from foundation.workarounds.glibc_malloc import keep_freed_memory
from lightning_modules import OptimizedCNN

# Kinds of work, by what their operators' names contain; the first that fits.
KINDS = {
    "autograd's own": ("autograd::",),
    "convolution": ("conv",),
    "matrix product": ("mm", "linear", "matmul"),
    "pooling": ("pool",),
    "batch norm": ("batch_norm",),
    "activation, dropout": ("relu", "clamp_min", "threshold", "dropout", "bernoulli"),
    "loss": ("softmax", "nll", "cross_entropy"),
    "optimizer": ("optimizer", "::lerp", "::addc", "::sqrt", "::mul_", "::div", "::add_"),
    "copies, casts, fills": ("copy", "::to", "contiguous", "clone", "fill", "zero", "empty"),
}


def kind_of(operator: str) -> str:
    """Of an operator as the profiler names it, e.g. ``aten::max_pool2d``."""
    name = operator.lower()
    return next((k for k, parts in KINDS.items() if any(p in name for p in parts)), "other")


def networks() -> dict[str, nn.Module]:
    """The tutorial's network, and that of our short recipe."""
    return {
        "tutorial": OptimizedCNN(num_classes=10, image_shape=(1, 28, 28), channels_last=True),
        "network of configs/optimized_cnn.yaml": OptimizedCNN(
            num_classes=10,
            image_shape=(1, 28, 28),
            channels_last=True,
            order="pool-norm-activation",
            norm_hidden=True,
            hidden_size=256,
            dropout=0.2,
        ),
    }


def bfloat16_step(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[tuple[Tensor, Tensor]], None]:
    """One step on a batch of images and labels, with nothing around it."""

    def step(batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def make_step(model: nn.Module, size: int) -> Callable[[], None]:
    """A step on a batch of random images, so many."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = bfloat16_step(model, torch.optim.Adam(model.parameters(), lr=0.001))
    return partial(step, (torch.rand(size, 1, 28, 28), torch.randint(10, (size,))))


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The time of one repeat, after one that warms up."""
    work()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def peak(size: int) -> float:
    """FLOP/s of a square bfloat16 matrix product."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
    out: Tensor = torch.empty(size, size, dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: torch.mm(a, b, out=out), 3)


def flops(step: Callable[[], None]) -> float:
    """Floating-point operations of one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def shares(step: Callable[[], None], repeats: int) -> dict[str, float]:
    """The share of each kind of work in the processor's time."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            step()
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: time / whole for kind, time in spent.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5, help="of each measurement")
    parser.add_argument("--steps", type=int, default=20, help="per turn")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=4096, help="of the matrices")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.manual_seed(0)
    steps = {name: make_step(net, options.batch) for name, net in networks().items()}
    work = {name: flops(step) for name, step in steps.items()}
    peaks: list[float] = []
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.turns):
        peaks.append(peak(options.size))
        for name, step in steps.items():
            rates[name].append(work[name] / seconds(step, options.steps))
    top = statistics.median(peaks)
    lines = [
        "| | GFLOP/s, median (range) | share of the peak | images/s | MFLOP per image |",
        "|---|---|---|---|---|",
        f"| matrix product | {median_range([p / 1e9 for p in peaks], ',.0f')} | | | |",
    ]
    for name, each in rates.items():
        middle = statistics.median(each)
        images = middle / work[name] * options.batch
        lines.append(
            f"| {name} | {median_range([rate / 1e9 for rate in each], ',.0f')} | "
            f"{middle / top:.1%} | {images:,.0f} | {work[name] / options.batch / 1e6:.1f} |"
        )
    where = {name: shares(step, options.steps) for name, step in steps.items()}
    lines += ["", f"| share of the time | {' | '.join(where)} |", "|---" * (len(where) + 1) + "|"]
    for kind in [*KINDS, "other"]:
        lines.append(f"| {kind} | {' | '.join(f'{found[kind]:.1%}' for found in where.values())} |")
    save(
        options.results / "step",
        shown_command("benchmarks.step", arguments),
        f"n = {options.turns} turns of {options.steps} steps",
        "\n".join(lines),
        peak=peaks,
        rates=rates,
        flops_per_step=work,
        shares=where,
    )


if __name__ == "__main__":
    main()
