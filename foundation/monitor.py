"""The direction in which a metric is better."""

from typing import Literal

_FALL, _RISE = ("loss", "error"), ("accuracy", "f1", "f1_macro")


def mode_of(monitor: str, otherwise: str = "max") -> Literal["min", "max"]:
    """``min`` for losses and errors, ``max`` for accuracies, by the metric's name.

    Args:
        monitor: e.g. ``val/loss``.
        otherwise: mode of a metric whose name does not say.
    """
    if monitor.endswith(_FALL):
        return "min"
    return "min" if otherwise == "min" and not monitor.endswith(_RISE) else "max"
