"""The checkout that this project is run from: its folder and its commit."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


def technique(name: str) -> Path:
    """The overlay of a technique, whatever its family.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    for path in CONFIGS.glob(f"techniques/*/{name}.yaml"):
        return path
    raise FileNotFoundError(f"there is no technique {name} in {CONFIGS / 'techniques'}")


def git_commit() -> str | None:
    """The commit of this project's checkout, with ``+`` where files differ from it."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def found(path: str | Path) -> Path:
    """The path itself where it exists; else the same path in the checkout, if it exists there."""
    here, there = Path(path), ROOT / path
    return there if not here.exists() and there.exists() else here


def find_own_modules() -> None:
    """Let classes in files of the current folder be found by name, after everything installed."""
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
