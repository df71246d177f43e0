"""The command line on real data: runs, resuming, predictions, and what a user gets wrong."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from datamodules import FashionMNISTDataModule
from foundation.run_folder import program

REPOSITORY = Path(__file__).parent.parent
# Two short epochs, and all test images.
TINY = """
seed_everything: 3
trainer:
  accelerator: cpu
  max_epochs: 2
  limit_train_batches: 30
  log_every_n_steps: 5
  enable_progress_bar: false
model:
  class_path: BaselineCNN
  init_args:
    width: 4
    hidden_size: 16
    preprocessing: MinMaxScaling
    optimizer:
      class_path: torch.optim.Adam
      init_args:
        lr: 0.01
    lr_scheduler:
      class_path: torch.optim.lr_scheduler.ExponentialLR
      init_args:
        gamma: 0.98
    lr_scheduler_interval: step
data:
  class_path: FashionMNISTDataModule
  init_args:
    root: {root}
    batch_size: 64
    val_size: 1000
    train_fraction: 0.1
"""
SHORT = ("--trainer.limit_train_batches=2", "--trainer.max_epochs=1", "--test_best=false")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A configuration of a short run."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY.format(root=data_root))
    return path


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished ``fit``; shared, so nothing trains in it."""
    runs = tmp_path_factory.mktemp("shared") / "runs"
    train.main(["fit", f"--config={tiny}", f"--runs_dir={runs}"])
    return runs / "tiny" / "version_0"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in a folder of its own, so that nothing lands in the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in the order in which it was written."""
    rows = table(run / "metrics.csv")
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


# What a run leaves behind.


def test_a_run_is_a_folder(run: Path) -> None:
    names = {path.name for path in run.rglob("*") if "tfevents" not in path.name}
    wanted = {"config.yaml", "best.ckpt", "last.ckpt", "metrics.csv", "summary.json"}
    assert wanted <= names
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(run.glob("events.out.tfevents.*"))
    assert not list(run.rglob("*.partial"))


def test_metrics_csv_has_every_curve(run: Path) -> None:
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in curve(run, name)] == [29, 59]
    assert len(curve(run, "test/accuracy")) == 1
    assert [step for step, _ in curve(run, "lr-Adam")] == list(range(4, 60, 5))


def test_learning_rate_follows_the_schedule(run: Path) -> None:
    for step, rate in curve(run, "lr-Adam"):
        assert rate == pytest.approx(0.01 * 0.98**step)


def test_the_short_run_learns(run: Path) -> None:
    assert summary(run)["test"]["test/accuracy"] > 0.55


def test_run_repeats_from_its_own_config(run: Path, tmp_path: Path) -> None:
    train.main(["fit", f"--config={run / 'config.yaml'}", f"--runs_dir={tmp_path}"])
    again = tmp_path / "tiny" / "version_0"
    assert summary(again)["final"]["val/loss"] == summary(run)["final"]["val/loss"]
    assert summary(again)["test"] == summary(run)["test"]


def test_a_second_run_gets_a_folder_of_its_own(tiny: Path) -> None:
    for _ in range(2):
        train.main(["fit", f"--config={tiny}", *SHORT])
    assert sorted(path.name for path in Path("runs/tiny").iterdir()) == ["version_0", "version_1"]


# How a configuration is put together.


def test_configs_compose_left_to_right(tiny: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "wide.yaml", tmp_path / "narrow.yaml"
    first.write_text("model: {init_args: {width: 6, dropout: 0.25}}\n")
    second.write_text("model: {init_args: {width: 3}}\ntrainer: {limit_train_batches: 1}\n")
    configs = [f"--config={path}" for path in (tiny, first, second)]
    cli = train.main(["fit", *configs, *SHORT[1:], "--model.hidden_size=8"])
    options = cli.config.fit.model.init_args
    assert (options.width, options.dropout, options.hidden_size) == (3, 0.25, 8)
    assert options.optimizer.init_args.lr == 0.01  # untouched by the later files
    assert cli.trainer.global_step == 1
    assert Path("runs/tiny+wide+narrow/version_0/config.yaml").is_file()


def test_classes_by_name(data_root: Path) -> None:
    args = ["--model=OptimizedCNN", "--data=MNISTDataModule", "--model.width=4"]
    limits = ["--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false"]
    cli = train.main(["fit", *args, f"--data.root={data_root}", *SHORT, *limits])
    assert type(cli.model).__name__ == "OptimizedCNN"
    assert cli.datamodule.class_names == tuple("0123456789")
    assert Path("runs/OptimizedCNN/version_0/summary.json").is_file()


def test_printed_config_can_be_fed_back(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            train.main(["fit", *args, "--print_config"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    text = printed(f"--config={tiny}", "--model.width=5")
    assert yaml.safe_load(text)["model"]["init_args"]["width"] == 5
    path = tmp_path / "printed.yaml"
    path.write_text(text)
    assert yaml.safe_load(printed(f"--config={path}")) == yaml.safe_load(text)


@pytest.mark.parametrize("option", ["--trainer.logger=false", "--trainer.fast_dev_run=true"])
def test_runs_without_a_logger_leave_no_run_folder(tiny: Path, option: str) -> None:
    cli = train.main(["fit", f"--config={tiny}", "--trainer.limit_train_batches=2", option])
    assert cli.trainer.global_step == (1 if "fast" in option else 4)
    assert not Path("runs").exists()


def test_early_stopping_stops(tiny: Path) -> None:
    # A constant rate of 0: nothing can improve after the first epoch.
    options = ["--early_stopping.patience=2", "--model.optimizer.lr=0", "--trainer.max_epochs=9"]
    train.main(["fit", f"--config={tiny}", *options, *SHORT[::2]])
    assert summary(Path("runs/tiny/version_0"))["epochs"] == 3


def test_checkpoint_overlay_chooses_by_another_metric(tiny: Path) -> None:
    # A rising rate makes val/loss worse at last: its best epoch is not the last one.
    options = ["--checkpoint.monitor=val/loss", "--checkpoint.mode=min", "--trainer.max_epochs=3"]
    rising = ["--model.lr_scheduler.gamma=1.25", "--trainer.limit_train_batches=15"]
    train.main(["fit", f"--config={tiny}", *options, *rising, "--test_best=false"])
    run = Path("runs/tiny/version_0")
    losses = [loss for _, loss in curve(run, "val/loss")]
    best = losses.index(min(losses))
    assert best < 2
    assert summary(run)["best"]["epoch"] == best + 1
    assert checkpoint(run, "best")["epoch"] == best


def test_lr_monitor_overlay(tiny: Path) -> None:
    train.main(["fit", f"--config={tiny}", "--lr_monitor.logging_interval=epoch", "--test_best=no"])
    rates = curve(Path("runs/tiny/version_0"), "lr-Adam")
    assert [rate for _, rate in rates] == pytest.approx([0.01, 0.01 * 0.98**30])


# What needs only a checkpoint.


def test_test_needs_only_the_checkpoint(run: Path) -> None:
    before = summary(run)
    path = run / "summary.json"
    path.write_text(json.dumps({k: v for k, v in before.items() if not k.startswith("test")}))
    train.main(["test", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"])
    assert summary(run) == before
    assert not Path("runs").exists()  # it wrote into the run's own folder


@pytest.mark.parametrize("name", ["best", "last"])
def test_newest_checkpoint_by_name(run: Path, name: str) -> None:
    cli = train.main(["validate", f"--ckpt_path={name}", f"--runs_dir={run.parent.parent}"])
    metrics = cli.trainer.callback_metrics
    wanted = summary(run)["best" if name == "best" else "final"]
    assert float(metrics["val/accuracy"]) == wanted["val/accuracy"]
    assert float(metrics["val/loss"]) == pytest.approx(wanted["val/loss"])


def test_newest_of_one_experiment(run: Path, tiny: Path) -> None:
    runs = run.parent.parent
    other = ["--experiment=deep/other", f"--runs_dir={runs}", "--model.width=5"]
    train.main(["fit", f"--config={tiny}", *other, *SHORT])
    try:
        newest = train.main(["validate", "--ckpt_path=best", f"--runs_dir={runs}"])
        assert newest.checkpoint_path == runs / "deep/other/version_0/checkpoints/best.ckpt"
        named = ["--ckpt_path=best", f"--runs_dir={runs}", "--experiment=tiny"]
        assert train.main(["validate", *named]).checkpoint_path == run / "checkpoints/best.ckpt"
    finally:
        shutil.rmtree(runs / "deep")


def test_options_may_be_two_words(run: Path) -> None:
    path = str(run / "checkpoints" / "best.ckpt")
    cli = train.main(["validate", "--ckpt_path", path, "--data.val_size", "500"])
    assert cli.datamodule.sizes["val"] == 500


def test_a_moved_checkpoint_still_knows_its_configuration(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "moved.ckpt"
    moved.parent.mkdir()
    shutil.copy(run / "checkpoints" / "best.ckpt", moved)
    before = summary(run)
    cli = train.main(["test", f"--ckpt_path={moved}", f"--runs_dir={tmp_path / 'runs'}"])
    accuracy = float(cli.trainer.callback_metrics["test/accuracy"])
    assert accuracy == before["test"]["test/accuracy"]
    assert summary(run) == before


def test_predictions_of_a_moved_checkpoint_lie_here(run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "moved.ckpt"))
    options = ["--trainer.limit_predict_batches=1", f"--runs_dir={tmp_path / 'runs'}"]
    train.main(["predict", f"--ckpt_path={moved}", *options])
    assert len(table(tmp_path / "predictions.csv")) == 250
    assert {path.name for path in tmp_path.iterdir()} == {"moved.ckpt", "predictions.csv"}


def test_predictions_agree_with_the_test(
    run: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(["predict", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"])
    assert f"predictions: {run / 'predictions.csv'}" in capsys.readouterr().out
    rows = table(run / "predictions.csv")
    assert [int(row["index"]) for row in rows] == list(range(10_000))
    data = FashionMNISTDataModule(str(data_root))
    labels = data.load(train=False)[1].tolist()
    correct = sum(int(row["class"]) == label for row, label in zip(rows, labels, strict=True))
    assert correct / 10_000 == pytest.approx(summary(run)["test"]["test/accuracy"])


# Going on after an interruption.


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_an_interrupted_run_goes_on(tiny: Path, how: signal.Signals) -> None:
    # Long enough for the signal to meet it in the second epoch, on any machine.
    steps = 300
    data = ["--data.train_fraction=1", "--data.batch_size=16"]
    args = ["fit", f"--config={tiny}", "--trainer.max_epochs=3", *data]
    args.append(f"--trainer.limit_train_batches={steps}")
    command = [sys.executable, str(REPOSITORY / "train.py"), *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = Path("runs/tiny/version_0").resolve()
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    rows = (run / "metrics.csv").read_text().splitlines()
    epoch = checkpoint(run, "last")["epoch"]
    assert epoch < 3  # it was stopped in the middle

    train.main([*args, "--ckpt_path=last", "--test_best=false"])
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    now = (run / "metrics.csv").read_text().splitlines()
    assert sum(line.startswith("epoch,") for line in now) == 1
    assert len(now) > len(rows)
    values = [[cell for cell in row.split(",") if cell] for row in rows[1:]]
    kept = [[cell for cell in row.split(",") if cell] for row in now[1 : len(rows)]]
    assert kept == values
    assert {int(row["epoch"]) for row in table(run / "metrics.csv") if row["val/loss"]} == {0, 1, 2}
    for step, rate in curve(run, "lr-Adam"):
        assert rate == pytest.approx(0.01 * 0.98**step)
    last = checkpoint(run, "last")
    assert (last["epoch"], last["global_step"]) == (3, 3 * steps)
    assert {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()} == {
        3 * steps
    }
    assert (summary(run)["epochs"], summary(run)["steps"]) == (3, 3 * steps)


def test_going_on_equals_not_stopping(tiny: Path) -> None:
    # One batch is the whole training set, so that the order of images does not matter.
    options = ["--data.train_fraction=0.005", "--data.batch_size=295", "--test_best=false"]
    args = ["fit", f"--config={tiny}", "--trainer.limit_train_batches=1.0", *options]
    train.main([*args, "--trainer.max_epochs=4", "--experiment=whole"])
    train.main([*args, "--trainer.max_epochs=2", "--experiment=parts"])
    train.main([*args, "--trainer.max_epochs=4", "--experiment=parts", "--ckpt_path=last"])
    whole = checkpoint(Path("runs/whole/version_0"), "last")
    parts = checkpoint(Path("runs/parts/version_0"), "last")
    assert parts["global_step"] == whole["global_step"] == 4
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], rtol=1e-4, atol=1e-5)
    assert parts["lr_schedulers"][0]["_last_lr"] == whole["lr_schedulers"][0]["_last_lr"]


def test_last_checkpoint_is_the_last_epoch(tiny: Path) -> None:
    # A rate of 0: the first epoch stays the best.
    options = ["--model.optimizer.lr=0", "--trainer.max_epochs=3"]
    train.main(["fit", f"--config={tiny}", *options, *SHORT[::2]])
    run = Path("runs/tiny/version_0")
    assert checkpoint(run, "best")["epoch"] == 0
    assert (checkpoint(run, "last")["epoch"], checkpoint(run, "last")["global_step"]) == (3, 6)


@pytest.mark.parametrize("runs", ["runs", "{here}/runs"])
def test_going_on_keeps_the_best_so_far(tiny: Path, tmp_path: Path, runs: str) -> None:
    # From the second epoch on the rate is absurd: the first epoch stays the best.
    absurd = ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=30"]
    options = [
        *absurd,
        "--model.lr_scheduler.gamma=1e4",
        f"--runs_dir={runs.format(here=tmp_path)}",
    ]
    args = ["fit", f"--config={tiny}", *options, "--trainer.limit_test_batches=1"]
    train.main([*args, "--trainer.max_epochs=1"])
    run = Path("runs/tiny/version_0")
    before = summary(run)
    train.main([*args, "--trainer.max_epochs=2", "--ckpt_path=last"])
    assert summary(run)["epochs"] == 2
    assert summary(run)["final"]["val/accuracy"] < before["best"]["val/accuracy"]
    assert summary(run)["best"] == before["best"]
    assert checkpoint(run, "best")["epoch"] == 0
    assert summary(run)["test"]["test/accuracy"] == before["test"]["test/accuracy"]


def test_a_resumed_run_can_be_repeated(tiny: Path, tmp_path: Path) -> None:
    train.main(["fit", f"--config={tiny}", *SHORT])
    train.main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"])
    config = Path("runs/tiny/version_0/config.yaml")
    train.main(["fit", f"--config={config}", "--runs_dir=again"])
    assert (
        curve(Path("again/tiny/version_0"), "val/loss")[0]
        == (curve(Path("runs/tiny/version_0"), "val/loss")[0])
    )


def test_a_schedule_of_fixed_length_cannot_be_prolonged(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = ["--model.lr_scheduler=OneCycleLR", "--model.lr_scheduler.max_lr=0.01"]
    train.main(["fit", f"--config={tiny}", *SHORT, *schedule])
    message = refused(capsys, "fit", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert "OneCycleLR was made for a run of another length" in message


# What a user sees.


def test_validate_prints_what_it_reached(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "best.ckpt"
    train.main(["validate", f"--ckpt_path={path}"])
    printed = capsys.readouterr().out
    assert re.search(rf"val/accuracy +{summary(run)['best']['val/accuracy']:.4f}", printed)
    assert str(run) in re.sub(r"\s", "", printed)  # whole, though longer than a narrow terminal


def test_default_fit_is_quiet_and_says_what_to_do_next(data_root: Path) -> None:
    limits = [f"--trainer.limit_{name}_batches=3" for name in ("train", "val", "test")]
    args = ["--model=OptimizedCNN", "--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", *args, *limits]
    process = subprocess.run(
        [*command, "--trainer.max_epochs=2"], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0
    assert "warn" not in (process.stdout + process.stderr).lower()
    run = "runs/OptimizedCNN/version_0"
    reached = summary(Path(run))
    values = {**reached["best"], **reached["test"]}
    for name in ("val/accuracy", "test/accuracy"):
        assert re.search(rf"{name} +{values[name]:.4f}", process.stdout)
    assert re.search(rf"run +{run} *$", process.stdout, re.MULTILINE)
    for command_ in ("test", "predict"):
        line = f"{program('train.py')} {command_} --ckpt_path {run}/checkpoints/best.ckpt"
        assert line in process.stdout
    assert "tensorboard --logdir runs" in process.stdout


def test_evaluating_an_own_run_is_quiet(tiny: Path, recwarn: pytest.WarningsRecorder) -> None:
    train.main(["fit", f"--config={tiny}", *SHORT])
    train.main(["validate", "--ckpt_path=best"])
    messages = [str(w.message) for w in recwarn if issubclass(w.category, UserWarning)]
    assert messages == []


# What a user gets wrong.


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command line that must end with a message; return the message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main(list(args))
    assert stop.value.code not in (0, None)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--model=NoSuchNet", ["NoSuchNet", "BaselineCNN, MLP, OptimizedCNN"]),
        ("--data=NoSuchData", ["NoSuchData", "MNISTDataModule"]),
        ("--model.optimizer=NoSuchOptimizer", ["NoSuchOptimizer", "--help"]),
        ("--no_such_option=1", ["--no_such_option", "--help"]),
        ("--data.batch_size=-3", ["batch_size is -3", "at least 1"]),
        ("--data.batch_size=0", ["batch_size is 0", "at least 1"]),
        ("--model.width=-3", ["width is -3", "at least 1"]),
        ("--model.width=0", ["width is 0", "at least 1"]),
        ("--model.width=wide", ["width", "wide", "int"]),
        ("--trainer.max_epochs=-5", ["max_epochs", "-5", "non-negative"]),
        ("--model.optimizer.lr=-1", ["learning rate", "-1"]),
        ("--model.dropout=1.5", ["dropout is 1.5", "0 <= value < 1"]),
        ("--data.val_size=-1", ["val_size is -1", "at least 0"]),
        ("--data.val_size=60000", ["val_size is 60000", "fewer"]),
        ("--data.train_fraction=0", ["train_fraction is 0", "0 < value <= 1"]),
        ("--data.train_fraction=1.5", ["train_fraction is 1.5", "0 < value <= 1"]),
        ("--ckpt_path=none.ckpt", ["none.ckpt", "no such file"]),
        ("--config=none.yaml", ["none.yaml", "not exist"]),
        ("--seed_everything=-1", ["seed", "-1"]),
        ("--trainer.strategy=telepathy", ["telepathy", "ddp"]),
        pytest.param(
            "--trainer.accelerator=gpu",
            ["gpu", "--trainer.accelerator"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: str, words: list[str]
) -> None:
    message = refused(capsys, "fit", f"--config={tiny}", *options.split())
    for word in words:
        assert word.lower() in message.lower()
    assert list(tmp_path.iterdir()) == []


def test_a_refused_value_is_one_readable_line(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "fit", f"--config={tiny}", "--data.batch_size=-3")
    assert "Namespace(" not in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("option", ["--checkpoint.monitor", "--early_stopping.monitor"])
def test_an_unknown_metric_is_named(
    tiny: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    message = refused(capsys, "fit", f"--config={tiny}", *SHORT, f"{option}=val/beauty")
    assert "val/beauty" in message
    assert "val/accuracy" in message  # one that there is


def test_too_few_classes_are_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "fit", f"--config={tiny}", *SHORT, "--model.num_classes=5")
    assert "num_classes" in message
    assert "5" in message


def test_broken_yaml_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [BaselineCNN\ndata: {\n")
    message = refused(capsys, "fit", f"--config={broken}")
    assert "line 1" in message or "line 2" in message
    assert list(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("with_config", [False, True])
def test_evaluation_asks_for_a_checkpoint(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, with_config: bool
) -> None:
    message = refused(capsys, command, *([f"--config={tiny}"] if with_config else []))
    assert "--ckpt_path" in message
    assert "best" in message
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def damage(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Files that are no good checkpoints."""
    folder = tmp_path_factory.mktemp("damage")
    good = (run / "checkpoints" / "best.ckpt").read_bytes()
    contents = {"half": good[: len(good) // 2], "empty": b"", "text": b"hello, I am text\n"}
    files = {name: folder / f"{name}.ckpt" for name in (*contents, "weights", "code")}
    for name, content in contents.items():
        files[name].write_bytes(content)
    torch.save({"weight": torch.zeros(3)}, files["weights"])
    torch.save({"state_dict": {}, "config": RunsCode(folder / "ran")}, files["code"])
    yield files
    assert not (folder / "ran").exists()


class RunsCode:
    """Unpickling this touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("kind", ["half", "empty", "text", "weights", "code"])
def test_damaged_checkpoints_are_refused(
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    damage: dict[str, Path],
    kind: str,
    command: str,
) -> None:
    config = [f"--config={tiny}"] if command == "fit" else []
    message = refused(capsys, command, *config, f"--ckpt_path={damage[kind]}")
    assert str(damage[kind]) in message
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network_is_refused(
    run: Path, tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    other = [f"--config={tiny}", "--model=OptimizedCNN", "--model.width=7"]
    message = refused(capsys, "test", *other, f"--ckpt_path={best}")
    for word in (str(best), "OptimizedCNN", "features", "--config"):
        assert word in message
    assert list(tmp_path.iterdir()) == []
