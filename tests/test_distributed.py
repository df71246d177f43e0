"""Two processes (DDP on the CPU) train, test and predict as one would, and write one run."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train

REPOSITORY = Path(__file__).parent.parent
# 4,999 images on two processes: 2,500 and 2,499, in two batches and one.
EVALUATION = ("--data.val_size=4999", "--data.eval_batch_size=2499")
# Batch norm: each process has running statistics of its own images.
MODEL = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16", "--model.norm=batch")
OPTIONS = (
    "--model.preprocessing=MinMaxScaling",
    "--model.optimizer.lr=0.01",
    "--data=FashionMNISTDataModule",
    *EVALUATION,
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=30",
    "--trainer.enable_progress_bar=false",
    "--trainer.precision=32-true",  # what is chosen may differ between two commands
)
TWO = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu")


def start(*args: str, folder: Path, script: Path = REPOSITORY / "train.py") -> str:
    """Run train.py as a user does; return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if script.parent != REPOSITORY:
        environment["PYTHONPATH"] = str(REPOSITORY)
    process = subprocess.run(
        [sys.executable, str(script), *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert process.returncode == 0, process.stderr
    # A warning of Lightning's names the file, not the word.
    assert "warning" not in process.stderr.lower()
    assert "site-packages" not in process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder in which two processes have trained."""
    folder = tmp_path_factory.mktemp("two")
    data = f"--data.root={data_root}"
    output = start("fit", *MODEL, *OPTIONS, data, "--data.batch_size=64", *TWO, folder=folder)
    assert output.count("test/accuracy") == 1  # one table, from one process
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return folder / "runs" / "BaselineCNN" / "version_0"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_two_processes_write_one_run(folder: Path, run: Path) -> None:
    assert list((folder / "runs").rglob("config.yaml")) == [run / "config.yaml"]
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert summary(run)["processes"] == 2
    assert summary(run)["steps"] == 60
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["val/loss"]] == ["29", "59"]


def test_metrics_count_every_image_once(run: Path, tmp_path: Path) -> None:
    """One process must reach, with the same weights, exactly what two have reached."""
    before = summary(run)
    path = run / "checkpoints" / "best.ckpt"
    one = [f"--ckpt_path={path}", "--trainer.strategy=auto", "--trainer.devices=1"]
    validated = train.main(["validate", *one]).trainer.callback_metrics
    assert float(validated["val/accuracy"]) == before["best"]["val/accuracy"]
    assert float(validated["val/loss"]) == pytest.approx(before["best"]["val/loss"], rel=1e-5)
    train.main(["test", *one])
    after = summary(run)
    assert after["test"]["test/accuracy"] == before["test"]["test/accuracy"]
    assert after["test"] == pytest.approx(before["test"], rel=1e-4)
    assert after["test_accuracy_by_class"] == before["test_accuracy_by_class"]


@pytest.mark.slow
def test_two_processes_predict_every_image_once(folder: Path, run: Path) -> None:
    # 10,000 images in batches of 1,111: both processes end with a small one.
    start("predict", "--ckpt_path=best", "--data.eval_batch_size=1111", folder=folder)
    with open(run / "predictions.csv", newline="") as file:
        two = list(csv.reader(file))
    assert [int(row[0]) for row in two[1:]] == list(range(10_000))
    path = run / "checkpoints" / "best.ckpt"
    train.main(["predict", f"--ckpt_path={path}", "--trainer.strategy=auto", "--trainer.devices=1"])
    with open(run / "predictions.csv", newline="") as file:
        one = list(csv.reader(file))
    assert [row[:3] for row in two] == [row[:3] for row in one]


def test_two_processes_learn_what_one_does(run: Path, data_root: Path, tmp_path: Path) -> None:
    # The same number of images per step, and the same number of steps.
    options = [f"--data.root={data_root}", "--data.batch_size=128", f"--runs_dir={tmp_path}"]
    train.main(["fit", *MODEL, *OPTIONS, *options, "--trainer.accelerator=cpu"])
    one = summary(tmp_path / "BaselineCNN" / "version_0")["test"]["test/accuracy"]
    assert one > 0.6
    assert summary(run)["test"]["test/accuracy"] == pytest.approx(one, abs=0.08)


# Counts process 0's broadcasts of buffers: torch's own, and those of ImageClassifier.
COUNTING = """
import json
from torch import distributed
import train
from experiment.main import leave_process_group

sent = {"broadcast": 0, "_broadcast_coalesced": 0}

def counted(name, send):
    def call(*args, **kwargs):
        sent[name] += 1
        return send(*args, **kwargs)
    return call

for name in sent:
    setattr(distributed, name, counted(name, getattr(distributed, name)))
cli = train.main()
if cli.trainer.is_global_zero:
    print(json.dumps({"buffers": len(list(cli.model.buffers())), **sent}))
leave_process_group()
"""


@pytest.mark.slow
def test_running_statistics_travel_before_validation_alone(data_root: Path, tmp_path: Path) -> None:
    """And with averages of the weights, it is the averaged statistics that do."""
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    overlays = ("techniques/regularization/ema.yaml", "hardware/multi_cpu.yaml")
    configs = [f"--config={REPOSITORY / 'configs' / path}" for path in overlays]
    arguments = (*configs, *MODEL, *OPTIONS, f"--data.root={data_root}", "--test_best=false")
    arguments = (*arguments, "--trainer.precision=32-true")  # as precise as what is compared
    output = start(
        *("fit", *arguments, "--trainer.num_sanity_val_steps=1"), folder=tmp_path, script=script
    )
    (line,) = [line for line in output.splitlines() if line.startswith("{")]
    told = json.loads(line)
    # Three validations; in none of the 60 steps does Lightning ask whether to stop.
    assert told["broadcast"] == 3 * told["buffers"]
    # Weights and buffers to begin with, and buffers in the first validation's own forward pass.
    assert told["_broadcast_coalesced"] == 2

    run = tmp_path / "runs" / "techniques" / "regularization" / "ema+multi_cpu" / "version_0"
    best = f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"
    validated = train.main(["validate", best, "--trainer.strategy=auto", "--trainer.devices=1"])
    reached = validated.trainer.callback_metrics["val/loss"]
    assert float(reached) == pytest.approx(summary(run)["best"]["val/loss"], rel=1e-5)
