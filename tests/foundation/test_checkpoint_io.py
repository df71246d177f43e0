"""Checkpoints are whole or not there, also on a disk that is full."""

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.checkpoint_io import WholeCheckpointIO

MEGABYTE = 1 << 20


def checkpoint(value: float) -> dict[str, Any]:
    return {"state_dict": {"weights": torch.full((3 * MEGABYTE // 4,), float(value))}}


def test_a_full_disk_keeps_the_one_before(mount: Callable[[str], Path]) -> None:
    small_disk = mount("5m")  # room for one of three megabytes
    path = small_disk / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(checkpoint(1), path)
    with pytest.raises(OSError, match="No space left") as error:
        WholeCheckpointIO().save_checkpoint(checkpoint(2), path)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert torch.load(path)["state_dict"]["weights"][0] == 1
    assert list(small_disk.iterdir()) == [path]
    resize = "remount,size=16m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", resize, "tmpfs", small_disk], check=True)
    WholeCheckpointIO().save_checkpoint(checkpoint(2), path)
    assert torch.load(path)["state_dict"]["weights"][0] == 2


def write_again_and_again(path: Path) -> None:
    value = 0
    while True:
        value += 1
        WholeCheckpointIO().save_checkpoint(checkpoint(value), path)


def test_a_kill_leaves_a_whole_one(tmp_path: Path, kill_while: Callable[..., None]) -> None:
    path = tmp_path / "last.ckpt"
    for turn in range(10):
        kill_while(write_again_and_again, path, 0.02 + 0.003 * turn)
        assert torch.load(path)["state_dict"]["weights"].unique().numel() == 1


def test_the_system_s_temporary_folder_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    WholeCheckpointIO().save_checkpoint(checkpoint(1), tmp_path / "new" / "last.ckpt")
    assert torch.load(tmp_path / "new" / "last.ckpt")["state_dict"]["weights"][0] == 1
