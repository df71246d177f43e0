"""Work on a queue, in this process or in several that it starts and watches."""

import gc
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from foundation.errors import UserError
from foundation.interruption import APART, at_once
from studies.queue.queue import Queue

POLL = 0.5  # seconds between two looks at a queue where others work


def work(
    queue: Queue,
    run: Callable[[int], None],
    *,
    deadline: float | None = None,
    create: bool = False,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Run a queue's trials until none is left, here or with a worker that may yet die.

    Args:
        queue: entered by this function.
        run: runs a trial, by its id, and records how it ended.
        deadline: on ``time.monotonic``'s clock; no trial starts after it.
        create: whether there is always another trial, until the deadline.
        after: called after every trial.
    """
    gc.freeze()  # what is there by now need not be searched for garbage after every trial
    try:
        with queue:
            while deadline is None or time.monotonic() < deadline:
                trial_id = queue.take(create)
                if trial_id is not None:
                    with queue.working_on(trial_id):
                        run(trial_id)
                elif queue.unfinished():
                    with at_once():
                        time.sleep(POLL)
                else:
                    return
                after()
    finally:
        gc.unfreeze()


class Workers:
    """Several processes that work on one queue.

    Args:
        number: how many.
        command: of each.
        environment: of all; each gets its share of the machine on top.
        log: what they print goes there.
    """

    def __init__(
        self, number: int, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.log = log
        self.deaths: list[str] = []
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.earlier = out.tell()
            self.processes = [
                subprocess.Popen(
                    [*command, f"--parent={os.getpid()}"],
                    env={**environment, **_share(environment, index, number)},
                    stdout=out,
                    stderr=out,
                    **APART,  # Ctrl-C reaches them through stop()
                )
                for index in range(number)
            ]

    def watch(self, queue: Queue, after: Callable[[], None]) -> None:
        """Wait for all of them.

        Raises:
            UserError: they all died, and work is left.
        """
        living = list(self.processes)
        while living:
            with at_once():
                time.sleep(POLL)
            for process in [process for process in living if process.poll() is not None]:
                living.remove(process)
                if process.returncode:
                    self.deaths.append(f"worker {process.pid} ended with {process.returncode}")
            after()
        if len(self.deaths) == len(self.processes) and queue.unfinished():
            lines = self.log.read_bytes()[self.earlier :].decode(errors="replace").split("\n")
            lines = [line for line in lines if line.strip()]
            raise UserError(
                f"all workers died ({'; '.join(self.deaths)}; the last words in {self.log}: "
                f"{lines[-1] if lines else 'none'}); the same command goes on where they stopped"
            )

    def stop(self, patience: float = 60.0) -> None:
        """Let them put their trials back and end."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _share(environment: Mapping[str, str], index: int, number: int) -> dict[str, str]:
    """A worker's share of the cores, and a GPU of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // number))
    share = {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", threads)}
    if torch.cuda.is_available():
        every = ",".join(map(str, range(torch.cuda.device_count())))
        devices = (environment.get("CUDA_VISIBLE_DEVICES") or every).split(",")
        share["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
    return share
