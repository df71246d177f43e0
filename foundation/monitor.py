"""The direction in which a metric is better."""

from typing import Literal


def mode_of(monitor: str) -> Literal["min", "max"]:
    """``min`` for names that end in loss or error, ``max`` for all others.

    Args:
        monitor: a metric's name, e.g. ``val/loss``.
    """
    return "min" if monitor.endswith(("loss", "error")) else "max"
