"""Two machines, as two networks of this one: a run, a machine that dies, a cable that is cut."""

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

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
FIRST = "10.77.0.1"  # address of the first machine

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("ip"),
        reason="network namespaces need Linux, root and iproute2",
    ),
]


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them."""
    names = [f"cnn{os.getpid()}_{index}" for index in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip(*f"link add name veth0 netns {names[0]} type veth peer veth0 netns {names[1]}".split())
        for index, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.77.0.{index + 1}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False)


class Node:
    """torchrun with one process on a machine."""

    def __init__(self, machine: str, index: int, folder: Path, *options: str) -> None:
        self.out, self.err = folder / f"out_{index}.txt", folder / f"err_{index}.txt"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        torchrun += ["--nproc_per_node=1", f"--node_rank={index}", f"--master_addr={FIRST}"]
        files = ("baseline_cnn.yaml", "hardware/multi_node.yaml")
        configs = [f"--config={CONFIGS / file}" for file in files]
        trial = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true"]
        small = ["--model.width=4", "--model.hidden_size=16", "--model.norm=batch"]
        small += ["--data.val_size=500", "--data.train_fraction=0.2", "--data.batch_size=16"]
        small += [f"--data.root={REPOSITORY / 'data'}"]
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.limit_test_batches=2"]
        command = ["ip", "netns", "exec", machine, *torchrun, "--master_port=29400"]
        command += [str(REPOSITORY / "train.py"), "fit", *configs, *trial, *small, *quiet, *options]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "veth0"},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def worker(self) -> int:
        """The process that trains."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.worker(), signal.SIGKILL)
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start(machines: list[str], tmp_path: Path, data_root: Path) -> Iterator[Any]:
    """Start the same command on both machines."""
    nodes: list[Node] = []

    def begin(*options: str) -> list[Node]:
        new = [Node(name, index, tmp_path, *options) for index, name in enumerate(machines)]
        nodes.extend(new)
        return new

    yield begin
    for node in nodes:
        node.kill()


RUN = "runs/baseline_cnn+multi_node/version_0"


def wait_for_epoch(folder: Path, nodes: list[Node]) -> None:
    deadline = time.monotonic() + 180
    while not (folder / RUN / "checkpoints/last.ckpt").exists():
        assert all(node.process.poll() is None for node in nodes), nodes[0].err.read_text()
        assert time.monotonic() < deadline, nodes[0].err.read_text()
        time.sleep(0.1)
    time.sleep(0.5)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RUN / "summary.json").read_text())


def test_two_machines_train_one_run_over_a_cable_that_is_cut_for_a_while(
    start: Any, machines: list[str], tmp_path: Path
) -> None:
    nodes = start("--trainer.max_epochs=3")
    wait_for_epoch(tmp_path, nodes)
    ip("-n", machines[0], "link", "set", "veth0", "down")
    time.sleep(8)
    ip("-n", machines[0], "link", "set", "veth0", "up")
    assert [node.process.wait(240) for node in nodes] == [0, 0], nodes[0].err.read_text()
    written = summary(tmp_path)
    assert (written["processes"], written["epochs"]) == (2, 3)
    assert written["steps"] == 3 * 372  # a fifth of 59,500 images, 2 × 16 a step
    assert nodes[0].out.read_text().count("test/accuracy") == 1
    assert "test/accuracy" not in nodes[1].out.read_text()
    errors = nodes[0].err.read_text()
    assert errors.count("sync_batchnorm is for GPUs") == 1
    assert "sync_batchnorm" not in nodes[1].err.read_text()
    assert "pin_memory" not in errors


def test_a_machine_that_dies_is_named_and_the_run_goes_on(start: Any, tmp_path: Path) -> None:
    nodes = start("--trainer.max_epochs=50")
    wait_for_epoch(tmp_path, nodes)
    began = time.monotonic()
    nodes[1].kill()
    assert nodes[0].process.wait(60) != 0
    assert time.monotonic() - began < 45
    (line,) = [s for s in nodes[0].err.read_text().splitlines() if s.startswith("rank ")]
    said = re.fullmatch(
        r"rank 1 \(it does not answer\) is gone in epoch (\d+) at step [\d,]+; saved up to epoch "
        r"(\d+): go on with python \S+ fit --ckpt_path (\S+last.ckpt)",
        line,
    )
    assert said, line
    epochs = int(said[2]) + 1
    again = start(f"--ckpt_path={said[3]}", f"--trainer.max_epochs={epochs}")
    assert [node.process.wait(240) for node in again] == [0, 0], again[0].err.read_text()
    assert summary(tmp_path)["epochs"] == epochs
