"""A run that was killed and resumed ends bit for bit where it would have ended."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from tensorboard.summary.writer import event_file_writer
from typing_extensions import override

import train
from benchmarks.same_run import different, rows, summary
from experiment.cli import ExperimentCLI
from foundation.checkout import ROOT as REPOSITORY
from foundation.checkout import technique

# Two steps of three epochs, of a network small enough.
SMALL = """
trainer: {accelerator: cpu, max_epochs: 3, limit_train_batches: 2, limit_val_batches: 1,
  limit_test_batches: 1, log_every_n_steps: 1, enable_progress_bar: false, precision: 32-true}
model: {class_path: BaselineCNN, init_args: {width: 4, hidden_size: 16}}
data: {class_path: FashionMNISTDataModule, init_args: {root: ROOT, train_fraction: 0.01,
  batch_size: 64}}
"""
# What draws numbers in training, or keeps a state of its own.
TECHNIQUES = (
    "affine", "cutmix", "dropout", "ema", "flip", "mixup", "one_cycle", "random_crop",
    "random_erasing", "reduce_on_plateau", "swa", "trivial_augment", "zca_whitening",
)  # fmt: skip


class Killer(Callback):
    """Kill this process in a hook, as from outside: nothing can be caught or cleaned up.

    Args:
        hook: a callback's method.
        epoch: in which it is called, from 0.
    """

    def __init__(self, hook: str, epoch: int) -> None:
        def kill(trainer: Trainer, *_: Any, **__: Any) -> None:
            if trainer.current_epoch >= epoch and not trainer.sanity_checking:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, hook, kill)


class _Killed(ExperimentCLI):
    killer: Killer

    @override
    def pictures(self) -> list[Callback]:
        return [*super().pictures(), self.killer]


def killed(hook: str, epoch: int, args: Sequence[str]) -> None:
    """Run a command in a process that dies in that hook."""

    def child() -> None:
        _Killed.killer = Killer(hook, epoch)
        _Killed(list(args))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    time.sleep(1 - time.time() % 1)  # TensorBoard sorts by the second in which a file was begun


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> str:
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(SMALL.replace("ROOT", str(data_root)))
    return f"--config={path}"


@pytest.fixture(scope="module")
def whole(small: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts, with dropout; shared, so nothing trains in it."""
    runs = tmp_path_factory.mktemp("whole")
    train.main(["fit", small, f"--config={technique('dropout')}", f"--runs_dir={runs}"])
    return runs / "small+dropout" / "version_0"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # TensorBoard sorts files of one second by a number that a process counts: 10 is before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.mark.parametrize(
    ("hook", "epoch"),
    [
        ("on_train_batch_end", 1),
        ("on_validation_end", 1),
        ("on_train_epoch_end", 1),
        ("on_train_epoch_start", 2),
        ("on_fit_end", 3),
        ("on_test_start", 3),
        ("on_test_end", 3),
    ],
)
def test_killed_anywhere(small: str, whole: Path, hook: str, epoch: int) -> None:
    killed(hook, epoch, ["fit", small, f"--config={technique('dropout')}"])
    train.main(["fit", "--ckpt_path=last"])
    assert different(Path("runs/small+dropout/version_0"), whole) == ""


def test_killed_twice(small: str, whole: Path) -> None:
    killed("on_train_batch_end", 1, ["fit", small, f"--config={technique('dropout')}"])
    killed("on_train_batch_end", 2, ["fit", "--ckpt_path=last"])
    train.main(["fit", "--ckpt_path=last"])
    assert different(Path("runs/small+dropout/version_0"), whole) == ""


@pytest.mark.matrix
@pytest.mark.parametrize("name", TECHNIQUES)
def test_techniques_go_on(small: str, name: str) -> None:
    args = ["fit", small, f"--config={technique(name)}", "--early_stopping.patience=100"]
    train.main([*args, "--experiment=whole"])
    killed("on_train_batch_end", 1, [*args, "--experiment=parts"])
    train.main(["fit", "--ckpt_path=last", "--experiment=parts"])
    assert different(Path("runs/parts/version_0"), Path("runs/whole/version_0")) == ""


@pytest.mark.slow
def test_workers_and_accumulation_go_on(small: str) -> None:
    args = ["fit", small, f"--config={technique('dropout')}", "--data.num_workers=1"]
    args.append("--trainer.accumulate_grad_batches=2")
    train.main([*args, "--experiment=whole"])
    killed("on_train_batch_end", 1, [*args, "--experiment=parts"])
    train.main(["fit", "--ckpt_path=last", "--experiment=parts"])
    assert different(Path("runs/parts/version_0"), Path("runs/whole/version_0")) == ""


def test_stopped_early_and_killed(small: str) -> None:
    """A rate of 0 improves nothing: the second epoch is the last."""
    args = ["fit", small, "--model.optimizer.lr=0", "--early_stopping.patience=1"]
    train.main([*args, "--experiment=whole"])
    killed("on_fit_end", 2, [*args, "--experiment=parts"])
    train.main(["fit", "--ckpt_path=last", "--experiment=parts"])
    assert summary(Path("runs/parts/version_0"))["epochs"] == 2
    assert different(Path("runs/parts/version_0"), Path("runs/whole/version_0")) == ""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_rewritten(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(whole.parent)
    train.main(["fit", f"--ckpt_path={whole / 'checkpoints' / 'last.ckpt'}"])
    assert "is finished: all 3 epochs are done" in capsys.readouterr().out
    assert contents(whole.parent) == before


def test_a_finished_run_can_be_prolonged(small: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x" / "version_0"
    shutil.copytree(whole, run)
    train.main(["fit", "--ckpt_path=last", "--trainer.max_epochs=5", "--runs_dir=runs"])
    args = [small, f"--config={technique('dropout')}", "--trainer.max_epochs=5"]
    train.main(["fit", *args, "--experiment=whole"])
    assert rows(run) == rows(Path("runs/whole/version_0"))


def test_going_on_says_from_where(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    killed("on_train_batch_end", 1, ["fit", small])
    train.main(["fit", "--ckpt_path=last"])
    path = "runs/small/version_0/checkpoints/last.ckpt"
    assert f"going on from {path}, after 1 epochs" in capsys.readouterr().out


def test_from_the_best_a_new_run_begins(whole: Path, tmp_path: Path) -> None:
    before = contents(whole)
    best = whole / "checkpoints" / "best.ckpt"
    train.main(["fit", f"--ckpt_path={best}", "--trainer.max_epochs=4", "--runs_dir=runs"])
    assert contents(whole) == before
    (run,) = tmp_path.glob("runs/*/version_0")
    assert summary(run)["epochs"] == 4


@pytest.mark.parametrize("beside", [True, False], ids=["with its best", "alone"])
def test_a_moved_checkpoint_goes_on(whole: Path, tmp_path: Path, beside: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(whole / "checkpoints" / "last.ckpt", elsewhere)
    if beside:
        shutil.copy(whole / "checkpoints" / "best.ckpt", elsewhere)
    moved = f"--ckpt_path={elsewhere / 'last.ckpt'}"
    train.main(["fit", moved, "--trainer.max_epochs=4", "--runs_dir=runs"])
    (run,) = tmp_path.glob("runs/*/version_0")
    now, best = summary(run), summary(whole)["best"]
    assert now["test"]
    if beside:
        assert now["best"]["val/accuracy"] >= best["val/accuracy"]
    else:
        assert now["best"]["epoch"] == 4


def test_last_is_the_newest_run_s(
    small: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "runs" / "older" / "version_0")
    killed("on_train_batch_end", 0, ["fit", small])
    with pytest.raises(SystemExit):
        train.main(["fit", "--ckpt_path=last"])
    message = capsys.readouterr().err
    assert "the newest run, runs/small/version_0, has no last.ckpt" in message
    assert "runs/older/version_0/checkpoints/last.ckpt" in message


def test_a_refused_run_keeps_its_configuration(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killed("on_train_batch_end", 1, ["fit", small])
    config = Path("runs/small/version_0/config.yaml")
    before = config.read_text()
    with pytest.raises(SystemExit):
        train.main(["fit", small, "--model.lr_scheduler=OneCycleLR", "--ckpt_path=last"])
    assert config.read_text() == before


# As a file in the current folder: what torchrun starts is another program.
ONCE = """
import os, pathlib, signal
from lightning import Callback


class Once(Callback):
    def on_train_batch_end(self, trainer, *_):
        mark = pathlib.Path("killed")
        if trainer.current_epoch == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_restarted_worker_goes_on(small: str, tmp_path: Path) -> None:
    (tmp_path / "my_once.py").write_text(ONCE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--max_restarts=1"]
    torchrun += ["--monitor_interval=0.1", str(REPOSITORY / "train.py")]
    args = ["fit", small, f"--config={technique('dropout')}"]
    for name, callback in (("parts", ["--trainer.callbacks=my_once.Once"]), ("whole", [])):
        command = [sys.executable, *torchrun, *args, *callback, f"--experiment={name}"]
        subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert (tmp_path / "killed").exists()
    assert [run.name for run in tmp_path.glob("runs/parts/*")] == ["version_0"]
    assert different(Path("runs/parts/version_0"), Path("runs/whole/version_0")) == ""
