"""Whether a metric is better when it is low or when it is high."""

from typing import Literal


def mode_of(monitor: str) -> Literal["min", "max"]:
    """``min`` for names that end in loss or error, ``max`` for all others.

    Args:
        monitor: a metric's name, e.g. ``val/loss``.
    """
    return "min" if monitor.endswith(("loss", "error")) else "max"
