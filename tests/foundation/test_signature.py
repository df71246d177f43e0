"""The user's signature: one key, for the user alone, and nothing fails without one."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.checkout import ROOT
from foundation.signature import is_own, sign

KEY = Path("cnn-techniques", "key")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_one_s_own_text_is_told_from_another(state: Path) -> None:
    signature = sign("model: mine")
    assert is_own("model: mine", signature)
    assert not is_own("model: yours", signature)
    for junk in (None, "", "0" * 64, 3, b"bytes", [signature], "ä"):
        assert not is_own("model: mine", junk)
    (state / KEY).unlink()
    assert not is_own("model: mine", signature)  # another machine


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_key_is_for_the_user_alone(state: Path) -> None:
    sign("")
    assert len((state / KEY).read_bytes()) == 32
    assert stat.S_IMODE((state / KEY).stat().st_mode) == 0o600
    assert [path.name for path in (state / KEY).parent.iterdir()] == ["key"]


def test_looking_makes_no_key(state: Path) -> None:
    assert not is_own("text", "0" * 64)
    assert list(state.iterdir()) == []


def test_processes_that_begin_at_once_end_with_one_key(state: Path) -> None:
    code = "import runpy; print(runpy.run_path('foundation/signature.py')['sign']('x'))"
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    assert {process.communicate(timeout=120)[0].strip() for process in processes} == {sign("x")}


def test_without_a_place_for_a_key_nothing_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert sign("x") is None
    assert not is_own("x", None)
    if os.name == "posix":
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", "/proc/none")
        assert sign("x") is None


def test_a_key_that_was_cut_off_signs_nothing(state: Path) -> None:
    (state / KEY).parent.mkdir()
    (state / KEY).write_bytes(b"short")
    assert sign("x") is None
    assert not is_own("x", "0" * 64)
