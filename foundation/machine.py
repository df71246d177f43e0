"""The machine that this process runs on, in words."""

import functools
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


@functools.cache
def processor() -> str:
    """The processor's name, and the GPU's where there is one: runs compare on one kind of them."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return torch.cuda.get_device_name() if torch.cuda.is_available() else name


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """The processor, how many of its cores this process may use, Python and torch."""
    return (
        f"{cores()} cores of {processor()}, Python {platform.python_version()}, "
        f"torch {version('torch')}"
    )
