"""``runs.csv``: the runs of a comparison, a line each, from which everything else follows."""

import csv
import io
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from studies.compare.comparison_table import Run
from studies.report import tables

# What identifies a run and is told of it; the columns after these are measured numbers.
_TOLD = ("group", "variant", "seed", "machine", "commit", "config", "diagnosis", "reason")
_CURVE, _RIGHT = "val/accuracy by epoch", "right"


def as_text(runs: list[Run]) -> str:
    """The runs as CSV, unrounded."""
    return tables.as_csv(
        [
            {name: getattr(run, name) for name in _TOLD}
            | run.measured
            | {
                _CURVE: " ".join(f"{value:.6g}" for value in run.curves.get("val/accuracy", [])),
                _RIGHT: "" if run.right is None else packed(run.right),
            }
            for run in runs
        ]
    )


def read(path: Path) -> list[Run]:
    """The runs in a file.

    Raises:
        UserError: it is not what a comparison wrote.
    """
    csv.field_size_limit(2**24)
    try:
        records = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [_run(record) for record in records]
    except (OSError, ValueError, KeyError, TypeError, csv.Error, zlib.error) as error:
        raise UserError(f"{path}: not the runs.csv of a comparison ({error!r})") from error


def _run(record: dict[str, str]) -> Run:
    curve = [float(value) for value in record[_CURVE].split()]
    return Run(
        group=record["group"],
        variant=record["variant"],
        seed=int(record["seed"]),
        machine=record["machine"],
        commit=record["commit"],
        config=record["config"],
        diagnosis=record["diagnosis"] or None,
        reason=record["reason"] or None,
        measured={
            name: int(value) if value.isdecimal() else float(value)
            for name, value in record.items()
            if value and name not in (*_TOLD, _CURVE, _RIGHT)
        },
        curves={"val/accuracy": curve} if curve else {},
        right=unpacked(record[_RIGHT]) if record[_RIGHT] else None,
    )


def packed(right: NDArray[np.bool_]) -> str:
    """Bits as text: their number, and base64 of the compressed bytes."""
    return f"{len(right)}:{b64encode(zlib.compress(np.packbits(right).tobytes(), 9)).decode()}"


def unpacked(text: str) -> NDArray[np.bool_]:
    """The bits that :func:`packed` made a text of."""
    count, _, bits = text.partition(":")
    buffer = zlib.decompress(b64decode(bits))
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=int(count)).astype(bool)
