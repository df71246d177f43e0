"""Criss-cross attention against the usual form with two batched products: seconds and memory.

    python -m benchmarks.criss_cross_attention --repeats 20

The usual form copies queries, keys and values once for rows and once for columns, to
``[N·W, H, C]`` and ``[N·H, W, C]``, as the public implementations of the CCNet paper do. Both do
the same arithmetic with the same weights, forward and backward, taking turns. Prints a Markdown
table and writes it, with every time, to ``results/benchmarks/criss_cross_attention.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.recipes import ROOT, median_range, save, shown_command
from foundation.machine import machine
from lightning_modules import CrissCrossAttention

# Images, channels, height and width.
SIZES = ((64, 64, 28, 28), (16, 64, 14, 14), (8, 128, 56, 56))


class UsualCrissCrossAttention(CrissCrossAttention):
    """The same layer as its public implementations compute it."""

    def forward(self, features: Tensor) -> Tensor:
        n, _, height, width = features.shape

        def columns(x: Tensor) -> Tensor:  # [N·W, C, H]
            return x.permute(0, 3, 1, 2).contiguous().view(n * width, -1, height)

        def rows(x: Tensor) -> Tensor:  # [N·H, C, W]
            return x.permute(0, 2, 1, 3).contiguous().view(n * height, -1, width)

        query, key, value = self.query(features), self.key(features), self.value(features)
        diagonal = torch.diag(torch.full((height,), float("inf"), device=features.device))
        mask = -diagonal.unsqueeze(0).repeat(n * width, 1, 1)
        column = torch.bmm(columns(query).permute(0, 2, 1), columns(key)) + mask
        column = column.view(n, width, height, height).permute(0, 2, 1, 3)
        row = torch.bmm(rows(query).permute(0, 2, 1), rows(key)).view(n, height, width, width)
        weights = torch.softmax(torch.cat([column, row], dim=3), dim=3)
        column = weights[..., :height].permute(0, 2, 1, 3).contiguous()
        row = weights[..., height:].contiguous()
        column = torch.bmm(
            columns(value), column.view(n * width, height, height).permute(0, 2, 1)
        ).view(n, width, -1, height)
        row = torch.bmm(rows(value), row.view(n * height, width, width).permute(0, 2, 1)).view(
            n, height, -1, width
        )
        attended = column.permute(0, 2, 3, 1) + row.permute(0, 2, 1, 3)
        return self.gamma * attended + features


def pair(channels: int, device: str = "cpu") -> dict[str, CrissCrossAttention]:
    """Ours and the usual form, with equal weights."""
    torch.manual_seed(0)
    ours, usual = CrissCrossAttention(channels), UsualCrissCrossAttention(channels)
    nn.init.constant_(ours.gamma, 0.5)
    usual.load_state_dict(copy.deepcopy(ours.state_dict()))
    return {"ours": ours.to(device), "usual": usual.to(device)}


def step(layer: nn.Module, features: Tensor) -> None:
    """Forward and backward, to the weights and the input."""
    features.grad = None
    layer.zero_grad()
    layer(features).sum().backward()
    if features.is_cuda:
        torch.cuda.synchronize()


def memory(layer: nn.Module, features: Tensor) -> int:
    """Bytes: on a GPU the peak of a step; on a CPU what autograd keeps for the backward pass."""
    if features.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(layer, features)
        return torch.cuda.max_memory_allocated() - before
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(features)
    given = {weight.untyped_storage().data_ptr() for weight in (features, *layer.parameters())}
    return sum(size for address, size in kept.items() if address not in given)


def measure(size: Sequence[int], repeats: int, device: str, channels_last: bool) -> dict[str, Any]:
    """Seconds of every step, the forms taking turns, and the memory of each."""
    layers = pair(size[1], device)
    features = torch.randn(*size, device=device)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    difference = (layers["ours"](features) - layers["usual"](features)).abs().max().item()
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    for turn in range(repeats + 2):  # the first two warm up
        for name, layer in layers.items():
            began = time.perf_counter()
            step(layer, features)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)
    return {
        "size": list(size),
        "channels_last": channels_last,
        "difference": difference,
        "seconds": seconds,
        "bytes": {name: memory(layer, features) for name, layer in layers.items()},
    }


def table(results: list[dict[str, Any]], device: str) -> str:
    """Median (range) of the times and the memory, as Markdown."""
    kind = "at the peak" if device == "cuda" else "kept for the backward pass"
    lines = [
        "| N×C×H×W | layout | form | ms, median (range) | usual / ours | MB " + kind + " |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        medians = {name: statistics.median(each) for name, each in result["seconds"].items()}
        for name, each in result["seconds"].items():
            ratio = f"{medians['usual'] / medians['ours']:.2f}" if name == "ours" else ""
            layout = "channels last" if result["channels_last"] else "channels first"
            lines.append(
                f"| {'×'.join(map(str, result['size']))} | {layout} | {name} "
                f"| {median_range([1e3 * x for x in each], '.2f')} | {ratio} "
                f"| {result['bytes'][name] / 1e6:.2f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20, help="measured steps of each form")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--sizes", default=";".join(",".join(map(str, size)) for size in SIZES))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sizes = [tuple(map(int, size.split(","))) for size in options.sizes.split(";")]
    results = [
        measure(size, options.repeats, options.device, channels_last)
        for size in sizes
        for channels_last in (False, True)
    ]
    where = f"{machine()}, {options.threads} thread(s)"
    if options.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    save(
        options.results / "criss_cross_attention",
        shown_command("benchmarks.criss_cross_attention", arguments),
        f"n = {options.repeats} steps of each, forward and backward, float32, taking turns",
        table(results, options.device),
        where=where,
        results=results,
    )


if __name__ == "__main__":
    main()
