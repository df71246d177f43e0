"""Who works on a queue: this process, or several that it starts and watches."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from errors import UserError
from studies.queue import UNFINISHED, Queue

POLL = 0.5  # seconds between two looks at a queue where others work
_ROOT = Path(__file__).parent.parent


def work(
    queue: Queue,
    run: Callable[[int], None],
    *,
    deadline: float | None = None,
    create: bool = False,
    after: Callable[[], None] = lambda: None,
    parent: int | None = None,
) -> None:
    """Run a queue's trials until none is left, here or with a worker that may yet die.

    Args:
        queue: entered by this function.
        run: runs a trial, by its id, and records how it ended.
        deadline: on ``time.monotonic``'s clock; no trial starts after it.
        create: whether there is always another trial, until the deadline.
        after: called after every trial.
        parent: process without which this one shall not go on.
    """
    with queue:
        while deadline is None or time.monotonic() < deadline:
            if parent is not None and os.getppid() != parent:
                return
            trial_id = queue.take(create)
            if trial_id is not None:
                with queue.working_on(trial_id):
                    run(trial_id)
            elif queue.trials(UNFINISHED):
                time.sleep(POLL)
            else:
                return
            after()


class Workers:
    """Several processes that run ``search.py worker``.

    Args:
        number: how many.
        options: of ``search.py worker``.
        log: what they print goes there.
    """

    def __init__(self, number: int, options: Sequence[str], log: Path) -> None:
        self.log = log
        self.deaths: list[str] = []
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, str(_ROOT / "search.py"), "worker", *options],
                    env=_share(index, number),
                    stdout=out,
                    stderr=out,
                    start_new_session=True,  # Ctrl-C reaches them through stop()
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
            time.sleep(POLL)
            for process in [process for process in living if process.poll() is not None]:
                living.remove(process)
                if process.returncode:
                    self.deaths.append(f"worker {process.pid} ended with {process.returncode}")
            after()
        if self.deaths and queue.trials(UNFINISHED):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise UserError(
                f"all workers died ({'; '.join(self.deaths)}; the last words in {self.log}: "
                f"{lines[-1] if lines else 'none'}); the same command goes on where they stopped"
            )

    def stop(self, patience: float = 60.0) -> None:
        """Let them put their trials back and end."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def _share(index: int, number: int) -> dict[str, str]:
    """The environment of a worker: its share of the cores, and a GPU of its own."""
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // number)))
    if torch.cuda.is_available():
        every = ",".join(map(str, range(torch.cuda.device_count())))
        devices = (environment.get("CUDA_VISIBLE_DEVICES") or every).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
    return environment
