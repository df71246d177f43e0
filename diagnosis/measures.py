"""Measures of curves, and the thresholds between kinds of runs."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

Kind = Literal["overfitting", "underfitting", "oscillating", "not converging", "good fit"]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Bounds between the kinds of runs; every number is a ratio.

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


USUAL_THRESHOLDS = Thresholds()


@dataclasses.dataclass(frozen=True)
class Measures:
    """Numbers that :class:`Thresholds` are compared with. "The end" is the mean of the last third.

    Attributes:
        learned: validation accuracy at the end, 0 for chance and 1 for perfect.
        swing: mean fall of the validation accuracy, in reference errors.
        gap: training accuracy less validation accuracy at the end, in reference errors.
        rise: validation loss at the end above its lowest, relative to that; of epochs after it.
        shortfall: the fewest errors, of training and validation, in reference errors.
        improving: fall of the validation loss in the last epoch, relative.
    """

    learned: float
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
        reference_error = max(1 - reference, LEAST)
        best = max(*accuracy, *curves["train/accuracy"])
        return cls(
            learned=(end_of(accuracy) - chance) / (1 - chance),
            swing=falls / max(len(steps), 1) / reference_error,
            gap=(end_of(curves["train/accuracy"]) - end_of(accuracy)) / reference_error,
            rise=_rise(loss),
            shortfall=(1 - best) / reference_error,
            improving=1 - loss[-1] / max(loss[-2], LEAST) if len(loss) > 1 else 0.0,
        )


LEAST = 1e-6  # instead of dividing by 0


def _rise(loss: Sequence[float]) -> float:
    lowest = min(range(len(loss)), key=loss.__getitem__)
    tail = loss[max(lowest + 1, len(loss) - max(1, len(loss) // 3)) :]
    return sum(tail) / len(tail) / max(loss[lowest], LEAST) - 1 if tail else 0.0


def end_of(curve: Sequence[float]) -> float:
    """Mean of the last third."""
    tail = curve[-max(1, len(curve) // 3) :]
    return sum(tail) / len(tail)


def kind_of(measures: Measures, epochs: int, thresholds: Thresholds) -> Kind:
    """The first kind whose threshold is passed, in this order."""
    long_enough = epochs >= thresholds.epochs
    if measures.learned < thresholds.chance:
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
