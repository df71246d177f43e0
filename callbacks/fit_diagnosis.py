"""What a finished training shows: overfitting, underfitting, oscillation, no convergence, or none.

    python -m callbacks.fit_diagnosis runs/…   # runs that are finished, or a folder of runs

:func:`diagnose` reads the curves alone; ``docs/diagnosis.md`` describes it.
"""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import csv
import dataclasses
import functools
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
import torch.nn.functional as F
import yaml
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.finite_loss import NonFiniteLossError
from callbacks.pictures import tensorboard_writer
from callbacks.remedies import Remedy, as_typed, remedies
from callbacks.run_logger import RunLogger
from callbacks.run_summary import RunSummary
from errors import UserError

Kind = Literal["overfitting", "underfitting", "oscillating", "not converging", "good fit"]
CURVES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
# Where the nearest class mean is not known: how far it comes from chance to perfect. It comes 0.66
# of the way on FashionMNIST and 0.78 on MNIST.
_USUAL_REFERENCE = 0.7


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where one kind of run ends and the next begins; every number is a ratio.

    Found by ``python -m benchmarks.diagnosis`` on runs of FashionMNIST, except for ``improving``
    and ``epochs``, which are conventions.

    Attributes:
        chance: not converging below this share of the way from chance to perfect.
        swing: oscillating above this mean fall of the validation accuracy from an epoch to the
            next, in reference errors (1 − accuracy of the nearest class mean).
        gap: overfitting where the training accuracy ends this many reference errors above the
            validation accuracy.
        rise: overfitting where the validation loss ends this share above its lowest.
        shortfall: underfitting where the errors, in training too, are more than this many
            reference errors.
        improving: still improving where the last epoch took this share off the validation loss.
        epochs: fewer than these show no overfitting and no oscillation.
    """

    chance: float = 0.1
    swing: float = 0.021
    gap: float = 0.37
    rise: float = 0.099
    shortfall: float = 0.67
    improving: float = 0.01
    epochs: int = 3


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What a training was.

    Attributes:
        kind: one of five.
        evidence: sentences with numbers, the deciding one first.
        advice: what to try next, the most promising first.
    """

    kind: Kind
    evidence: list[str]
    advice: list[Remedy]

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        advice = [remedy._asdict() for remedy in self.advice]
        return {"kind": self.kind, "evidence": self.evidence, "advice": advice}


@dataclasses.dataclass(frozen=True)
class Measures:
    """What :class:`Thresholds` are compared with. "The end" is the mean of the last third.

    Attributes:
        learnt: validation accuracy at the end, 0 for chance and 1 for perfect.
        swing: mean fall of the validation accuracy, in reference errors.
        gap: training accuracy less validation accuracy at the end, in reference errors.
        rise: validation loss at the end above its lowest, relative to that; of epochs after it.
        shortfall: the fewest errors, of training and validation, in reference errors.
        improving: fall of the validation loss in the last epoch, relative.
    """

    learnt: float
    swing: float
    gap: float
    rise: float
    shortfall: float
    improving: float

    @classmethod
    def of(
        cls, curves: Mapping[str, Sequence[float]], num_classes: int, reference: float
    ) -> "Measures":
        accuracy, loss = curves["val/accuracy"], curves["val/loss"]
        chance = 1 / num_classes
        steps = list(itertools.pairwise(accuracy))
        falls = sum(max(0.0, before - after) for before, after in steps)
        reference_error = max(1 - reference, _LEAST)
        best = max(*accuracy, *curves["train/accuracy"])
        return cls(
            learnt=(_end(accuracy) - chance) / (1 - chance),
            swing=falls / max(len(steps), 1) / reference_error,
            gap=(_end(curves["train/accuracy"]) - _end(accuracy)) / reference_error,
            rise=_rise(loss),
            shortfall=(1 - best) / reference_error,
            improving=1 - loss[-1] / max(loss[-2], _LEAST) if len(loss) > 1 else 0.0,
        )


_LEAST = 1e-6  # instead of dividing by 0


def _rise(loss: Sequence[float]) -> float:
    lowest = min(range(len(loss)), key=loss.__getitem__)
    tail = loss[max(lowest + 1, len(loss) - max(1, len(loss) // 3)) :]
    return sum(tail) / len(tail) / max(loss[lowest], _LEAST) - 1 if tail else 0.0


def _end(curve: Sequence[float]) -> float:
    """Mean of the last third."""
    tail = curve[-max(1, len(curve) // 3) :]
    return sum(tail) / len(tail)


def diagnose(
    curves: Mapping[str, Sequence[float]],
    num_classes: int,
    reference: float | None,
    thresholds: Thresholds = Thresholds(),
    config: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Say which of five a training was.

    Args:
        curves: :data:`CURVES`, one value per epoch.
        num_classes: chance is one in these.
        reference: validation accuracy of the nearest class mean; see
            :func:`nearest_mean_accuracy`. None assumes 0.7 of the way from chance to perfect.
        thresholds: between the kinds.
        config: the run's configuration, for advice that fits it; without, what fits every network.

    Raises:
        ValueError: the curves are empty or of different lengths.
    """
    epochs = len(curves["val/accuracy"])
    if epochs == 0 or any(len(curves[name]) != epochs for name in CURVES):
        lengths = ", ".join(f"{name} {len(curves[name])}" for name in CURVES)
        raise ValueError(f"expected one value per epoch of each curve, at least one; got {lengths}")
    broken = next((e for e in range(epochs) if not _all_finite(curves, e)), None)
    chance = 1 / num_classes
    known = chance + _USUAL_REFERENCE * (1 - chance) if reference is None else reference
    kind: Kind = "not converging"
    if broken is None:
        measures = Measures.of(curves, num_classes, known)
        kind = kind_of(measures, epochs, thresholds)
        improving = measures.improving > thresholds.improving
    else:
        improving = False
    losses = curves["val/loss"]
    best_epoch = min(range(epochs), key=lambda e: losses[e] if math.isfinite(losses[e]) else 1e9)
    advice = remedies(
        kind, config or {}, epochs=epochs, best_epoch=best_epoch + 1, improving=improving
    )
    if broken is not None:
        return Diagnosis(kind, [f"the loss was no number in epoch {broken + 1}"], advice)
    words = _Evidence(curves, measures, chance, reference, known, thresholds)
    evidence = words.of(kind)
    if kind == "not converging" and reference is not None and words.labels_are_noise:
        advice.insert(0, Remedy("look at the labels: do they belong to the images?", ""))
    if epochs < thresholds.epochs and kind != "not converging":
        many = "1 epoch is" if epochs == 1 else f"{epochs} epochs are"
        evidence.append(f"{many} too short to show overfitting or oscillation")
        if kind == "underfitting" and not any("max_epochs" in r.options for r in advice):
            advice.insert(0, Remedy("longer: it had hardly begun", "--trainer.max_epochs 10"))
    return Diagnosis(kind, evidence, advice)


def kind_of(measures: Measures, epochs: int, thresholds: Thresholds) -> Kind:
    """The first kind whose threshold is passed, in this order."""
    long_enough = epochs >= thresholds.epochs
    if measures.learnt < thresholds.chance:
        return "not converging"
    if long_enough and measures.gap > thresholds.gap:
        return "overfitting"
    if long_enough and measures.swing > thresholds.swing:
        return "oscillating"
    if long_enough and measures.rise > thresholds.rise:  # a loss that jumps is high now and then
        return "overfitting"
    if measures.shortfall > thresholds.shortfall:
        return "underfitting"
    return "good fit"


def _all_finite(curves: Mapping[str, Sequence[float]], epoch: int) -> bool:
    return all(math.isfinite(curves[name][epoch]) for name in CURVES)


class _Evidence:
    """The numbers behind a diagnosis, in words."""

    def __init__(
        self,
        curves: Mapping[str, Sequence[float]],
        measures: Measures,
        chance: float,
        reference: float | None,
        known: float,
        thresholds: Thresholds,
    ) -> None:
        self.train, self.val = curves["train/accuracy"], curves["val/accuracy"]
        self.losses = curves["val/loss"]
        self.measures = measures
        self.thresholds = thresholds
        self.chance = chance
        share = (known - chance) / (1 - chance)
        self.labels_are_noise = share < thresholds.chance
        whose = "the nearest class mean, which is not trained, gets"
        self.reference = f"{whose} {known:.3f}" + ("" if reference is not None else " (assumed)")

    def of(self, kind: Kind) -> list[str]:
        return {
            "not converging": self.not_converging,
            "oscillating": self.oscillating,
            "overfitting": self.overfitting,
            "underfitting": self.underfitting,
            "good fit": self.good_fit,
        }[kind]()

    def not_converging(self) -> list[str]:
        lines = [f"val/accuracy ends at {_end(self.val):.3f}, and chance is {self.chance:.3f}"]
        if (_end(self.train) - self.chance) / (1 - self.chance) > self.thresholds.chance:
            lines.append(f"train/accuracy ends at {_end(self.train):.3f}: it learns by heart")
        why = (
            "the labels do not belong to the images"
            if self.labels_are_noise
            else "the data can be learnt"
        )
        return [*lines, f"{self.reference}: {why}"]

    def oscillating(self) -> list[str]:
        falls = [before - after for before, after in itertools.pairwise(self.val)]
        worst = max(range(len(falls)), key=falls.__getitem__)
        mean = sum(max(0.0, fall) for fall in falls) / len(falls)
        best = max(self.val)
        return [
            f"val/accuracy falls by {mean:.3f} per epoch in the mean, "
            f"by {falls[worst]:.3f} after epoch {worst + 1}",
            f"it ends at {self.val[-1]:.3f}; the best was {best:.3f} in epoch "
            f"{self.val.index(best) + 1}",
        ]

    def overfitting(self) -> list[str]:
        lowest = min(self.losses)
        gap = (
            f"train/accuracy ends at {_end(self.train):.3f}, val/accuracy at {_end(self.val):.3f}; "
            f"{self.reference}"
        )
        rise = (
            f"val/loss ends {self.measures.rise:.0%} above its lowest, {lowest:.3f} in epoch "
            f"{self.losses.index(lowest) + 1}"
        )
        if self.measures.rise <= 0:
            rise = f"val/loss is lowest at the end, {lowest:.3f}"
        return [gap, rise] if self.measures.gap > self.thresholds.gap else [rise, gap]

    def underfitting(self) -> list[str]:
        return [
            f"the best accuracy is {max(self.val):.3f}, in training {max(self.train):.3f}; "
            f"{self.reference}",
            self._movement(),
        ]

    def _movement(self) -> str:
        if self.measures.improving > self.thresholds.improving:
            return f"the last epoch still took {self.measures.improving:.1%} off val/loss"
        return f"val/loss is flat at {self.losses[-1]:.3f}"

    def good_fit(self) -> list[str]:
        return [
            f"val/accuracy ends at {_end(self.val):.3f}, train/accuracy at {_end(self.train):.3f}; "
            f"{self.reference}",
            self._movement(),
        ]


def nearest_mean_accuracy(datamodule: Any) -> float | None:
    """Validation accuracy of the nearest class mean: how easy the data is, without any training.

    Each class is the mean of its training images; an image belongs to the nearest. 0.1 s for
    FashionMNIST on one CPU core.

    Args:
        datamodule: an ``ImageDataModule`` that is set up.

    Returns:
        None where there are no validation images, or the data module is of another kind.
    """
    train, val = getattr(datamodule, "train_set", None), getattr(datamodule, "val_set", None)
    if train is None or val is None or not len(val):
        return None
    classes = datamodule.num_classes
    device = train.images.device
    sums = torch.zeros(classes, train.images[0].numel(), device=device)
    counts = torch.zeros(classes, device=device)
    for images, labels in zip(train.images.split(4096), train.labels.split(4096), strict=True):
        member = F.one_hot(labels, classes).float()
        sums += member.T @ _flat(images)
        counts += member.sum(dim=0)
    means = sums / counts.clamp_min(1)[:, None]
    score = _flat(val.images) @ means.T - means.square().sum(dim=1) / 2
    score[:, counts == 0] = -math.inf
    return float((score.argmax(dim=1) == val.labels).float().mean())


def _flat(images: torch.Tensor) -> torch.Tensor:
    """``[N, C·H·W]``, float; what is missing is black."""
    return images.flatten(1).float().nan_to_num()


class FitDiagnosis(Callback):
    """Say at the end of ``fit`` what the curves show, and what to try next.

    Written to ``summary.json`` and TensorBoard's text tab; ``train.py`` prints it. A run without
    validation, or without a run's folder, gets none. A run whose loss became NaN is diagnosed too,
    and the error that ends it says so.

    Attributes:
        diagnosis: None before the end, and on other ranks than zero.
        reference: accuracy of the nearest class mean; see :func:`nearest_mean_accuracy`.
    """

    def __init__(self) -> None:
        self.diagnosis: Diagnosis | None = None
        self.reference: float | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.reference = nearest_mean_accuracy(getattr(trainer, "datamodule", None))

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._diagnose(trainer, pl_module)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, NonFiniteLossError):
            return
        self._diagnose(trainer, pl_module, str(exception))
        if self.diagnosis is not None:
            exception.add_note(f"diagnosis: {self.diagnosis.kind}, {self.diagnosis.evidence[0]}")

    def _diagnose(
        self, trainer: Trainer, pl_module: LightningModule, error: str | None = None
    ) -> None:
        logger = trainer.logger
        if not trainer.is_global_zero or not isinstance(logger, RunLogger):
            return
        logger.save()
        run = Path(logger.log_dir)
        curves = read_curves(run / "metrics.csv")
        if error is not None:
            curves = broken_off(curves, trainer.current_epoch)
        if not curves["val/accuracy"]:
            return
        path = run / "config.yaml"
        config = yaml.safe_load(path.read_text()) if path.is_file() else None
        classes: Any = pl_module.num_classes
        self.diagnosis = diagnose(curves, classes, self.reference, config=config)
        entries: dict[str, Any] = {"nearest_mean_accuracy": self.reference}
        entries["diagnosis"] = self.diagnosis.as_dict()
        if error is not None:
            entries["error"] = error
        summary = next((c for c in trainer.callbacks if isinstance(c, RunSummary)), None)  # type: ignore[attr-defined]
        if summary is not None:
            summary.add(trainer, entries)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            text = as_markdown(self.diagnosis, as_typed(path))
            writer.add_text("diagnosis", text, trainer.global_step)
            writer.flush()


def as_markdown(diagnosis: Diagnosis, config: str) -> str:
    """For TensorBoard's text tab."""
    lines = [f"**{diagnosis.kind}**", "", *(f"- {text}" for text in diagnosis.evidence), ""]
    for remedy in diagnosis.advice:
        command = f": `{remedy.command(config)}`" if remedy.options else ""
        lines.append(f"1. {remedy.why}{command}")
    return "\n".join(lines)


# Runs that are finished.


def read_curves(path: Path) -> dict[str, list[float]]:
    """The curves of ``metrics.csv``, one value for each epoch that has them all.

    Where a run was resumed from an epoch that it had passed, the later values count. Empty without
    the file or without validation.

    Raises:
        UserError: the file is no such table.
    """
    epochs: dict[int, dict[str, float]] = {}
    try:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                values = {name: float(row[name]) for name in CURVES if row.get(name)}
                if values:
                    now = int(row["epoch"])
                    epochs = {epoch: seen for epoch, seen in epochs.items() if epoch <= now}
                    epochs.setdefault(now, {}).update(values)
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(f"{path}: not the curves of a run ({error})") from error
    complete = [epochs[e] for e in sorted(epochs) if len(epochs[e]) == len(CURVES)]
    return {name: [values[name] for values in complete] for name in CURVES}


def broken_off(curves: Mapping[str, Sequence[float]], epoch: int) -> dict[str, list[float]]:
    """The curves up to ``epoch``, counted from 0, in which the loss was no number."""
    return {name: [*values[:epoch], math.nan] for name, values in curves.items()}


def diagnose_run(run: Path) -> Diagnosis | None:
    """Diagnose a run that is finished, from its files; None where nothing was validated.

    Where ``summary.json`` does not hold the accuracy of the nearest class mean, it is computed from
    the data that ``config.yaml`` names, if that is on this machine.

    Raises:
        UserError: a file of the run is missing or broken.
    """
    curves = read_curves(run / "metrics.csv")
    config = _mapping(run / "config.yaml", yaml.safe_load)
    path = run / "summary.json"
    summary = _mapping(path, json.loads) if path.is_file() else {}
    if "error" in summary:
        curves = broken_off(curves, len(curves["val/loss"]))
    if not curves["val/accuracy"]:
        return None
    try:
        classes = int(config["model"]["init_args"].get("num_classes", 10))
        data = json.dumps(config["data"], sort_keys=True)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{run / 'config.yaml'}: not the configuration of a run") from error
    reference = summary.get("nearest_mean_accuracy")
    if reference is None:
        reference = _reference_of(data)
    return diagnose(curves, classes, reference, config=config)


def _mapping(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; expected a run of train.py fit") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: broken ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values; got {type(content).__name__}")
    return content


@functools.lru_cache(maxsize=8)
def _reference_of(data: str) -> float | None:
    """Accuracy of the nearest class mean for a configuration of the data; None without the data."""
    from lightning.pytorch.cli import LightningArgumentParser

    from datamodules import ImageDataModule

    config = json.loads(data)
    for unused in ("augmentation", "mixing"):
        config.get("init_args", {}).pop(unused, None)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    try:
        datamodule = parser.instantiate(parser.parse_object({"data": config})).data
        datamodule.setup("fit")
    except (jsonargparse.ArgumentError, UserError, OSError, ValueError, TypeError):
        return None
    return nearest_mean_accuracy(datamodule)


def runs_in(path: Path) -> list[Path]:
    """``path`` where it is a run, or the runs below it.

    Raises:
        UserError: there are none.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such folder")
    found = sorted({file.parent for name in _RUN_FILES for file in path.glob(f"**/{name}")})
    if not found:
        raise UserError(f"{path}: holds no run; expected a folder with metrics.csv, or one of runs")
    return found


_RUN_FILES = ("metrics.csv", "summary.json")


def report(run: Path) -> str:
    """The diagnosis of a run that is finished, as text with commands."""
    diagnosis = diagnose_run(run)
    if diagnosis is None:
        return f"{run}: no diagnosis, nothing was validated"
    lines = [f"{run}: {diagnosis.kind}", *(f"  {text}" for text in diagnosis.evidence)]
    for remedy in diagnosis.advice:
        lines.append(f"  → {remedy.why}")
        if remedy.options:
            lines.append(f"    {remedy.command(as_typed(run / 'config.yaml'))}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m callbacks.fit_diagnosis", description="Diagnose runs that are finished."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or above runs")
    failed = False
    for path in parser.parse_args(arguments).runs:
        try:
            runs = runs_in(path)
        except UserError as error:
            print(f"fit_diagnosis: error: {error}", file=sys.stderr)
            failed = True
            continue
        for run in runs:
            try:
                print(report(run))
            except UserError as error:
                print(f"fit_diagnosis: error: {error}", file=sys.stderr)
                failed = True
    if failed:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
