"""Who answers a roll call, and who does not."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# Process 0 keeps the store; all wait in it, as they would in a collective operation.
PROCESS = """
import sys
from datetime import timedelta
from torch.distributed import TCPStore
rank, port = map(int, sys.argv[1:])
store = TCPStore("127.0.0.1", port, 3, rank == 0, timedelta(seconds=60), wait_for_workers=False)
from foundation.roll_call import RollCall
roll = RollCall(rank, 3)
store.set(f"ready/{rank}", "")
store.wait(["ready/0", "ready/1", "ready/2"])
print("ready", flush=True)
sys.stdin.readline()
print(roll.missing(), flush=True)
sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops a process")
STOPS = [getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)]


@pytest.fixture
def three() -> Iterator[list[subprocess.Popen[str]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(port)],
            env={**os.environ, **place},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def asked(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_the_living_answer_although_they_wait(three: list[subprocess.Popen[str]]) -> None:
    assert asked(three[1]) == "[]"


@pytest.mark.parametrize("number", STOPS)
def test_the_dead_and_the_stopped_do_not(
    three: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    three[1].send_signal(number)
    assert asked(three[2]) == "[1]"
    assert asked(three[0]) == "[1]"


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPS)
def test_nor_does_the_one_that_keeps_the_store(
    three: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    three[0].send_signal(number)
    assert asked(three[2]) == "[0]"
