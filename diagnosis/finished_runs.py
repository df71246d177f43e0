"""The diagnosis of runs that are finished: ``python train.py diagnose runs/…``."""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from datamodules.from_config import datamodule_of
from diagnosis.curves import broken_off, read_curves
from diagnosis.diagnosis import Diagnosis, diagnose
from diagnosis.reference import nearest_mean_accuracy
from foundation.allowed_classes import AllowedClasses
from foundation.checkout import find_own_modules
from foundation.errors import UserError, printable
from foundation.run_folder import as_typed
from foundation.workarounds.class_paths import guarded
from foundation.yaml_text import load_yaml


def diagnose_run(run: Path) -> Diagnosis | None:
    """Diagnose a run that is finished, from its files; None where nothing was validated.

    Where ``summary.json`` does not hold the accuracy of the nearest class mean, it is computed from
    the data that ``config.yaml`` names, if that is on this machine.

    Raises:
        UserError: a file of the run is missing or broken.
    """
    curves = read_curves(run / "metrics.csv")
    config = _mapping(run / "config.yaml", load_yaml)
    path = run / "summary.json"
    summary = _mapping(path, json.loads) if path.is_file() else {}
    if "error" in summary:
        curves = broken_off(curves, len(curves["val/loss"]))
    if not curves["val/accuracy"]:
        return None
    try:
        given = config["model"]["init_args"].get("num_classes")
        data = json.dumps(config["data"], sort_keys=True)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{run / 'config.yaml'}: not the configuration of a run") from error
    try:
        described = summary.get("data", {})
        names = described.get("class_names") or summary.get("test_accuracy_by_class")
        classes = int(given or len(names or ()) or _datamodule(data).num_classes)
    except (*_NO_DATA, AttributeError, NotImplementedError) as error:
        raise UserError(f"{run}: does not say how many classes the data has") from error
    reference = summary.get("nearest_mean_accuracy")
    if not isinstance(reference, int | float):
        reference = _reference_of(data)
    try:
        return diagnose(curves, classes, reference, config=config)
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{run / 'config.yaml'}: not the configuration of a run") from error


def _mapping(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(path.read_text(errors="replace"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; expected a run of train.py fit") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: broken ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values; got {type(content).__name__}")
    return content


_NO_DATA = (jsonargparse.ArgumentError, UserError, OSError, ValueError, TypeError)


def _datamodule(data: str) -> Any:
    """The data module of a configuration, which may be somebody else's."""
    with guarded(AllowedClasses()):
        return datamodule_of(data)


@functools.lru_cache(maxsize=8)
def _reference_of(data: str) -> float | None:
    """Accuracy of the nearest class mean for a configuration of the data; None without the data."""
    try:
        datamodule = _datamodule(data)
        datamodule.setup("fit")
    except _NO_DATA:
        return None
    return nearest_mean_accuracy(datamodule)


def runs_in(path: Path) -> list[Path]:
    """``path`` where it is a run, or the runs below it.

    Raises:
        UserError: there are none.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such folder")
    found = sorted({file.parent for name in _RUN_FILES for file in path.glob(f"**/{name}")})
    if not found:
        raise UserError(f"{path}: holds no run; expected a folder with metrics.csv, or one of runs")
    return found


_RUN_FILES = ("metrics.csv", "summary.json")


def report(run: Path) -> str:
    """The diagnosis of a run that is finished, as text with commands."""
    diagnosis = diagnose_run(run)
    if diagnosis is None:
        return f"{run}: no diagnosis, nothing was validated"
    lines = [f"{run}: {diagnosis.kind}", *(f"  {text}" for text in diagnosis.evidence)]
    for suggestion in diagnosis.advice:
        lines.append(f"  → {suggestion.why}")
        if suggestion.options:
            lines.append(f"    {suggestion.command(as_typed(run / 'config.yaml'))}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    find_own_modules()
    parser = argparse.ArgumentParser(
        prog="train.py diagnose", description="Diagnose runs that are finished."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or above runs")
    failed = False
    for path in parser.parse_args(arguments).runs:
        try:
            runs = runs_in(path)
        except UserError as error:
            print(f"train.py: error: {error}", file=sys.stderr)
            failed = True
            continue
        for run in runs:
            try:
                print("\n".join(map(printable, report(run).split("\n"))))
            except UserError as error:
                print(f"train.py: error: {error}", file=sys.stderr)
                failed = True
    if failed:
        raise SystemExit(2)
