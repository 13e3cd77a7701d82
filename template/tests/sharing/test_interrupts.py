"""Ctrl-C and SIGTERM end a program once, wherever it is, and what had ended before is not lost."""

from __future__ import annotations

import contextlib
import linecache
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
import scripts
from driven_jobs import Item, State, do_as_told, double
from in_threads import start
from needs import needs
from signs import Signs
from under_test import sharing

if TYPE_CHECKING:
    from _typeshed import TraceFunction

pytestmark = pytest.mark.timeout(100)

ENDS = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}


@contextlib.contextmanager
def interrupted_at(
    place: str, start_method: str, signs: Signs, grace: float = 5.0
) -> Iterator[scripts.Script]:
    """`interrupted.py`, when it has come to that place."""
    file = Path(__file__).with_name("interrupted.py")
    with scripts.running(file, start_method, signs, place, grace) as script:
        signs.wait("now")
        yield script


def said(script: scripts.Script) -> dict[str, str]:
    """What the script has come to, by the word for it."""
    return dict(line.split(" ", 1) for line in script.said.splitlines())


# What had ended is there


@needs("Counter", "Log", "Guarded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_what_had_ended_is_counted_and_recorded(
    signs: Signs, number: signal.Signals, times: int
) -> None:
    """Of the item that is cut off there is its section at most."""
    grace = 1.0 if times == 1 else 60.0
    with interrupted_at("leave_traces", "spawn", signs, grace) as script:
        script.process.send_signal(number)
        if times == 2:  # now, and not after the grace
            signs.wait("interrupted")
            script.process.send_signal(number)
        script.ends(0)
        found = said(script)
    assert found.pop("caught") == {2: "KeyboardInterrupt", 15: "SystemExit"}[number]
    assert found.pop("sections") in ("60", "61")
    assert found == {"counts": "60", "records": "True"}


@needs("Counter", "Log", "Guarded")
def test_what_had_ended_is_there_however_workers_start(start_method: str, signs: Signs) -> None:
    with interrupted_at("leave_traces", start_method, signs) as script:
        os.killpg(script.process.pid, signal.SIGINT)
        signs.wait("interrupted")
        script.process.send_signal(signal.SIGINT)
        script.ends(0)
        found = said(script)
    assert found.pop("sections") in ("60", "61")
    assert found == {"caught": "KeyboardInterrupt", "counts": "60", "records": "True"}


# Wherever the program is


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "place",
    ["in_next_of_source", "in_source_of_reader", "in_own_code", "in_first_next", "between_maps"],
)
def test_an_interrupt_ends_it(signs: Signs, place: str, number: signal.Signals) -> None:
    with interrupted_at(place, "fork", signs) as script:
        script.process.send_signal(number)
        errors = script.ends(ENDS[number])
    assert signs.given("closed")
    assert errors.count("Traceback") == (number == signal.SIGINT), errors


@pytest.mark.parametrize("place", ["in_next_of_source", "in_own_code", "in_first_next"])
def test_an_interrupt_of_all_processes_ends_it(start_method: str, signs: Signs, place: str) -> None:
    """As Ctrl-C on a terminal is one."""
    with interrupted_at(place, start_method, signs) as script:
        os.killpg(script.process.pid, signal.SIGINT)
        errors = script.ends(-signal.SIGINT)
    assert errors.count("Traceback") == 1, errors


# Handled by the program


def test_a_signal_that_was_handled_is_not_raised_again(start_method: str, signs: Signs) -> None:
    with interrupted_at("handled", start_method, signs) as script:
        script.process.send_signal(signal.SIGINT)
        script.ends(0)
    assert said(script) == {"caught": "1", "whole": "True"}


def test_an_interrupt_that_is_caught_in_the_loop_is_over() -> None:
    """Also Python's own KeyboardInterrupt; map and engine go on."""
    caught, found = 0, []
    with sharing.open_engine(State(), workers=1, start_method="fork") as engine:
        for value in engine.map(double, range(300), chunk_size=2):
            found.append(value)
            try:
                if value in (20, 60):
                    signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                caught += 1
        assert list(engine.map(double, [1])) == [2]
    assert caught == 2
    assert found == [2 * n for n in range(300)]


def test_an_interrupt_that_is_caught_around_a_map_is_over() -> None:
    with sharing.open_engine(State(), workers=1, start_method="fork") as engine:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                for value in engine.map(double, range(300), chunk_size=2):
                    if value == 20:
                        signal.raise_signal(signal.SIGINT)
            assert list(engine.map(double, range(9))) == [2 * n for n in range(9)]


def test_a_handler_that_raises_nothing_ends_nothing() -> None:
    called = []
    before = signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
    try:
        with sharing.open_engine(State(), workers=1, start_method="fork") as engine:
            found = []
            for value in engine.map(double, range(300), chunk_size=2):
                found.append(value)
                if value % 100 == 20:
                    signal.raise_signal(signal.SIGINT)
        assert found == [2 * n for n in range(300)]
        assert called == [signal.SIGINT] * 6
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_the_main_thread_is_not_the_one_of_a_reader() -> None:
    """Another thread reads its map to the end, while the main thread handles signals."""
    with sharing.open_engine(State(), workers=1, start_method="fork") as engine:
        found: list[int] = []
        thread = threading.Thread(
            target=lambda: found.extend(engine.map(double, range(3000), chunk_size=1)), daemon=True
        )
        thread.start()
        caught = 0
        while thread.is_alive() and caught < 5:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                caught += 1
        thread.join(60)
        assert found == [2 * n for n in range(3000)]
        assert caught


class TimeIsUp(Exception):
    """What the program's own handler of SIGALRM raises."""


def raise_time_is_up(number: int, frame: object) -> None:
    raise TimeIsUp


@pytest.fixture(params=["before", "while open"])
def alarm(request: pytest.FixtureRequest) -> Iterator[Callable[[str, Any], None]]:
    """Sets a handler of SIGUSR1, at one of two times that it is called for."""
    before = signal.getsignal(signal.SIGUSR1)

    def alarm(moment: str, handler: Any) -> None:
        if moment == request.param:
            signal.signal(signal.SIGUSR1, handler)

    yield alarm
    signal.signal(signal.SIGUSR1, before)


def test_what_another_handler_raises_is_raised_once(
    alarm: Callable[[str, Any], None], start_method: str, signs: Signs
) -> None:
    """As the timeout of a program's own does; the engine goes on."""
    alarm("before", raise_time_is_up)
    with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
        alarm("while open", raise_time_is_up)
        for turn in range(3):
            items = [Item(signs, n, "takes a while") for n in range(10 * turn, 10 * turn + 9)]
            results = engine.map(do_as_told, items, chunk_size=1)
            start(send_when_begun, signs, items[0])
            with pytest.raises(TimeIsUp):
                list(results)
            assert list(engine.map(double, range(9))) == [2 * n for n in range(9)]


def send_when_begun(signs: Signs, item: Item) -> None:
    signs.wait(f"tried {item.number}")
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_handler_that_reads_maps(alarm: Callable[[str, Any], None]) -> None:
    """Another one, as it likes; the one that is read just now is refused, and none is too short."""
    found: list[Any] = []

    def handler(number: int, frame: object) -> None:
        found.append(list(engine.map(double, range(3))))
        try:
            found.append(next(results))
        except sharing.SharingError as error:
            found.append(error)

    def source() -> Iterator[int]:
        for n in range(2000):
            if n == 500:
                os.kill(os.getpid(), signal.SIGUSR1)
            yield n

    alarm("before", handler)
    with sharing.open_engine(State(), workers=2, start_method="fork") as engine:
        alarm("while open", handler)
        results = engine.map(double, source(), chunk_size=1)
        try:
            assert list(results) == [2 * n for n in range(2000)]
        except sharing.SharingError:
            assert isinstance(found[1], sharing.SharingError)
        assert found[0] == [0, 2, 4]


# Under asyncio, and in threads


def test_a_map_in_the_main_thread_under_asyncio(signs: Signs) -> None:
    """The loop is blocked, so the main task is cancelled when it awaits next, as without us."""
    with interrupted_at("under_asyncio", "spawn", signs) as script:
        script.process.send_signal(signal.SIGINT)
        signs.give("go")
        errors = script.ends(-signal.SIGINT)
    assert said(script) == {"values": "[0, 1, 2, 3]", "cancelled": "True"}
    assert "KeyboardInterrupt" in errors


def test_a_map_in_a_thread_under_asyncio(signs: Signs) -> None:
    with interrupted_at("under_asyncio_in_a_thread", "spawn", signs) as script:
        script.process.send_signal(signal.SIGINT)
        errors = script.ends(-signal.SIGINT)
    assert said(script) == {"cancelled": "True", "reader": "SharingError"}
    assert "KeyboardInterrupt" in errors


def test_an_engine_that_lives_in_a_thread(start_method: str, signs: Signs) -> None:
    """Signals are the main thread's, workers live on, and the thread leaves as it is told."""
    with interrupted_at("of_a_thread", start_method, signs) as script:
        os.killpg(script.process.pid, signal.SIGINT)
        errors = script.ends(-signal.SIGINT)
    assert said(script) == {"after": "[0, 2, 4]", "left": "True"}, errors
    assert errors.count("Traceback") == 1, errors


# At any line of the engine's own code

TIMES = 100
"""Lines that a signal comes at, of each kind of work."""


OURS = str(Path(sharing.__file__).parent)


class Interrupted:
    """Signals come at some of the lines of `sharing` that the main thread goes through.

    Args:
        work: what goes through them.
        first: the number of the line that the signal comes at.
    """

    def __init__(self, work: Callable[[], object], first: int) -> None:
        self.lines = 0
        self._at = first
        self.raised: BaseException | None = None
        sys.settrace(self._enter)
        try:
            work()
        except KeyboardInterrupt as error:
            self.raised = error
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> TraceFunction | None:
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> TraceFunction:
        # A `with` is left at its own line, too: there Python itself looks for no signal.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not line.lstrip().startswith("with "):
            self.lines += 1
            if self.lines == self._at:
                signal.raise_signal(signal.SIGINT)
        return self._line


def lines_of(work: Callable[[], object]) -> range:
    """Lines to send a signal at: few at first, where each is another one, then fewer."""
    lines = Interrupted(work, 0).lines
    return range(1, lines + 1, max(1, lines // TIMES))


def test_an_interrupt_at_any_line_leaves_an_engine_that_works() -> None:
    with sharing.open_engine(State(), workers=1, start_method="fork") as engine:

        def work() -> None:
            assert list(engine.map(double, range(3), chunk_size=1)) == [0, 2, 4]

        caught = 0
        for line in lines_of(work):
            caught += Interrupted(work, line).raised is not None
            work()
    assert caught > TIMES // 2


def test_an_interrupt_at_any_line_of_closing_leaves_nothing() -> None:
    def opened() -> sharing.Engine[State]:
        engine = sharing.open_engine(State(), workers=1, start_method="fork")
        engine.__enter__()
        assert list(engine.map(double, [1])) == [2]
        return engine

    caught = 0
    for line in lines_of(partial(opened().__exit__, None, None, None)):
        engine = opened()
        close = partial(engine.__exit__, None, None, None)
        caught += Interrupted(close, line).raised is not None
        close()  # had it not begun to
        assert not multiprocessing.active_children()
    assert caught > TIMES // 2


def test_an_interrupt_at_any_line_of_opening_leaves_nothing() -> None:
    def opening() -> tuple[sharing.Engine[State], Callable[[], object]]:
        engine = sharing.open_engine(State(), workers=1, start_method="fork")
        return engine, engine.__enter__

    engine, enter = opening()
    lines = lines_of(enter)
    engine.__exit__(None, None, None)
    for line in lines:
        engine, enter = opening()
        interrupted = Interrupted(enter, line)
        if interrupted.raised is None:
            engine.__exit__(None, None, None)
        assert not multiprocessing.active_children()
