"""predictions.csv: one row per image, in order, with probabilities that fit the class."""

import csv
from pathlib import Path

import pytest

import train
from datamodules import FashionMNISTDataModule

SMALL = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16", "--test_best=false")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The folder of a finished ``fit``; shared."""
    runs = tmp_path_factory.mktemp("predictions")
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    limits = ["--trainer.limit_train_batches=10", "--trainer.limit_val_batches=1"]
    options = ["--model.optimizer.lr=0.01", "--trainer.max_epochs=1"]
    quiet = "--trainer.enable_progress_bar=false"
    train.main(["fit", *SMALL, *data, *limits, *options, quiet, f"--runs_dir={runs}"])
    return runs / "BaselineCNN" / "version_0"


def predict(run: Path, *args: str) -> list[dict[str, str]]:
    path = run / "checkpoints" / "best.ckpt"
    train.main(["predict", f"--ckpt_path={path}", "--trainer.enable_progress_bar=false", *args])
    with open(run / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_in_order_and_consistent(run: Path) -> None:
    rows = predict(run, "--data.eval_batch_size=300", "--trainer.limit_predict_batches=3")
    names = FashionMNISTDataModule.class_names
    assert list(rows[0]) == ["index", "class", "name", *(f"p({name})" for name in names)]
    assert [int(row["index"]) for row in rows] == list(range(900))
    for row in rows:
        probabilities = [float(row[f"p({name})"]) for name in names]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        label = int(row["class"])
        assert probabilities[label] == max(probabilities)
        assert row["name"] == names[label]
    assert len({row["class"] for row in rows}) > 1


def test_batch_size_changes_nothing(run: Path) -> None:
    few = predict(run, "--data.eval_batch_size=100", "--trainer.limit_predict_batches=2")
    many = predict(run, "--data.eval_batch_size=200", "--trainer.limit_predict_batches=1")
    assert [row["class"] for row in few] == [row["class"] for row in many]


def test_a_new_file_replaces_the_old_one(run: Path) -> None:
    (run / "predictions.csv").write_text("old\n" * 5000)
    assert len(predict(run, "--trainer.limit_predict_batches=1")) == 250
    assert not list(run.glob("*.partial"))
