"""Kinds of finished trainings: overfitting, underfitting, oscillating, not converging, good fit.

:func:`diagnose` reads the curves alone; ``docs/diagnosis.md`` describes it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diagnosis.curves import CURVES
from diagnosis.evidence import Evidence
from diagnosis.measures import USUAL_THRESHOLDS, Kind, Measures, Thresholds, kind_of
from diagnosis.suggestions import Suggestion, suggestions

# Where the nearest class mean is not known: how far it comes from chance to perfect. It comes 0.66
# of the way on FashionMNIST and 0.78 on MNIST.
_USUAL_REFERENCE = 0.7


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The kind of a training, with evidence and advice.

    Attributes:
        kind: one of five.
        evidence: sentences with numbers, the deciding one first.
        advice: what to try next, the most promising first.
    """

    kind: Kind
    evidence: list[str]
    advice: list[Suggestion]

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        advice = [suggestion._asdict() for suggestion in self.advice]
        return {"kind": self.kind, "evidence": self.evidence, "advice": advice}


def diagnose(
    curves: Mapping[str, Sequence[float]],
    num_classes: int,
    reference: float | None,
    thresholds: Thresholds = USUAL_THRESHOLDS,
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
    advice = suggestions(
        kind, config or {}, epochs=epochs, best_epoch=best_epoch + 1, improving=improving
    )
    if broken is not None:
        return Diagnosis(kind, [f"the loss was no number in epoch {broken + 1}"], advice)
    words = Evidence(curves, measures, chance, reference, known, thresholds)
    evidence = words.of(kind)
    if kind == "not converging" and reference is not None and words.labels_are_noise:
        advice.insert(0, Suggestion("look at the labels: do they belong to the images?", ""))
    if epochs < thresholds.epochs and kind != "not converging":
        many = "1 epoch is" if epochs == 1 else f"{epochs} epochs are"
        evidence.append(f"{many} too short to show overfitting or oscillation")
        if kind == "underfitting" and not any("max_epochs" in r.options for r in advice):
            advice.insert(0, Suggestion("longer: it had hardly begun", "--trainer.max_epochs 10"))
    return Diagnosis(kind, evidence, advice)


def _all_finite(curves: Mapping[str, Sequence[float]], epoch: int) -> bool:
    return all(math.isfinite(curves[name][epoch]) for name in CURVES)


def as_markdown(diagnosis: Diagnosis, config: str) -> str:
    """For TensorBoard's text tab."""
    lines = [f"**{diagnosis.kind}**", "", *(f"- {text}" for text in diagnosis.evidence), ""]
    for suggestion in diagnosis.advice:
        command = f": `{suggestion.command(config)}`" if suggestion.options else ""
        lines.append(f"1. {suggestion.why}{command}")
    return "\n".join(lines)
