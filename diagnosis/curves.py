"""The curves of a run, from its ``metrics.csv``."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundation.errors import UserError

CURVES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


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
