"""summary.json says what metrics.csv and the model say, and TensorBoard's HPARAMS tab too."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.data import DataLoader, TensorDataset

import train
from callbacks import RunSummary
from experiment.cli import ExperimentCLI
from lightning_modules import BaselineCNN

SMALL = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16")


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> ExperimentCLI:
    """A finished ``fit``, shared."""
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    limits = ["--trainer.limit_train_batches=6", "--trainer.limit_val_batches=1"]
    options = ["--model.optimizer.lr=0.005", "--trainer.max_epochs=3", *limits]
    place = f"--runs_dir={tmp_path_factory.mktemp('summary')}"
    quiet = ["--trainer.limit_test_batches=1", "--trainer.enable_progress_bar=false"]
    return train.main(["fit", *SMALL, *data, *options, *quiet, place])


@pytest.fixture(scope="module")
def run(cli: ExperimentCLI) -> Path:
    return Path(cli.trainer.loggers[0].log_dir or "")


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_summary_agrees_with_the_curves(run: Path, cli: ExperimentCLI) -> None:
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    accuracy = [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]
    loss = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    best = accuracy.index(max(accuracy))
    written = summary(run)
    expected = {"epoch": best + 1, "val/accuracy": accuracy[best], "val/loss": loss[best]}
    assert written["best"] == pytest.approx(expected)
    assert written["final"]["val/loss"] == pytest.approx(loss[-1])
    assert written["test"]["test/accuracy"] == pytest.approx(
        float(next(row["test/accuracy"] for row in rows if row["test/accuracy"]))
    )
    assert cli.run_summary.summary == written


def test_summary_describes_the_run(run: Path) -> None:
    written = summary(run)
    assert (written["epochs"], written["steps"], written["processes"]) == (3, 18, 1)
    # 1→4 and 4→8 channels 3×3, 8·7·7→16, 16→10
    assert written["parameters"] == (9 * 4 + 4) + (36 * 8 + 8) + (392 * 16 + 16) + (16 * 10 + 10)
    assert written["precision"] in ("32-true", "bf16-mixed")
    assert written["versions"]["torch"] == torch.__version__
    assert written["versions"]["lightning"] == lightning.__version__
    assert 0 < written["seconds"] < 120
    assert written["images_per_second"] > 18 * 128 / written["seconds"]


def test_accuracy_by_class_adds_up(run: Path, data_root: Path) -> None:
    from datamodules import FashionMNISTDataModule

    labels = FashionMNISTDataModule(str(data_root)).load(train=False)[1][:250]
    by_class = summary(run)["test_accuracy_by_class"]
    assert tuple(by_class) == FashionMNISTDataModule.class_names
    correct = sum(
        accuracy * int((labels == label).sum()) for label, accuracy in enumerate(by_class.values())
    )
    assert correct / 250 == pytest.approx(summary(run)["test"]["test/accuracy"], abs=1e-5)


def test_hyperparameters_stand_beside_results(run: Path) -> None:
    events = EventAccumulator(str(run))
    events.Reload()
    written = summary(run)
    for name, value in (
        ("reached/val/accuracy", written["best"]["val/accuracy"]),
        ("reached/test/accuracy", written["test"]["test/accuracy"]),
    ):
        assert events.Scalars(name)[-1].value == pytest.approx(value)
    contents = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(contents["_hparams_/session_start_info"])
    chosen = start.session_start_info.hparams
    assert chosen["model/width"].number_value == 4
    assert chosen["model/optimizer/init_args/lr"].number_value == 0.005
    assert chosen["data/batch_size"].number_value == 128
    experiment = HParamsPluginData.FromString(contents["_hparams_/experiment"]).experiment
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"reached/val/accuracy", "reached/test/accuracy"} <= metrics


def test_metrics_csv_holds_curves_only(run: Path) -> None:
    with open(run / "metrics.csv", newline="") as file:
        assert not [name for name in next(csv.reader(file)) if name.startswith("reached/")]


def test_time_adds_up_over_a_resumed_run(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "BaselineCNN" / "version_0"))
    before = summary(run)
    train.main(
        ["fit", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "--trainer.max_epochs=4"]
    )
    after = summary(run)
    assert after["epochs"] == 4
    assert before["seconds"] * 0.9 < after["seconds"] < before["seconds"] + 60
    assert after["best"]["val/accuracy"] >= before["best"]["val/accuracy"]


def test_without_a_logger_the_summary_stays_in_memory(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = quick_fit(*SMALL, "--trainer.logger=false")
    assert set(cli.run_summary.summary["final"]) >= {"train/loss", "val/accuracy"}
    assert cli.run_summary.summary["steps"] == 4
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_other_callback(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    loader = DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)
    summary = RunSummary()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path),
        callbacks=[summary],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    network = BaselineCNN(width=2, num_classes=10, image_shape=(1, 28, 28))
    trainer.fit(network, loader)
    assert summary.summary["images_per_second"] is None
    assert summary.summary["data"] == {}
    assert summary.summary["steps"] == 2


def test_a_summary_that_is_none_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runs" / "copied" / "version_0"
    shutil.copytree(run, copy)
    for broken in ('{"best": ', "[1, 2]"):
        (copy / "summary.json").write_text(broken)
        with pytest.raises(SystemExit) as ended:
            train.main(["test", f"--ckpt_path={copy / 'checkpoints' / 'best.ckpt'}"])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{copy / 'summary.json'}: not what a run wrote; move it away" in error
        assert (copy / "summary.json").read_text() == broken
