"""The end of a program that a signal or a lost process ends: one line, one exit status."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed
from typing_extensions import override

from callbacks.interruption import Interruption
from foundation.interruption import PATIENCE, Interrupted, hold, interrupted, waiting
from foundation.roll_call import RollCall


class Ending(Interruption):
    """Say why a run ends and how to go on, and end it with the processes that it has started.

    The exit status is 128 and the signal's number after a signal, and 1 where another process of
    the run is gone or does not answer. Of several processes, the first that lives says it.
    """

    grace = 5.0  # seconds that processes that this one has started get to end by themselves

    def __init__(self) -> None:
        super().__init__()
        self.started: list[subprocess.Popen[bytes]] = []  # ranks on this machine after this one
        self._roll_call: RollCall | None = None
        self._begun = threading.Lock()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if trainer.world_size == 1 or self._roll_call is not None:
            return
        with suppress(RuntimeError):  # without it nobody is named
            self._roll_call = RollCall(trainer.global_rank, trainer.world_size)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and launcher.procs:
            # Lightning's own watch over them would kill this process without a word.
            self.started = list(launcher.procs)
            launcher.procs.clear()
            threading.Thread(target=self._look_after, daemon=True).start()

    def _look_after(self) -> None:
        """End where a started process has died and this one does not notice by itself."""
        while not any(process.poll() for process in self.started):
            time.sleep(1)
        time.sleep(PATIENCE)
        self._lost("")

    def by(self, error: BaseException) -> None:
        """End because of an interruption or a lost process; of another error, end the others only.

        Args:
            error: that has come as far as the program.
        """
        if came := interrupted(error):
            self._interrupted(came.number)
        if isinstance(error, RuntimeError) and _of_a_connection(error):
            self._lost(str(error))
        self._end_started(grace=1)

    def now(self, number: int) -> NoReturn:
        """End after a signal, from another thread than the one that does not come to an end."""
        if not self._begun.acquire(blocking=False):
            time.sleep(1)  # the main thread is at it
            self._exit(Interrupted(number).status, grace=0)
        gone = self._roll_call.missing() if self._roll_call is not None else []
        self._say_interrupted(number, gone)
        self._exit(Interrupted(number).status, grace=0)

    def _interrupted(self, number: int) -> NoReturn:
        self._begin()
        self._say_interrupted(number)
        self._exit(Interrupted(number).status, self.grace)

    def _lost(self, reason: str) -> NoReturn:
        """End where a collective operation has failed, which says why."""
        self._begin()
        gone = self._roll_call.missing() if self._roll_call is not None else []
        if waiting() and not gone:  # they are all on their way out
            self._say_interrupted(waiting())
            self._exit(Interrupted(waiting()).status, self.grace)
        if gone:
            names = ", ".join(self._name(rank) for rank in gone)
            what = f"rank {names} is gone" if len(gone) == 1 else f"ranks {names} are gone"
        else:
            line = next(iter(reason.strip().splitlines()), "")
            what = f"the processes do not hear each other ({line})"
        self._say(f"{what}{self.place()}; {self.way_on()}", gone)
        self._exit(1, self.grace)

    def _begin(self) -> None:
        """Have nothing come in between."""
        hold(True)
        if not self._begun.acquire(blocking=False):
            threading.Event().wait()  # another thread is at it

    def _name(self, rank: int) -> str:
        here = rank - _rank() - 1
        status = self.started[here].poll() if 0 <= here < len(self.started) else None
        if status is None:
            return f"{rank} (it does not answer)"
        return f"{rank} ({f'ended by {Interrupted(-status)}' if status < 0 else f'exit {status}'})"

    def _say_interrupted(self, number: int, gone: list[int] | None = None) -> None:
        text = f"interrupted by {Interrupted(number)}{self.place()}; {self.way_on()}"
        self._say(text, gone or [])

    def _say(self, text: str, gone: list[int]) -> None:
        """Not by ``print``, in the middle of which the main thread may be."""
        if set(range(_rank())) <= set(gone):
            os.write(2, f"{text}\n".encode())

    def _exit(self, status: int, grace: float) -> NoReturn:
        self._end_started(grace)
        sys.stdout.flush()
        os._exit(status)  # the threads of a process group may abort an exit that takes its time

    def _end_started(self, grace: float) -> None:
        """End the processes that this one has started, by force after ``grace`` seconds."""
        deadline = time.monotonic() + grace
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # which ends a stopped one, too
                process.wait()


def _of_a_connection(error: RuntimeError) -> bool:
    """Tell whether an error is of the connection between processes."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _rank() -> int:
    return getattr(rank_zero_only, "rank", 0)
