"""Which way a metric is good."""

from typing import Literal


def mode_of(monitor: str) -> Literal["min", "max"]:
    """``min`` for losses and errors, by the metric's name, and ``max`` for everything else."""
    return "min" if monitor.endswith(("loss", "error")) else "max"
