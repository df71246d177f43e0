"""Interruptions by Ctrl-C or SIGTERM: in trainings and waits, never within a storage's work.

An exception out of nowhere inside SQLAlchemy leaves connections open and the file locked, and the
command, which then wants to put its trial back, waits for itself.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Options of a process that this terminal's Ctrl-C is not to reach.
APART: dict[str, Any] = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    if os.name == "nt"
    else {"start_new_session": True}
)
_waiting: list[int] = []


def _remember(number: int, _: FrameType | None) -> None:
    if _waiting:  # asked twice
        raise KeyboardInterrupt
    _waiting.append(number)


def _come(number: int, _: FrameType | None) -> None:
    _waiting.append(number)  # so that another one, later, does not wait
    raise KeyboardInterrupt


@contextmanager
def later() -> Iterator[None]:
    """Let an interruption wait for the end of the block, or for :func:`at_once`.

    A second one does not wait. Signals that are ignored, as of a shell's background jobs, stay so.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}
    outermost = _remember not in earlier.values()
    try:
        for number, handler in earlier.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _remember)
        yield
        if outermost and _waiting:
            raise KeyboardInterrupt
    finally:
        if outermost:
            _waiting.clear()
        for number, handler in earlier.items():
            signal.signal(number, handler)  # Lightning ignores SIGINT after an interruption


@contextmanager
def at_once() -> Iterator[None]:
    """Within :func:`later`: nothing that an interruption could harm.

    Raises:
        KeyboardInterrupt: one waits, or comes.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    held = [number for number in _SIGNALS if signal.getsignal(number) is _remember]
    try:
        for number in held:
            signal.signal(number, _come)
        if held and _waiting:
            raise KeyboardInterrupt
        yield
    finally:
        for number in held:
            signal.signal(number, _remember)


def interrupted(error: BaseException | None) -> bool:
    """Tell whether an error is an interruption, or came up on the way out of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
