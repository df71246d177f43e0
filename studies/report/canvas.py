"""Look of the figures of searches and comparisons."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, RED, ORANGE, GRAY, INK = "#2f6db3", "#c8452f", "#e07b00", "#8a8a8a", "#222222"


def canvas(title: str, height: float = 5.0) -> Figure:
    """900 pixels wide; belongs to no window and needs no closing."""
    figure = Figure(figsize=(9, height), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold", color=INK)
    return figure


def strip_axes(axes: Axes, grid: Any = "y") -> None:
    """Remove the box around the axes, and put a light grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
