"""The benchmark of kept memory: a short run, both ways."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.malloc import CONTESTANTS, WORK, main
from foundation.workarounds.glibc_malloc import keep_freed_memory


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is there on Linux only")
def test_kept_memory_faults_no_pages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["--turns=1", "--images=1024", f"--results={tmp_path}"])
    shown = capfd.readouterr().out
    report = json.loads((tmp_path / "malloc.json").read_text())
    turns = {name: report["turns"][name][0] for name in CONTESTANTS}
    # 512 images need blocks above glibc's 32 MiB, which it maps anew in every step.
    faults = {name: turns[name]["train 512"]["faults"] for name in CONTESTANTS}
    assert faults["glibc's way"] > 10
    assert faults["kept"] < faults["glibc's way"] / 2
    assert len([line for line in shown.splitlines() if line.endswith(" |")]) == len(WORK) + 1
    assert (tmp_path / "malloc.md").read_text() in shown


def test_elsewhere_nothing_is_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
