"""Patience with a database server that is away: again, after longer and longer pauses."""

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from foundation.interruption import Interrupted, at_once, interrupted

PATIENCE = 300.0  # seconds that a server may be away before a command ends
# Seconds between two attempts. The very first repetition comes at once: the server may have closed
# this connection alone.
SHORTEST, LONGEST = 0.5, 15.0

T = TypeVar("T")


class StorageAway(Exception):
    """The database server has closed the connection, or takes none.

    No error of SQLAlchemy's: what fails with one, Optuna repeats by itself, and it may be done.
    """


class Patience:
    """Repeat what a server's absence cuts off, until it is done.

    Attributes:
        over: whether nothing is waited for any more, as somebody interrupts or the time was up.
    """

    def __init__(self) -> None:
        self.over = False
        self._thread = threading.local()

    def __call__(self, attempt: Callable[[], T]) -> T:
        """Call ``attempt`` until nothing cuts it off; each time it begins at its start.

        An attempt within another one is not repeated by itself. What a lost connection has left
        unknown, done or not, is the attempt's to find out.

        Raises:
            StorageAway: the server is away for more than :data:`PATIENCE` seconds, or somebody
                interrupts this process.
            Interrupted: in a pause.
        """
        if getattr(self._thread, "within", False):
            return attempt()
        self._thread.within = True
        try:
            return self._repeat(attempt)
        finally:
            self._thread.within = False

    def _repeat(self, attempt: Callable[[], T]) -> T:
        away: float | None = None
        pause = 0.0
        while True:
            try:
                done = attempt()
            except StorageAway as error:
                away = time.monotonic() if away is None else away
                if self.over or interrupted(error) or time.monotonic() - away > PATIENCE:
                    self.over = True
                    raise
                if pause == SHORTEST:
                    _say(f"away ({error}); trying again for {PATIENCE / 60:g} minutes")
                self._wait(pause)
                pause = min(max(SHORTEST, 2 * pause), LONGEST)
            else:
                if pause > SHORTEST and away is not None:
                    _say(f"back after {time.monotonic() - away:.0f} s")
                self.over = False
                return done

    def _wait(self, seconds: float) -> None:
        try:
            with at_once():
                time.sleep(seconds)
        except Interrupted:
            self.over = True
            raise


def _say(what: str) -> None:
    print(f"the storage is {what}", file=sys.stderr, flush=True)
