"""Runs that go on: from which checkpoint, in which folder, and whether anything is left to do."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from callbacks.last_checkpoint import NAME
from foundation.run_folder import run_folder
from foundation.run_logger import RunLogger
from foundation.whole_file import write

_MARK = ".torchrun"  # in a run's folder: which torchrun made it


def run_that_goes_on(path: Path) -> Path | None:
    """The run that a fit from this checkpoint goes on in; None where it begins another.

    From any but the last checkpoint, it would write over what the run did after it.
    """
    return run_folder(path) if path.name == NAME else None


def finished(checkpoint: dict[str, Any], run: Path, max_epochs: int, max_steps: int) -> str:
    """Say why nothing is left to do in a run; empty where something is.

    Args:
        checkpoint: the run's last.
        run: its folder.
        max_epochs: of the command; -1 for no limit.
        max_steps: likewise.
    """
    epochs, states = checkpoint["epoch"], checkpoint.get("callbacks", {}).values()
    stopped = any(s["wait_count"] >= s["patience"] for s in states if "wait_count" in s)
    reached = 0 <= max_epochs <= epochs or 0 <= max_steps <= checkpoint["global_step"]
    file = run / "summary.json"
    summary = json.loads(file.read_text()) if file.is_file() else {}
    if not (stopped or reached) or summary.get("epochs") != epochs or "finished" not in summary:
        return ""
    if stopped:
        return f"stopped early after {epochs} epochs"
    return f"all {epochs} epochs are done; a larger --trainer.max_epochs trains on"


@rank_zero_only
def mark(logger: RunLogger) -> None:
    """Note in a run's folder which torchrun made it, where one did."""
    if name := _torchrun():
        write(Path(logger.log_dir, _MARK), name)


def restarted_run(folder: Path) -> Path | None:
    """The last checkpoint of the run that this process was restarted for by torchrun, if any.

    Args:
        folder: of the experiment's runs.
    """
    if not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return None
    for path in folder.glob(f"version_*/{_MARK}"):
        last = path.parent / "checkpoints" / NAME
        if path.read_text() == _torchrun() and last.is_file():
            return last
    return None


def _torchrun() -> str:
    """A name that is the same for all restarts; empty without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    # Its name unless --rdzv_id is given; then its process tells it from others.
    return f"{platform.node()} {os.getppid()}" if name == "none" else name
