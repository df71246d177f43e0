"""Accuracy of the diagnosis of finished runs: failures provoked on purpose, and good runs.

    python -m benchmarks.diagnosis           # train what is missing, set the thresholds, test them
    python -m benchmarks.diagnosis --refit   # only the last two, from the curves that are there

The label of a run is what was done to it, not what its curves look like. The thresholds are those
with the most correct diagnoses among FashionMNIST's seeds 0 and 1; the confusion matrix counts the
other runs: seeds 2 and 3 of FashionMNIST, and of MNIST. Writes ``results/diagnosis/diagnosis.{md,
json}``; the JSON holds the curves.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import dataclasses
import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks import NonFiniteLossError
from datamodules import FashionMNISTDataModule, ImageDataModule, MNISTDataModule
from diagnosis.curves import CURVES
from diagnosis.diagnosis import diagnose
from diagnosis.measures import Kind, Measures, Thresholds
from diagnosis.reference import nearest_mean_accuracy
from experiment.main import quiet
from foundation.checkout import ROOT, technique
from foundation.machine import machine
from foundation.whole_file import write
from studies.training import FitCLI

SETTING = (0, 1)  # FashionMNIST's seeds that set the thresholds
NUM_CLASSES = 10


# Data with wrong labels.


class _ShuffledLabels(ImageDataModule):
    """A share of the training set's labels, validation included, is dealt out anew.

    Args:
        shuffled: that share, in [0, 1].
        kwargs: see :class:`ImageDataModule`.
    """

    def __init__(self, shuffled: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shuffled = shuffled

    @override
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = super().load(train)
        generator = torch.Generator().manual_seed(self.split_seed)
        chosen = torch.randperm(len(labels), generator=generator)
        chosen = chosen[: round(self.shuffled * len(labels))]
        labels = labels.clone()
        labels[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
        return images, labels


class ShuffledFashionMNIST(_ShuffledLabels, FashionMNISTDataModule):
    """FashionMNIST with shuffled labels."""


class ShuffledMNIST(_ShuffledLabels, MNISTDataModule):
    """MNIST with shuffled labels."""


DATA = {"FashionMNIST": "FashionMNISTDataModule", "MNIST": "MNISTDataModule"}
SHUFFLED = {name: f"benchmarks.diagnosis.Shuffled{name}" for name in DATA}

# The collection: what was done, by the diagnosis that it should get.

_TRAINING, _VALIDATION = 60_000, 2_000
_MLP = "--model=MLP --model.preprocessing=MinMaxScaling"
_CNN = (
    "--model=BaselineCNN --model.channels_last=true --model.preprocessing=MinMaxScaling "
    "--model.width=8 --model.hidden_size=64"
)
_SHORT_RECIPE = (
    "--model=OptimizedCNN --model.channels_last=true --model.preprocessing=MinMaxScaling "
    "--model.width=8 --model.hidden_size=64 --model.initializer=null --model.dropout=0.2 "
    "--model.label_smoothing=0.05 --model.order=pool-norm-activation"
)


def _adam(rate: float) -> str:
    return f"--model.optimizer=Adam --model.optimizer.lr={rate}"


def _sgd(rate: float, momentum: float) -> str:
    return (
        f"--model.optimizer=SGD --model.optimizer.lr={rate} --model.optimizer.momentum={momentum}"
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run on purpose.

    Attributes:
        kind: the diagnosis it should get.
        images: to train on.
        epochs: to train for.
        options: of ``train.py fit``.
        shuffled: share of wrong labels.
    """

    kind: str
    images: int
    epochs: int
    options: str
    shuffled: float = 0.0


def _overlays(*names: str) -> str:
    return " ".join(f"--config={technique(name).relative_to(ROOT)}" for name in names)


COLLECTION = {
    "MLP 256, 200 images": Recipe(
        "overfitting", 200, 40, f"{_MLP} --model.hidden_size=256 --data.batch_size=32"
    ),
    "MLP 128, 600 images": Recipe("overfitting", 600, 40, f"{_MLP} --data.batch_size=32"),
    "MLP 512, 2000 images": Recipe("overfitting", 2000, 30, f"{_MLP} --model.hidden_size=512"),
    "CNN, 200 images": Recipe("overfitting", 200, 40, f"{_CNN} --data.batch_size=20"),
    "CNN, 500 images": Recipe(
        "overfitting", 500, 25, f"{_CNN} {_adam(0.002)} --data.batch_size=32"
    ),
    "CNN with batch norm, 300 images": Recipe(
        "overfitting", 300, 25, f"{_CNN} --model.norm=batch --data.batch_size=32"
    ),
    "MLP 256, half of the labels shuffled": Recipe(
        "overfitting", 1000, 30, f"{_MLP} --model.hidden_size=256", shuffled=0.5
    ),
    "MLP of 4 units": Recipe("underfitting", 5000, 15, f"{_MLP} --model.hidden_size=4"),
    "MLP of 2 units": Recipe("underfitting", 5000, 15, f"{_MLP} --model.hidden_size=2"),
    "tanh MLP of 3 units": Recipe(
        "underfitting", 5000, 15, f"{_MLP} --model.hidden_size=3 --model.activation=torch.nn.Tanh"
    ),
    "CNN 1 channel wide": Recipe(
        "underfitting", 5000, 10, f"{_CNN} --model.width=1 --model.hidden_size=4"
    ),
    "MLP, rate 100 times too low": Recipe("underfitting", 5000, 10, f"{_MLP} {_adam(1e-5)}"),
    "CNN, rate 50 times too low": Recipe("underfitting", 5000, 8, f"{_CNN} {_adam(2e-5)}"),
    "SGD MLP, rate 100 times too low": Recipe(
        "underfitting", 5000, 10, f"{_MLP} {_sgd(0.0002, 0.9)}"
    ),
    "MLP, L2 penalty of 0.1": Recipe(
        "underfitting", 5000, 12, f"{_MLP} {_adam(3e-4)} --model.l2=0.1"
    ),
    "MLP, rate 50 times too high": Recipe("oscillating", 4000, 20, f"{_MLP} {_adam(0.05)}"),
    "CNN, SGD 0.3": Recipe("oscillating", 3000, 12, f"{_CNN} {_sgd(0.3, 0.0)}"),
    "MLP, batches of 8, momentum 0.95": Recipe(
        "oscillating", 1000, 12, f"{_MLP} {_sgd(0.007, 0.95)} --data.batch_size=8"
    ),
    "MLP, momentum 0.99, rate 0.03": Recipe("oscillating", 4000, 20, f"{_MLP} {_sgd(0.03, 0.99)}"),
    "CNN with batch norm, rate 50 times too high": Recipe(
        "oscillating", 4000, 12, f"{_CNN} --model.norm=batch {_adam(0.05)}"
    ),
    "MLP, SGD 0.3": Recipe("oscillating", 4000, 15, f"{_MLP} {_sgd(0.3, 0.0)}"),
    "all labels shuffled, MLP": Recipe("not converging", 5000, 10, _MLP, shuffled=1.0),
    "all labels shuffled, CNN": Recipe("not converging", 5000, 6, _CNN, shuffled=1.0),
    "CNN, rate 1000 times too high": Recipe("not converging", 3000, 6, f"{_CNN} {_adam(1.0)}"),
    "MLP, SGD 1000": Recipe("not converging", 3000, 6, f"{_MLP} {_sgd(1000, 0.9)}"),
    "CNN, SGD 5, momentum 0.99": Recipe("not converging", 3000, 6, f"{_CNN} {_sgd(5, 0.99)}"),
    "deep sigmoid CNN, gaussian 0.01": Recipe(
        "not converging",
        3000,
        6,
        f"{_CNN} --model.depth=4 --model.activation=torch.nn.Sigmoid {_overlays('init_gaussian')}",
    ),
    "deep CNN, SGD, gaussian 0.001": Recipe(
        "not converging",
        3000,
        8,
        f"{_CNN} --model.depth=4 {_overlays('init_gaussian')} --model.initializer.std=0.001 "
        f"{_sgd(0.02, 0.9)}",
    ),
    "CNN, SGD at a rate 1e5 times too low": Recipe(
        "not converging", 3000, 8, f"{_CNN} {_sgd(5e-7, 0.0)}"
    ),
    "MLP, 20,000 images": Recipe("good fit", 20000, 6, _MLP),
    "MLP with dropout, 6000 images": Recipe("good fit", 6000, 12, f"{_MLP} {_overlays('dropout')}"),
    "MLP, momentum": Recipe("good fit", 10000, 8, f"{_MLP} {_overlays('momentum')}"),
    "MLP, AdamW, cosine, 10,000 images": Recipe(
        "good fit", 10000, 8, f"{_MLP} {_overlays('adamw', 'cosine_lr')}"
    ),
    "CNN, 10,000 images": Recipe("good fit", 10000, 5, _CNN),
    "CNN with layer norm and L2": Recipe(
        "good fit", 6000, 6, f"{_CNN} {_overlays('layer_norm', 'l2')}"
    ),
    "CNN, shifted crops": Recipe(
        "good fit", 8000, 7, f"{_CNN} {_adam(0.003)} {_overlays('random_crop')}"
    ),
    "short recipe": Recipe(
        "good fit",
        8000,
        6,
        f"{_SHORT_RECIPE} {_overlays('adamw')} --model.optimizer.lr=0.003 {_overlays('one_cycle')}",
    ),
    "GELU CNN with an average of its weights": Recipe(
        "good fit", 8000, 5, f"{_CNN} {_overlays('activation_gelu', 'ema')}"
    ),
}


class Curves(Callback):
    """Keep the curves and the reference in memory.

    Attributes:
        values: by metric, one value per epoch; a broken last epoch is NaN.
        reference: accuracy of the nearest class mean.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {name: [] for name in CURVES}
        self.reference = 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reference = nearest_mean_accuracy(trainer.datamodule) or 0.0  # type: ignore[attr-defined]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, values in self.values.items():
            values.append(float(trainer.callback_metrics[name]))


def train(recipe: Recipe, dataset: str, seed: int, root: Path) -> dict[str, Any]:
    """Do a run; its curves and reference."""
    data = SHUFFLED if recipe.shuffled else DATA
    args = [f"--data={data[dataset]}", f"--data.root={root}", f"--data.val_size={_VALIDATION}"]
    if recipe.shuffled:
        args.append(f"--data.shuffled={recipe.shuffled}")
    share = recipe.images / (_TRAINING - _VALIDATION)
    args += [f"--data.train_fraction={share}", f"--data.eval_batch_size={_VALIDATION}"]
    args += recipe.options.split()
    args += [f"--trainer.max_epochs={recipe.epochs}", f"--seed_everything={seed}"]
    args += ["--trainer.accelerator=cpu", "--early_stopping.patience=1000"]
    args += ["--trainer.logger=false", "--trainer.num_sanity_val_steps=0"]
    curves = Curves()
    with tempfile.TemporaryDirectory() as folder:
        try:
            FitCLI(args, Path(folder, "run"), [curves])
        except NonFiniteLossError:
            for values in curves.values.values():
                values.append(math.nan)
    rounded = {
        name: [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
        for name, values in curves.values.items()
    }
    return {"reference": round(curves.reference, 5), "curves": rounded}


# From curves to thresholds and a confusion matrix.

KINDS: tuple[Kind, ...] = get_args(Kind)
FITTED = ("chance", "swing", "gap", "rise", "shortfall")


def said(run: Mapping[str, Any], thresholds: Thresholds) -> Kind:
    """The diagnosis of a run."""
    curves = {name: [_number(value) for value in values] for name, values in run["curves"].items()}
    return diagnose(curves, NUM_CLASSES, run["reference"], thresholds).kind


def correct(runs: Sequence[Mapping[str, Any]], thresholds: Thresholds) -> int:
    return sum(said(run, thresholds) == run["kind"] for run in runs)


def fit(runs: Sequence[Mapping[str, Any]], rounds: int = 3) -> Thresholds:
    """The thresholds with the most correct diagnoses: one after another, a few rounds.

    Only a threshold between two runs' measures makes a difference, so those are tried. Of equally
    good ones side by side the middle is taken; of several such stretches, the widest. Each of the
    two signs of overfitting is looked for as if the other were not there.
    """
    measured = [
        Measures.of(run["curves"], NUM_CLASSES, run["reference"])
        for run in runs
        if not any(None in values for values in run["curves"].values())
    ]
    best = _START
    for _, name in itertools.product(range(rounds), FITTED):
        found = {max(0.0, getattr(measures, _MEASURE.get(name, name))) for measures in measured}
        values = sorted({0.0, *found, 1.1 * max(found, default=0.0)})
        pairs = list(itertools.pairwise(values))
        if not pairs:
            continue
        alone = _with(best, _OTHER[name], math.inf) if name in _OTHER else best
        scores = [correct(runs, _with(alone, name, (low + high) / 2)) for low, high in pairs]
        stretches = [
            (pairs[members[0]][0], pairs[members[-1]][1])
            for is_best, group in itertools.groupby(
                range(len(pairs)), key=lambda index: scores[index] == max(scores)
            )
            if is_best and (members := list(group))
        ]
        low, high = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
        best = _with(best, name, float(f"{(low + high) / 2:.2g}"))
    return best


def _with(thresholds: Thresholds, name: str, value: float) -> Thresholds:
    change: dict[str, Any] = {name: value}
    return dataclasses.replace(thresholds, **change)


# Where the search begins, read off the figure; not the defaults, which are what it found.
_START = Thresholds(chance=0.1, swing=0.03, gap=0.3, rise=0.1, shortfall=0.65)


_MEASURE = {"chance": "learned"}
_OTHER = {"gap": "rise", "rise": "gap"}


def confusion(runs: Iterable[Mapping[str, Any]], thresholds: Thresholds) -> str:
    """Rows are what was provoked, columns what was said; Markdown."""
    counts = {(row, column): 0 for row in KINDS for column in KINDS}
    for run in runs:
        counts[run["kind"], said(run, thresholds)] += 1
    lines = [f"| provoked ↓, said → | {' | '.join(KINDS)} |", "|---|" + "---|" * len(KINDS)]
    for row in KINDS:
        cells = " | ".join(str(counts[row, column] or "·") for column in KINDS)
        lines.append(f"| {row} | {cells} |")
    return "\n".join(lines)


def report(runs: Sequence[Mapping[str, Any]], thresholds: Thresholds) -> str:
    """Confusion matrices of the runs the thresholds were set on, and of the others."""
    parts = []
    for title, chosen in groups(runs).items():
        if not chosen:
            continue
        right = correct(chosen, thresholds)
        parts.append(f"## {title}: {right} of {len(chosen)} ({right / len(chosen):.1%})\n")
        parts.append(confusion(chosen, thresholds) + "\n")
        for run in chosen:
            if (found := said(run, thresholds)) != run["kind"]:
                where = f"{run['dataset']}, seed {run['seed']}"
                parts.append(f"- {run['name']} ({where}): {run['kind']}, but said {found}")
        parts.append("")
    names = ", ".join(f"{name} {getattr(thresholds, name):g}" for name in FITTED)
    return "\n".join([f"Thresholds: {names}\n", *parts])


def groups(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs that set the thresholds, and those that test them."""
    setting = [r for r in runs if r["dataset"] == "FashionMNIST" and r["seed"] in SETTING]
    testing = [r for r in runs if r not in setting]
    found = {"Thresholds set on these": setting, "Held out": testing}
    for dataset in DATA:
        found[f"Held out, {dataset}"] = [r for r in testing if r["dataset"] == dataset]
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--refit", action="store_true", help="train nothing")
    parser.add_argument("--only", default="", help="recipes with this in their names")
    parser.add_argument("--seeds", type=int, default=4, help="seeds 0…N-1; the first two set")
    parser.add_argument("--root", type=Path, default=ROOT / "data", help="folder of the data sets")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "diagnosis")
    options = parser.parse_args(arguments)
    path = options.results / "diagnosis.json"
    known = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    if options.refit:
        if not known["runs"]:
            raise SystemExit(f"{path}: holds no curves; run without --refit first")
        runs = known["runs"]
    else:
        runs = collect(options, known["runs"], path)
    thresholds = fit(groups(runs)["Thresholds set on these"])
    command = "python -m benchmarks.diagnosis"
    text = f"`{command}` on {machine()}; "
    text += f"n = {len(runs)} of {len(planned(options.seeds))} runs\n\n"
    text += report(runs, thresholds)
    write(options.results / "diagnosis.md", text)
    _save(path, runs, thresholds)
    print(text)


def planned(seeds: int, only: str = "") -> list[tuple[str, int, str]]:
    """Data set, seed and recipe of every run; the setting seeds are FashionMNIST's alone."""
    return [
        (dataset, seed, name)
        for seed in range(seeds)
        for dataset in DATA
        if dataset == "FashionMNIST" or seed not in SETTING
        for name in COLLECTION
        if only in name
    ]


def collect(
    options: argparse.Namespace, known: list[dict[str, Any]], path: Path
) -> list[dict[str, Any]]:
    """Train what is not among the ``known`` runs; all of them."""
    plan = planned(options.seeds, options.only)
    before = {(run["dataset"], run["seed"], run["name"]): run for run in known}
    runs: list[dict[str, Any]] = []
    quiet()
    for number, key in enumerate(plan, 1):
        dataset, seed, name = key
        recipe = dataclasses.asdict(COLLECTION[name])
        run = before.get(key, {})
        if run.get("recipe") != recipe:
            began = time.perf_counter()
            curves = train(COLLECTION[name], dataset, seed, options.root)
            head = {"name": name, "kind": recipe["kind"], "dataset": dataset, "seed": seed}
            run = {**head, "recipe": recipe, "seconds": time.perf_counter() - began, **curves}
            best = max((v for v in run["curves"]["val/accuracy"] if v is not None), default=0)
            line = f"{recipe['kind']:14} {dataset} {seed} {name}: {best:.3f}"
            print(f"{number}/{len(plan)} {line}, {run['seconds']:.1f} s", flush=True)
            later = [old for key, old in before.items() if key in plan[number:]]
            _save(path, [*runs, run, *later], None)  # what is stopped goes on from here
        runs.append(run)
    return runs


def _save(path: Path, runs: Sequence[Mapping[str, Any]], thresholds: Thresholds | None) -> None:
    found = dataclasses.asdict(thresholds) if thresholds else None
    head = {"command": "python -m benchmarks.diagnosis", "machine": machine(), "thresholds": found}
    lines = ",\n".join(json.dumps(run) for run in runs)  # a run is a line
    write(path, json.dumps(head, indent=2)[:-2] + f',\n  "runs": [\n{lines}\n]\n}}\n')


if __name__ == "__main__":
    main()
