"""How runs end: by signals, by processes that die or stop, and what is left of them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import train

REPOSITORY = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and /proc of POSIX")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
pytestmark = POSIX

MODEL = (
    "--model=BaselineCNN",
    "--model.width=4",
    "--model.hidden_size=16",
    "--trainer.accelerator=cpu",
)
TWO = ("--trainer.strategy=ddp", "--trainer.devices=2")
# An epoch is long enough for a signal to meet it, on any machine.
LONG = ("--data.batch_size=16", "--trainer.limit_train_batches=300", "--trainer.max_epochs=50")

# A network and data that take their time, in files of the user's own.
SLOW = """
import time
from pathlib import Path
from torch import Tensor, nn
from lightning_modules import ImageClassifier

class Slow(ImageClassifier):
    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.adapt()

    def build(self) -> None:
        self.layer = nn.Linear(784, self.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            Path("step").touch()
            time.sleep(100)
        return self.layer(self.preprocess(images).flatten(1))
"""
FETCHING = """
import time
from pathlib import Path
from datamodules import FashionMNISTDataModule

class Fetching(FashionMNISTDataModule):
    def prepare_data(self) -> None:
        Path("fetching").touch()
        time.sleep(100)
"""


class Run:
    """``python train.py …``, as a user starts it, in a folder of its own."""

    def __init__(self, folder: Path, *args: str, command: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        command = command or (sys.executable, str(REPOSITORY / "train.py"))
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*command, *args],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_for(self, condition: Callable[[], object], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.out.read_text() + self.err.read_text()
            time.sleep(0.02)

    def wait_for_file(self, pattern: str) -> None:
        self.wait_for(lambda: list(self.folder.glob(pattern)))

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Exit status and what was said on standard error; none of its processes are left."""
        status = self.process.wait(seconds)
        deadline = time.monotonic() + 10
        while left := session(self.process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        error = self.err.read_text()
        assert "Traceback" not in error
        return status, error


def session(leader: int) -> list[int]:
    """The processes that are left of a session; of other systems than Linux, none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture
def start(tmp_path: Path, data_root: Path) -> Iterator[Callable[..., Run]]:
    """Start a command of train.py on a little data; what is left of it is killed at the end."""
    runs: list[Run] = []

    def begin(command: str, *args: str, program: tuple[str, ...] = ()) -> Run:
        data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}", "--data.val_size=250"]
        data = data if command == "fit" else []
        quiet = (
            []
            if any("progress" in arg for arg in args)
            else ["--trainer.enable_progress_bar=false"]
        )
        runs.append(Run(tmp_path, command, *data, *args, *quiet, command=program))
        return runs[-1]

    yield begin
    for run in runs:
        for pid in session(run.process.pid):
            os.kill(pid, signal.SIGKILL)
        run.process.kill()
        run.process.wait()


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/BaselineCNN/version_0/summary.json").read_text())


def go_on(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Type the command that a run's last words name; it does only the epochs that are left."""
    monkeypatch.chdir(folder)
    command = shlex.split(line.rpartition("go on with ")[2])
    assert command[:2] == ["python", str(REPOSITORY / "train.py")]
    short = ["--trainer.limit_val_batches=1", "--test_best=false"]
    train.main([*command[2:], f"--trainer.max_epochs={epochs}", *short])
    assert not (folder / "runs/BaselineCNN/version_1").exists()


# One process.


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(getattr(signal, "SIGHUP", signal.SIGTERM), marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_fit_with_what_it_reached(
    start: Callable[..., Run],
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = start("fit", *MODEL, *LONG)
    run.wait_for_file("runs/BaselineCNN/version_0/checkpoints/last.ckpt")
    time.sleep(0.3)
    run.process.send_signal(number)
    status, error = run.end()
    assert status == 128 + number
    said = re.fullmatch(
        rf"interrupted by {number.name} in epoch (\d+) at step ([\d,]+); saved up to epoch (\d+): "
        r"go on with python \S+train.py fit --ckpt_path (\S+last.ckpt)\n",
        error,
    )
    assert said, error
    epoch, step, saved = (int(group.replace(",", "")) for group in said.groups()[:3])
    assert saved == epoch - 1 >= 1
    assert saved * 300 <= step <= epoch * 300
    written = summary(tmp_path)
    assert written["interrupted"] == {"signal": number.name, "epoch": epoch, "step": step}
    assert (written["epochs"], written["steps"]) == (saved, step)
    assert written["best"]["epoch"] <= saved
    assert written["seconds"] > 0

    go_on(error.strip(), tmp_path, monkeypatch, epochs=epoch)
    assert "interrupted" not in summary(tmp_path)
    assert summary(tmp_path)["epochs"] == epoch


def test_before_the_first_epoch_is_over_nothing_is_saved(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start("fit", *MODEL, "--data.batch_size=1", "--trainer.max_epochs=2")
    run.wait_for_file("runs/BaselineCNN/version_0/config.yaml")
    time.sleep(2)
    run.process.terminate()
    status, error = run.end()
    assert status == 143
    assert re.fullmatch(
        r"interrupted by SIGTERM in epoch 1 at step [\d,]+; nothing new is saved: give the same "
        r"command again\n",
        error,
    )
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_signal_ends_an_evaluation(
    start: Callable[..., Run], tmp_path: Path, command: str
) -> None:
    fit = start("fit", *MODEL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    assert fit.end()[0] == 0
    before = summary(tmp_path)
    one_by_one = ("--data.eval_batch_size=1", "--data.val_size=9000")
    run = start(command, "--ckpt_path=best", *one_by_one, "--trainer.enable_progress_bar=true")
    run.wait_for(
        lambda: re.search(r"(Validation|Testing|Predicting).* [1-9]\d*/", run.out.read_text())
    )
    run.process.terminate()
    status, error = run.end()
    assert status == 143
    said = f"interrupted by SIGTERM in {command}; nothing new is saved: give the same command again"
    assert said in error
    assert summary(tmp_path) == before
    assert not list(tmp_path.rglob("predictions*"))


def test_while_data_is_fetched_a_signal_comes_at_once(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "fetching.py").write_text(FETCHING)
    run = start("fit", *MODEL, "--data=fetching.Fetching")
    run.wait_for_file("fetching")
    run.process.terminate()
    status, error = run.end(seconds=10)
    assert status == 143
    assert error.startswith("interrupted by SIGTERM before it began; nothing new is saved")
    assert len(error.splitlines()) == 1


def test_a_second_signal_ends_a_long_step_at_once(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    run = start("fit", "--model=slow.Slow", "--trainer.accelerator=cpu")
    run.wait_for_file("step")
    run.process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert run.process.poll() is None  # it waits for the step's end
    run.process.send_signal(signal.SIGINT)
    status, error = run.end(seconds=5)
    assert status == 130
    assert error.startswith("interrupted by SIGINT in epoch 1 at step 0; nothing new is saved")
    assert len(error.splitlines()) == 1


@pytest.mark.long
def test_a_step_that_does_not_end_is_ended(start: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    run = start("fit", "--model=slow.Slow", "--trainer.accelerator=cpu")
    run.wait_for_file("step")
    began = time.monotonic()
    run.process.terminate()
    status, error = run.end(seconds=40)
    assert 29 < time.monotonic() - began < 36
    assert status == 143
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_under_nohup_a_hangup_does_not_end_it(start: Callable[..., Run]) -> None:
    nohup = ("nohup", sys.executable, str(REPOSITORY / "train.py"))
    few = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=200", "--data.batch_size=1")
    run = start("fit", *MODEL, *few, "--test_best=false", program=nohup)
    run.wait_for_file("runs/BaselineCNN/version_0/config.yaml")
    run.process.send_signal(signal.SIGHUP)
    assert run.process.wait(60) == 0


# Several processes.


def ranks(run: Run) -> list[int]:
    """The process of each rank of a run that Lightning has started."""
    first = run.process.pid
    rest = [pid for pid in session(first) if pid != first]
    named = {}
    for pid in rest:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        named[next(e for e in environment if e.startswith(b"LOCAL_RANK="))] = pid
    return [first, *(named[name] for name in sorted(named))]


@pytest.fixture
def two(start: Callable[..., Run], tmp_path: Path) -> Callable[..., Run]:
    """Two processes in their second epoch or later."""

    def begin(*args: str) -> Run:
        run = start("fit", *MODEL, *LONG, *(args or TWO))
        run.wait_for_file("runs/BaselineCNN/version_0/checkpoints/last.ckpt")
        time.sleep(0.3)
        return run

    return begin


def said_once(error: str, words: str) -> str:
    """The line that says so; the only one."""
    assert re.fullmatch(
        rf"{words} in epoch \d+ at step [\d,]+; saved up to epoch \d+: go on with .*last.ckpt\n",
        error,
    ), error
    return error.strip()


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_ends_both(
    two: Callable[..., Run], tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = two()
    os.kill(ranks(run)[rank], signal.SIGTERM)
    began = time.monotonic()
    status, error = run.end(seconds=25)
    assert time.monotonic() - began < 20
    assert status == 143
    line = said_once(error, "interrupted by SIGTERM")
    written = summary(tmp_path)
    assert written["interrupted"]["signal"] == "SIGTERM"
    if rank == 0:
        # One process can go on.
        one = f"{line} --trainer.strategy=auto --trainer.devices=1"
        go_on(one, tmp_path, monkeypatch, epochs=written["epochs"] + 1)


@pytest.mark.slow
@LINUX
def test_a_process_that_dies_is_named(two: Callable[..., Run]) -> None:
    run = two()
    os.kill(ranks(run)[1], signal.SIGKILL)
    status, error = run.end(seconds=30)
    assert status == 1
    said_once(error, r"rank 1 \(ended by SIGKILL\) is gone")


@LINUX
@pytest.mark.slow
def test_the_first_process_that_dies_is_named(two: Callable[..., Run]) -> None:
    run = two()
    run.process.kill()
    status, error = run.end(seconds=30)
    assert status == -signal.SIGKILL
    said_once(error, r"rank 0 \(it does not answer\) is gone")


@LINUX
@pytest.mark.long
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_stops_is_not_waited_for_for_ever(
    two: Callable[..., Run], stopped: int
) -> None:
    timeout = ("--trainer.strategy=DDPStrategy", "--trainer.strategy.timeout=0:00:20")
    run = two(*timeout, "--trainer.devices=2")
    first, second = ranks(run)
    os.kill([first, second][stopped], signal.SIGSTOP)
    if stopped == 0:
        deadline = time.monotonic() + 60
        while second in session(first):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        run.process.kill()
        run.process.wait()
    else:
        assert run.process.wait(60) == 1
    assert not session(first)
    said_once(run.err.read_text(), rf"rank {stopped} \(it does not answer\) is gone")


@LINUX
@pytest.mark.long
def test_without_a_word_about_it_two_minutes_are_waited(two: Callable[..., Run]) -> None:
    run = two()
    os.kill(ranks(run)[1], signal.SIGSTOP)
    began = time.monotonic()
    status, error = run.end(seconds=170)
    assert 110 < time.monotonic() - began < 150
    assert status == 1
    said_once(error, r"rank 1 \(it does not answer\) is gone")


@LINUX
@pytest.mark.long
def test_a_signal_ends_a_run_of_which_a_process_has_stopped(two: Callable[..., Run]) -> None:
    run = two()
    os.kill(ranks(run)[1], signal.SIGSTOP)
    time.sleep(1)
    run.process.terminate()
    began = time.monotonic()
    status, error = run.end(seconds=60)
    assert time.monotonic() - began < 45
    assert status == 143
    said_once(error, "interrupted by SIGTERM")


@LINUX
@pytest.mark.slow
def test_a_signal_to_torchrun_ends_its_processes(start: Callable[..., Run], tmp_path: Path) -> None:
    options = ("--nproc_per_node=2", "--master_port=29411", str(REPOSITORY / "train.py"))
    torchrun = (sys.executable, "-m", "torch.distributed.run", *options)
    run = start("fit", *MODEL, *LONG, *TWO, program=torchrun)
    run.wait_for_file("runs/BaselineCNN/version_0/checkpoints/last.ckpt")
    run.process.terminate()
    assert run.process.wait(60) != 0
    assert not session(run.process.pid)
    (line,) = [s for s in run.err.read_text().splitlines() if s.startswith("interrupted by")]
    said_once(f"{line}\n", "interrupted by SIGTERM")
    assert summary(tmp_path)["interrupted"]["signal"] == "SIGTERM"
