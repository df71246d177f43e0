"""What all tests share: real data, fetched once, and short runs through the real command line."""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import train
from datamodules.sources import fetch
from experiment.cli import ExperimentCLI

REPOSITORY = Path(__file__).parent.parent
DATA = REPOSITORY / "data"

# A shell's background jobs ignore Ctrl-C, and nohup's a hangup; so would what the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Two workers on two cores: one thread each, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The command lines first: their files take longest, and should not be what is left over."""
    items.sort(key=lambda item: item.path.parent != REPOSITORY / "tests")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the key is kept that signs configurations: not in the user's home."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["XDG_STATE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The folder of a finished ``fit`` of two batches; shared, so nothing trains in it."""
    runs = tmp_path_factory.mktemp("tiny")
    small = ["--model.width=2", "--model.hidden_size=8", "--data.train_fraction=0.02"]
    short = [f"--trainer.limit_{name}_batches=2" for name in ("train", "val", "test", "predict")]
    config = f"--config={REPOSITORY / 'configs' / 'baseline_cnn.yaml'}"
    options = [f"--data.root={data_root}", f"--runs_dir={runs}", "--experiment=tiny"]
    quiet = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    train.main(["fit", config, *small, *short, *options, *quiet])
    return runs / "tiny" / "version_0"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with both data sets, complete."""
    for name in ("FashionMNIST", "MNIST"):
        fetch(name, DATA)
    return DATA


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``mount("4m")``: an empty file system of that size."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs Linux and root")
    folders: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small file system here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def kill_while() -> Callable[..., None]:
    """``kill_while(write, path, seconds)``: kill a process that does so, once there is the file."""

    def run(target: Callable[[Path], object], path: Path, seconds: float) -> None:
        process = multiprocessing.get_context("fork").Process(target=target, args=(path,))
        process.start()
        while not path.exists():
            process.join(0.001)
        process.join(seconds)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    return run


@pytest.fixture
def quick_fit(tmp_path: Path, data_root: Path) -> Callable[..., ExperimentCLI]:
    """``train.main(["fit", ...])`` for a few steps of real data, into ``tmp_path / "runs"``.

    ``quick_fit("--config", "configs/baseline_cnn.yaml", epochs=2)``: the arguments follow the data
    module's and come before those that keep the run short.
    """

    def run(*args: str, epochs: int = 1, batches: int = 4) -> ExperimentCLI:
        return train.main(
            [
                "fit",
                "--data=FashionMNISTDataModule",
                f"--data.root={data_root}",
                *args,
                f"--runs_dir={tmp_path / 'runs'}",
                f"--trainer.max_epochs={epochs}",
                f"--trainer.limit_train_batches={batches}",
                "--trainer.limit_val_batches=1",
                "--trainer.limit_test_batches=1",
                "--trainer.enable_progress_bar=false",
            ]
        )

    return run
