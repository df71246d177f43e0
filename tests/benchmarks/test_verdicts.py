"""The simulation of verdicts: its numbers are rates, and a broken method would be seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import verdicts


def test_tables_and_numbers(tmp_path: Path) -> None:
    verdicts.main(["--repeats=2", f"--results={tmp_path}"])
    found = json.loads((tmp_path / "verdicts.json").read_text())
    assert set(found["scenarios"]) == set(verdicts.SCENARIOS)
    for cells in found["scenarios"].values():
        assert len(cells) == len(verdicts.SEEDS) * len(verdicts.COUNTS)
        assert all(0 <= cell["error"] <= 1 and 0 <= cell["held"] <= 1 for cell in cells.values())
    page = (tmp_path / "verdicts.md").read_text()
    assert page.startswith("`python -m benchmarks.verdicts --repeats=2")
    for name in (*verdicts.SCENARIOS, "max-T, sign flips; equal spreads", "5 folds"):
        assert f"| {name} |" in page


def test_what_is_simulated_is_what_is_said() -> None:
    rng = np.random.default_rng(0)
    assert verdicts.base_times(3)(rng, 4, 20000)[0].std() > 2.9
    copied = verdicts.copies(rng, 10, 5)
    assert len(np.unique(copied, axis=0)) == 1 + 10 - 2 - 2
    half: Any = np.corrcoef(verdicts.shared_by_half(False)(rng, 10, 20000))
    assert half[1, 2] > 0.7
    assert abs(half[0, 1]) < 0.05
    assert abs(half[1, 9]) < 0.05


@pytest.mark.slow
def test_it_sees_that_verdicts_without_correction_err() -> None:
    """With intervals of one difference alone, something is found nearly always."""
    cell = verdicts.measure(verdicts.equal, 60, 5, 40)
    assert cell["error"] < 0.2
    assert cell["held"] < 0.99
    rates = [
        verdicts.image_coverage(300, 10, 100, with_images=with_images)
        for with_images in (True, False)
    ]
    assert rates[0] > 0.88 > rates[1]
    assert verdicts.fold_coverage(5, 300) > 0.91 > verdicts.fold_coverage(5, 300, corrected=False)
