"""No overlay loses what another one wrote, in any order of two."""

import functools
import inspect
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from experiment.cli import ExperimentCLI
from foundation.checkout import CONFIGS
from studies.training import _ConfigCLI

BASE = CONFIGS / "baseline_cnn.yaml"
OVERLAYS = sorted(CONFIGS.glob("techniques/*/*.yaml"))


@functools.cache
def fit_parser() -> Any:
    return ExperimentCLI._parser(_ConfigCLI(["fit", f"--config={BASE}"]), "fit")


@functools.cache
def leaves(path: Path) -> dict[str, Any]:
    """The values that a file writes, by dotted keys; a class by itself is its ``class_path``."""

    def walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict):
            yield key, node
            return
        for name, child in node.items():
            yield from walk(child, f"{key}.{name}".lstrip("."))

    found = yaml.safe_load(path.read_text())
    found.pop("tune", None)  # is compare.py's
    return dict(walk(found, ""))


@functools.cache
def arguments(class_path: str) -> set[str]:
    """Names that a class takes, its bases' too where it passes keywords on."""
    names: set[str] = set()
    owners: Any = locate(class_path)
    for owner in inspect.getmro(owners):
        names |= set(inspect.signature(owner.__init__).parameters)  # type: ignore[misc]
    return names


def overwritten(key: str, later: dict[str, Any]) -> bool:
    """Whether a later file writes this value or takes its branch away."""
    parts = key.split(".")
    branches = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return any(other in branches or other == f"{key}.class_path" for other in later)


def lacked(key: str, result: Namespace) -> bool:
    """Whether a class that the key lies in has no such argument."""
    parts = key.split(".")
    for i, part in enumerate(parts[:-1]):
        owner = result.get(".".join(parts[:i]))
        if part == "init_args" and parts[i + 1].rstrip("+") not in arguments(owner.class_path):
            return True
    return False


def check(*files: Path) -> None:
    result = fit_parser().parse_args(
        [f"--config={path}" for path in files], defaults=False, _skip_validation=True
    )
    for i, path in enumerate(files):
        later = {key: v for after in files[i + 1 :] for key, v in leaves(after).items()}
        for key, value in leaves(path).items():
            if overwritten(key, later) or lacked(key, result):
                continue
            found = result.get(key.rstrip("+"))
            if isinstance(found, Namespace):  # a class by itself
                found = found.class_path
            if isinstance(value, str) and isinstance(found, str):
                assert found.rsplit(".", 1)[-1] == value.rsplit(".", 1)[-1], (key, files)
            elif key.endswith("+") or isinstance(value, list):
                assert len(found) >= len(value), (key, files)
            else:
                assert found == value, (key, files)


def meet(one: Path, other: Path) -> bool:
    """Whether two files write into the same argument; others cannot change one another."""

    def places(path: Path) -> set[tuple[str, ...]]:
        return {tuple(key.rstrip("+").split(".")[:3]) for key in leaves(path)}

    return not places(one).isdisjoint(places(other))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_what_an_overlay_writes_stays_under_those_that_write_beside_it(overlay: Path) -> None:
    for other in OVERLAYS:
        if other != overlay and meet(overlay, other):
            check(BASE, overlay, other)


@pytest.mark.matrix
def test_what_an_overlay_writes_stays_under_every_other() -> None:
    for one, other in permutations(OVERLAYS, 2):
        check(BASE, one, other)
