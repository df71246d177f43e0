"""The recipe benchmark runs whole commands and writes what they reached."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("validated", [True, False])
def test_writes_a_table_and_every_runs_summary(
    data_root: Path, tmp_path: Path, validated: bool
) -> None:
    command = [sys.executable, "-m", "benchmarks.recipes", "configs/mlp.yaml", "--seeds=1"]
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    short += [] if validated else ["--data.val_size=0"]
    subprocess.run(
        [*command, f"--results={tmp_path}", *short, f"--data.root={data_root}"],
        cwd=REPOSITORY,
        check=True,
        timeout=120,
    )
    table = (tmp_path / "mlp.md").read_text()
    report = json.loads((tmp_path / "mlp.json").read_text())
    (run,) = report["runs"]
    assert run["steps"] == 2
    assert run["wall_seconds"] > run["seconds"] > 0
    assert f"| test accuracy | {run['test']['test/accuracy']:.4f} ± 0.0000 |" in table
    assert report["machine"] in table
    assert ("| validation accuracy |" in table) == validated
