"""When an interruption comes through."""

# ruff: noqa: PT012 (what follows the raising line is what must not run)

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from foundation import interruption
from foundation.interruption import Interrupted, at_once, hold, interrupted, later

SIGNALS = interruption.SIGNALS


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers are afterwards as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_one_waits_for_the_end(number: int) -> None:
    done = []
    with pytest.raises(Interrupted) as came, later():
        signal.raise_signal(number)
        with later():
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    assert came.value.status == 128 + number
    with later():
        pass  # it came through once


def test_a_second_one_does_not_wait() -> None:
    done = []
    with pytest.raises(Interrupted), later():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a parent passes on what the terminal has sent
        done.append("first")
        time.sleep(interruption.AGAIN)
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once(number: int) -> None:
    done = []
    with pytest.raises(Interrupted), later(), at_once():
        done.append("before")
        signal.raise_signal(number)
        done.append("after")
    with pytest.raises(Interrupted), later():
        signal.raise_signal(number)
        done.append("waits")
        with at_once():
            done.append("here")
    assert done == ["before", "waits"]


def test_after_one_that_came_at_once_another_does_not_wait() -> None:
    done = []
    with pytest.raises(Interrupted), later():
        try:
            with at_once():
                signal.raise_signal(signal.SIGINT)
        finally:
            done.append("putting things back")
            time.sleep(interruption.AGAIN)
            signal.raise_signal(signal.SIGINT)
            done.append("more")
    assert done == ["putting things back"]


def test_within_at_once_a_block_may_hold_it_up_again() -> None:
    done = []
    with pytest.raises(Interrupted), later(), at_once():
        with later():
            signal.raise_signal(signal.SIGINT)
            done.append("held")
        done.append("late")
    assert done == ["held"]


def test_by_itself_at_once_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with at_once():
        assert signal.getsignal(signal.SIGTERM) == before


def test_ignored_signals_stay_ignored_and_an_error_wins() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with later(), at_once():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ValueError, match="wrong"), later():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("wrong")
    with later():
        pass


def test_other_threads_run_as_they_are() -> None:
    done = []

    def other() -> None:
        with later(), at_once():
            done.append("run")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert done == ["run"]


def test_hooks_hold_it_up_and_let_it_come() -> None:
    done = []
    with pytest.raises(Interrupted), later(), at_once():
        hold(True)
        signal.raise_signal(signal.SIGTERM)
        done.append("held")
        hold(False)
        interruption.check()
        done.append("late")
    hold(True)  # changes nothing here
    with later():
        pass
    assert done == ["held"]


def test_what_came_up_on_the_way_out_is_an_interruption_too() -> None:
    try:
        try:
            raise Interrupted(signal.SIGTERM)
        finally:
            raise ValueError("the disk is full")
    except ValueError as error:
        came = interrupted(error)
    assert came is not None
    assert came.number == signal.SIGTERM
    assert interrupted(ValueError("alone")) is None
