"""Whether two runs ended in the same place, bit for bit."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SPEED = "images_per_second"
# Callbacks whose state is paths and times.
_ELSEWHERE = ("ModelCheckpoint", "Throughput", "ChosenPrecision")


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv``, without speeds and empty cells."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if cell and SPEED not in name}
            for row in csv.DictReader(file)
        ]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every curve that TensorBoard shows, without speeds."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if SPEED not in tag
    }


def summary(run: Path) -> dict[str, Any]:
    """``summary.json`` without times, speeds and the commit; that there is a speed counts."""
    content = json.loads((run / "summary.json").read_text())
    assert content.pop("images_per_second") > 0
    assert content["final"].pop(f"train/{SPEED}") > 0
    return {name: value for name, value in content.items() if name not in ("seconds", "git_commit")}


def last(run: Path) -> dict[str, Any]:
    """``last.ckpt`` without paths and times: weights, averages, optimizer, schedule, counters."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for name in ("config", "config_signature"):
        checkpoint.pop(name, None)
    states = checkpoint["callbacks"]
    for name in [name for name in states if name.startswith(_ELSEWHERE)]:
        del states[name]
    del states["RunSummary"]["seconds"]
    states["RunSummary"]["final"].pop(f"train/{SPEED}", None)
    return checkpoint


def difference(ours: Any, theirs: Any, place: str) -> str:
    """The first place where two values differ, down to tensors; empty where none."""
    if type(ours) is not type(theirs):
        return f"{place}: {type(ours).__name__}, {type(theirs).__name__}"
    if isinstance(ours, dict) and ours.keys() == theirs.keys():
        parts: Any = ((name, ours[name], theirs[name]) for name in ours)
    elif isinstance(ours, list | tuple) and len(ours) == len(theirs):
        parts = zip(range(len(ours)), ours, theirs, strict=True)
    elif isinstance(ours, torch.Tensor):
        same = ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        return "" if same else place
    else:
        return "" if ours == theirs else f"{place}: {ours}, {theirs}"[:500]
    found = (difference(our, their, f"{place}/{name}") for name, our, their in parts)
    return next(filter(None, found), "")


def different(ours: Path, theirs: Path) -> str:
    """The first thing that differs between two runs' folders; empty where none."""
    found = (
        difference(read(ours), read(theirs), read.__name__)
        for read in (last, rows, scalars, summary)
    )
    return next(filter(None, found), "")
