"""Speed of the precision that is chosen where none is given, against both others.

    python -m benchmarks.precision
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.precision --emulated

Short fits of each recipe with the default, ``32-true`` and ``bf16-mixed``, taking turns in
processes of their own. The default is to reach at least 0.95 of the better of the two.
Prints a Markdown table and writes it to ``results/benchmarks/precision.{md,json}``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.recipes import ROOT, save, shown_command

RECIPES = ("mlp", "baseline_cnn", "speedrun", "optimized_cnn")
PRECISIONS = ("null", "32-true", "bf16-mixed")


def speed(recipe: str, precision: str, root: str, batches: int) -> float:
    """Images per second over two short epochs."""
    with tempfile.TemporaryDirectory() as runs:
        options = {
            "config": ROOT / "configs" / f"{recipe}.yaml",
            "runs_dir": runs,
            "test_best": "false",
            "data.root": root,
            "trainer.precision": precision,
            "trainer.max_epochs": 2,
            "trainer.limit_train_batches": batches,
            "trainer.limit_val_batches": 1,
            "trainer.enable_progress_bar": "false",
        }
        command = [sys.executable, "train.py", "fit", *(f"--{k}={v}" for k, v in options.items())]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        return json.loads(next(Path(runs).rglob("summary.json")).read_text())["images_per_second"]


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Medians, and the default's share of the better of the two, as Markdown."""
    lines = [
        "| recipe | default, images/s | 32-true | bf16-mixed | default / better |",
        "|---|---|---|---|---|",
    ]
    for recipe, speeds in found.items():
        default, full, mixed = (statistics.median(speeds[p]) for p in PRECISIONS)
        share = default / max(full, mixed)
        lines.append(f"| {recipe} | {default:,.0f} | {full:,.0f} | {mixed:,.0f} | {share:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=3, help="of each recipe and precision")
    parser.add_argument("--batches", type=int, default=60, help="of an epoch; there are two")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--emulated", action="store_true", help="write precision_emulated")
    parser.add_argument("--root", default=str(ROOT / "data"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(options.turns):
        for recipe in options.recipes:
            for precision in PRECISIONS:
                each = found.setdefault(recipe, {}).setdefault(precision, [])
                each.append(speed(recipe, precision, options.root, options.batches))
    save(
        options.results / ("precision_emulated" if options.emulated else "precision"),
        shown_command("benchmarks.precision", arguments),
        f"n = {options.turns} of each, taking turns",
        table(found),
        images_per_second=found,
    )


if __name__ == "__main__":
    main()
