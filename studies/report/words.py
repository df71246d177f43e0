"""Numbers in words, as terminal, pages and figures show them."""

import statistics
from collections.abc import Iterable


def decimals(value: float | None, digits: int = 4) -> str | None:
    """A number with so many decimals; None stays None."""
    return None if value is None else f"{value:.{digits}f}"


def mean_and_deviation(values: Iterable[float]) -> str | None:
    """``0.9200 ± 0.0100``: mean and standard deviation, which takes two values; None of none."""
    known = list(values)
    if not known:
        return None
    text = f"{statistics.mean(known):.4f}"
    return f"{text} ± {statistics.stdev(known):.4f}" if len(known) > 1 else text


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign, a real minus among them."""
    return f"{value:+.{digits}f}".replace("-", "−")


def points(value: float, digits: int = 2) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return signed(100 * value, digits)


def interval(low: float | None, high: float | None) -> str | None:
    """An interval in percentage points; None where an end is unknown."""
    return None if low is None or high is None else f"{points(low)} to {points(high)}"


def sentence(text: str) -> str:
    """The text with a capital at its beginning and a period at its end."""
    return f"{text[0].upper()}{text[1:]}."


def counted(number: int, thing: str) -> str:
    """``1 trial``, ``1,200 trials``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
