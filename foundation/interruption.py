"""Interruptions by Ctrl-C, SIGTERM or SIGHUP: they come where they do no harm, or wait.

An exception out of nowhere inside SQLAlchemy leaves connections open and the file locked, and the
command, which then wants to put its trial back, waits for itself. In the middle of a training step
it leaves the other processes of a run waiting for this one.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# Seconds until another signal is a second one: a terminal and torchrun both pass on the same.
AGAIN = 1.0
PATIENCE = 30.0  # seconds from a signal to the end of a process that does not come to one
POLL = 0.5  # seconds between two looks at a parent
# Options of a process that this terminal's Ctrl-C is not to reach.
APART: dict[str, Any] = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    if os.name == "nt"
    else {"start_new_session": True}
)


class Interrupted(BaseException):
    """A signal asked this process to end.

    Attributes:
        number: of the signal.
        status: the shell's exit status of what it ends.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.status = 128 + number


_waiting: list[int] = []
_since = 0.0
_held: bool | None = None  # None outside of `later`, where signals do what they always do


def _handle(number: int, _: FrameType | None) -> None:
    global _since
    first = not _waiting
    if first:
        _since = time.monotonic()
        _waiting.append(number)
    if (first and not _held) or time.monotonic() - _since >= AGAIN:
        raise Interrupted(_waiting[0])


def waiting() -> int:
    """The number of the signal that came, and waits; 0 for none."""
    return _waiting[0] if _waiting else 0


def check() -> None:
    """Let an interruption through that waits.

    Raises:
        Interrupted: there is one.
    """
    if _waiting:
        raise Interrupted(_waiting[0])


@contextmanager
def later() -> Iterator[None]:
    """Let an interruption wait for the end of the block, or for :func:`at_once`.

    A second one does not wait. Signals that are ignored, as of a shell's background jobs, stay so.

    Raises:
        Interrupted: there was one.
    """
    global _held
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = _held
    earlier = {}
    try:
        _held = True
        if before is None:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    earlier[number] = signal.signal(number, _handle)
        yield
        if not before:
            check()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if before is None:
            _waiting.clear()
        _held = before


@contextmanager
def at_once() -> Iterator[None]:
    """Within :func:`later`: nothing that an interruption could harm.

    Raises:
        Interrupted: one waits, or comes.
    """
    global _held
    if _held is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _held
    try:
        _held = False
        check()
        yield
    finally:
        _held = before


def hold(on: bool) -> None:
    """Within :func:`later`: have interruptions wait from now on, or come at once.

    For hooks that are called before and after what is to be held; :func:`check` lets one through.
    """
    global _held
    if _held is not None and threading.current_thread() is threading.main_thread():
        _held = on


def interrupted(error: BaseException | None) -> Interrupted | None:
    """The interruption that an error is, or that it came up on the way out of; None for none."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def end_with(parent: int) -> None:
    """Interrupt this process as soon as its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def bound(end: Callable[[int], object]) -> None:
    """Call ``end`` with a signal's number :data:`PATIENCE` seconds after it, or at a second one.

    In a thread of its own: while a process waits for another one in compiled code, Python calls no
    handlers. To be called once, by a program, in its main thread.
    """
    receive, send = socket.socketpair()
    send.setblocking(False)
    signal.set_wakeup_fd(send.fileno(), warn_on_full_buffer=False)

    def next_signal(seconds: float | None) -> int:
        receive.settimeout(seconds)
        try:
            return receive.recv(1)[0]
        except TimeoutError:
            return 0

    def watch(_: socket.socket) -> None:
        first = 0
        while first not in SIGNALS:
            first = next_signal(None)
        came = time.monotonic()
        while (left := came + PATIENCE - time.monotonic()) > 0:
            if next_signal(left) in SIGNALS and time.monotonic() - came >= AGAIN:
                break
        end(first)

    # It keeps the sending end open, too.
    threading.Thread(target=watch, args=(send,), daemon=True).start()
