"""The living processes of a distributed run: one asks, and each answers for itself."""

import os
import threading
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed import TCPStore


class RollCall:
    """Ask who is there, and answer when another process asks.

    A thread answers, so a process that waits for others does too; one that is killed or stopped
    does not. They meet in the store that the run's processes have found each other by.

    Args:
        rank: of this process.
        processes: how many there are.
    """

    poll = 1.0  # seconds between two looks whether anybody asks

    def __init__(self, rank: int, processes: int) -> None:
        self.rank = rank
        self.processes = processes
        # A restarted run uses the same store.
        self._key = f"roll_call/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=30),
        )
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with suppress(RuntimeError):  # the store is gone, and with it who could ask
            while not self._store.check([f"{self._key}/asked"]):
                time.sleep(self.poll)
            self._store.set(f"{self._key}/{self.rank}", "here")

    def missing(self, patience: float = 5.0) -> list[int]:
        """The processes that do not answer within so many seconds.

        Where the store does not answer, it is process 0 that is missing, which keeps it.
        """
        everyone, there = set(range(self.processes)), {self.rank}
        reached = threading.Event()

        def ask() -> None:
            with suppress(RuntimeError):
                self._store.set(f"{self._key}/asked", "")
                while there < everyone:
                    there.update(r for r in everyone if self._store.check([f"{self._key}/{r}"]))
                    reached.set()
                    time.sleep(0.1)
                return
            reached.clear()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(patience)
        return sorted((everyone if reached.is_set() else {0}) - there)
