"""What an installation brings: the dependencies, all of them and nothing else."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from foundation.checkout import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED: dict[str, Requirement] = {
    canonicalize_name(requirement.name): requirement
    for requirement in map(Requirement, PROJECT["dependencies"])
}
EXTRA = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
PINNED: dict[str, Version] = {
    canonicalize_name(name): Version(version)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
    for name, _, version in [line.partition("==")]
}


@pytest.mark.parametrize("text", sorted({*PROJECT["dependencies"], *EXTRA}))
def test_the_pinned_version_is_in_the_range(text: str) -> None:
    requirement = Requirement(text)
    assert PINNED[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_the_compromised_lightnings_are_excluded(version: str) -> None:
    assert Version(version) not in NEEDED["lightning"].specifier
    assert Version("2.6.1") in NEEDED["lightning"].specifier


@pytest.mark.parametrize("name", ["jsonargparse", "lightning", "optuna"])
def test_what_lends_private_parts_has_an_upper_bound(name: str) -> None:
    assert any(part.operator == "<" for part in NEEDED[name].specifier)


def imports(path: Path) -> set[str]:
    """Top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found.add(node.module.partition(".")[0])
    return found


def test_what_is_imported_is_named() -> None:
    sources = [
        path
        for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]
        if path.relative_to(ROOT).parts[0] not in ("tests", "data", "runs", "build")
    ]
    own = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir()}
    distributions = packages_distributions()
    missing = {
        f"{name} in {path.relative_to(ROOT)}"
        for path in sources
        for name in imports(path) - own - sys.stdlib_module_names
        if not {canonicalize_name(found) for found in distributions.get(name, [])} & NEEDED.keys()
    }
    assert missing == set()


def test_a_wheel_holds_no_module(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py", "callbacks/__init__.py"):
        (copy := tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "checkout", check=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert {name.partition("/")[0].rpartition(".")[2] for name in file.namelist()} == {
            "dist-info"
        }
