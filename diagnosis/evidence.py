"""The numbers behind a diagnosis, in words."""

import itertools
from collections.abc import Mapping, Sequence

from diagnosis.measures import Kind, Measures, Thresholds, end_of


class Evidence:
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
        lines = [f"val/accuracy ends at {end_of(self.val):.3f}, and chance is {self.chance:.3f}"]
        if (end_of(self.train) - self.chance) / (1 - self.chance) > self.thresholds.chance:
            lines.append(f"train/accuracy ends at {end_of(self.train):.3f}: it memorizes")
        why = (
            "the labels do not belong to the images"
            if self.labels_are_noise
            else "the data can be learned"
        )
        return [*lines, f"{self.reference}: {why}"]

    def oscillating(self) -> list[str]:
        falls = [before - after for before, after in itertools.pairwise(self.val)]
        worst = max(range(len(falls)), key=falls.__getitem__)
        mean = sum(max(0.0, fall) for fall in falls) / len(falls)
        best = max(self.val)
        return [
            f"val/accuracy falls by {mean:.3f} per epoch on average, "
            f"by {falls[worst]:.3f} after epoch {worst + 1}",
            f"it ends at {self.val[-1]:.3f}; the best was {best:.3f} in epoch "
            f"{self.val.index(best) + 1}",
        ]

    def overfitting(self) -> list[str]:
        lowest = min(self.losses)
        gap = (
            f"train/accuracy ends at {end_of(self.train):.3f}, "
            f"val/accuracy at {end_of(self.val):.3f}; {self.reference}"
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
            f"val/accuracy ends at {end_of(self.val):.3f}, "
            f"train/accuracy at {end_of(self.train):.3f}; {self.reference}",
            self._movement(),
        ]
