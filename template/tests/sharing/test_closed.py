"""Whoever reads a map of an engine that closes is told so at any moment: no list is short."""

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from driven_jobs import Item, State, do_as_told, double, wait_to_go
from in_threads import SOON, start
from signs import Signs, wait_until
from under_test import driver, sharing

pytestmark = pytest.mark.timeout(100)

ROUNDS = 5
"""How often what depends on the moment is tried."""


def opened(start_method: str, workers: int = 2) -> sharing.Engine[State]:
    return sharing.open_engine(State(), workers=workers, start_method=start_method)


def read_till_told(results: Iterator[Any]) -> int:
    """Read on; how many had come when a SharingError came. Any other end is wrong."""
    count = 0
    try:
        for _ in results:
            count += 1
    except sharing.JobFailed:
        raise
    except sharing.SharingError:
        return count
    raise AssertionError(f"it ended after {count} results, as if that were all")


# Afterwards


@pytest.mark.parametrize("kind", ["map", "outcomes"])
@pytest.mark.parametrize("read", [0, 1, 7])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_is_begun_and_read_after_the_engine_has_closed(
    kind: str, read: int, ordered: bool
) -> None:
    for items in (range(200), itertools.count(), (n for n in range(200))):
        with opened("fork") as engine:
            results = getattr(engine, kind)(double, items, chunk_size=2, ordered=ordered)
            for _ in range(read):
                next(results)
        read_till_told(results)


@pytest.mark.parametrize("kind", ["map", "outcomes"])
def test_whoever_asks_a_map_of_a_closed_engine_again_is_told_again(kind: str) -> None:
    """Who has caught the error and reads on does not find an end."""
    with opened("fork") as engine:
        results = getattr(engine, kind)(double, range(200), chunk_size=2)
        next(results)
    for _ in range(3):
        read_till_told(results)


def test_a_map_of_which_all_had_come_but_was_not_read(start_method: str, signs: Signs) -> None:
    """What waits for its reader when the engine closes is not for the taking."""
    signs.give("go")
    with opened(start_method) as engine:
        results = engine.map(wait_to_go, [Item(signs, n) for n in range(6)], chunk_size=1)
        assert next(results) == 0
        wait_until(lambda: len(signs.notes("ended")) >= 3, SOON)
    read_till_told(results)


def test_a_map_that_was_read_to_its_end_has_ended() -> None:
    with opened("fork") as engine:
        results = engine.map(double, range(20))
        assert list(results) == [2 * n for n in range(20)]
    assert list(results) == []


def test_leaving_a_map_of_a_closed_engine_is_no_error() -> None:
    with opened("fork") as engine:
        results: Any = engine.map(double, range(200), chunk_size=1)
        assert next(results) == 0
    results.close()
    assert list(results) == []


@pytest.mark.parametrize("kind", ["map", "outcomes"])
def test_a_map_that_was_left_gives_no_more(kind: str) -> None:
    """Nor what is left of the chunk that was being read."""
    with opened("fork") as engine:
        results: Any = getattr(engine, kind)(double, range(200), chunk_size=8)
        next(results)
        results.close()
        assert list(results) == []


def test_a_closed_engine_is_not_used(start_method: str) -> None:
    with opened(start_method) as engine:
        assert list(engine.map(double, range(9))) == [2 * n for n in range(9)]
    with pytest.raises(sharing.SharingError, match=r"close|open"):
        list(engine.map(double, range(9)))
    with pytest.raises(sharing.SharingError, match=r"close|open"):
        list(engine.outcomes(double, range(9)))
    with pytest.raises(sharing.SharingError, match=r"close|open|once"):
        engine.__enter__()
    assert engine.state.counted() in (9, None)


def test_a_closed_engine_is_used_in_a_thread() -> None:
    with opened("fork") as engine:
        pass

    def use() -> list[int]:
        return list(engine.map(double, range(9)))

    for thread in [start(use) for _ in range(4)]:
        with pytest.raises(sharing.SharingError):
            thread.result(SOON)


def test_an_engine_that_is_not_open_yet_is_not_used() -> None:
    engine = opened("fork")
    with pytest.raises(sharing.SharingError, match="open"):
        list(engine.map(double, range(9)))


# Meanwhile


@pytest.mark.parametrize("kind", ["map", "outcomes"])
def test_a_thread_reads_while_the_engine_closes(start_method: str, kind: str) -> None:
    for _ in range(ROUNDS):
        going = threading.Event()

        def source(going: threading.Event = going) -> Iterator[int]:
            for n in itertools.count():
                if n == 50:
                    going.set()
                yield n

        with opened(start_method, workers=1) as engine:
            results = getattr(engine, kind)(double, source(), chunk_size=1)
            reading = start(read_till_told, results)
            assert going.wait(SOON)
        assert reading.result(SOON) > 0


def test_many_threads_read_while_the_engine_closes(start_method: str) -> None:
    """Lists, long ones and short ones again and again: each is whole, or there is none."""
    with opened(start_method) as engine:
        whole = threading.Semaphore(0)

        def read_again_and_again() -> int:
            for turn in itertools.count():
                try:
                    found = list(engine.map(double, range(30), chunk_size=2))
                except sharing.SharingError:
                    return turn
                assert found == [2 * n for n in range(30)]
                whole.release()
            raise AssertionError

        def read_on() -> int:
            return read_till_told(engine.map(double, itertools.count(), chunk_size=5))

        threads = [start(read) for read in [read_again_and_again, read_on] * 3]
        for _ in range(4):
            assert whole.acquire(timeout=SOON)
    for thread in threads:
        assert thread.result(SOON) >= 0


def test_a_thread_waits_for_an_item_while_the_engine_closes(
    start_method: str, signs: Signs
) -> None:
    with opened(start_method) as engine:
        items = (Item(signs, n) for n in itertools.count(1))
        reading = start(read_till_told, engine.map(wait_to_go, items, chunk_size=1))
        wait_until(lambda: len(signs.notes("begun")) >= 2, SOON)
        closing = start(engine.__exit__, None, None, None)
        with contextlib.suppress(TimeoutError):
            reading.result(0.2)  # it may be told at once, or when what runs has ended
        signs.give("go")
        closing.result(SOON)
        assert reading.result(SOON) >= 0
    assert sorted(signs.notes("begun")) == sorted(signs.notes("ended"))


def test_an_engine_closes_inside_the_loop_that_reads_it(start_method: str) -> None:
    with opened(start_method) as engine:
        results = engine.map(double, itertools.count(), chunk_size=1)
        count = 0
        with pytest.raises(sharing.SharingError):
            for _ in results:
                count += 1
                if count == 10:
                    engine.__exit__(None, None, None)
        assert count >= 10


@pytest.mark.parametrize("source_reads", ["nothing", "a map"])
def test_an_engine_closes_while_a_source_blocks(start_method: str, source_reads: str) -> None:
    goes_on = threading.Event()
    waits = threading.Event()
    try:
        with opened(start_method) as engine:

            def source() -> Iterator[int]:
                yield 1
                if source_reads == "a map":
                    waits.set()
                    yield from engine.map(double, itertools.count(), chunk_size=1)
                waits.set()
                goes_on.wait(SOON)
                yield 2

            reading = start(read_till_told, engine.map(double, source(), chunk_size=1))
            assert waits.wait(SOON)
            start(engine.__exit__, None, None, None).result(5)
            assert reading.result(5) >= 0
    finally:
        goes_on.set()


# How it closes


def test_it_is_closed_in_another_thread(start_method: str) -> None:
    engine = opened(start_method)
    with pytest.raises(ZeroDivisionError):
        start(engine.__enter__).result(SOON)
        try:
            assert start(list, engine.map(double, [1])).result(SOON) == [2]
            assert list(engine.map(double, [2])) == [4]
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            start(engine.__exit__, type(error), error, None).result(SOON)
            raise
    with pytest.raises(sharing.SharingError):
        list(engine.map(double, [1]))


def test_it_is_closed_twice() -> None:
    with opened("fork") as engine:
        assert list(engine.map(double, [1])) == [2]
        engine.__exit__(None, None, None)
    engine.__exit__(None, None, None)
    start(engine.__exit__, None, None, None).result(SOON)
    assert engine.state.counted() in (1, None)


def test_it_is_closed_by_two_threads_at_once(start_method: str) -> None:
    """Each comes back when it is closed, whoever did it."""
    engine = opened(start_method)
    engine.__enter__()
    together = threading.Barrier(2)

    def close() -> list[str]:
        together.wait(SOON)
        engine.__exit__(None, None, None)
        try:
            list(engine.map(double, [1]))
        except sharing.SharingError:
            return ["refused"]
        return ["done"]

    closing = [start(close) for _ in range(2)]
    assert [thread.result(SOON) for thread in closing] == [["refused"]] * 2


def test_signals_are_as_before_when_a_thread_has_closed_it() -> None:
    """Only the main thread can give handlers back; a Ctrl-C is one all the same."""
    import signal

    handlers: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        engine = opened("fork", workers=1)
        with engine:
            start(engine.__exit__, None, None, None).result(SOON)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# All that belongs to it has ended when it has closed


def test_each_thread_that_closes_it_returns_when_it_is_closed(
    start_method: str, signs: Signs
) -> None:
    engine = opened(start_method)
    engine.__enter__()
    reader = start(next, engine.map(wait_to_go, [Item(signs, 1)]))
    signs.wait("begun")
    closers = [start(engine.__exit__, None, None, None) for _ in range(3)]
    assert not any(closer.done() for closer in closers)
    signs.give("go")
    for closer in closers:
        closer.result(SOON)
        # All have ended who use the state: it may be opened again.
        with sharing.open_engine(engine.state, workers=1, start_method=start_method) as another:
            assert list(another.map(double, [1])) == [2]
    with contextlib.suppress(sharing.SharingError):
        reader.result(SOON)


def test_who_waits_for_another_thread_to_close_it_is_interrupted(
    signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still runs is ended then, as where the main thread closes it by itself."""
    monkeypatch.setattr(driver, "GRACE", 0.1)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: "_wait_for_closer" in names_of(sys._current_frames()[main]))
        os.kill(os.getpid(), signal.SIGINT)

    engine = opened("fork")
    engine.__enter__()
    reader = start(next, engine.map(do_as_told, [Item(signs, 0, "hangs")]))
    signs.wait("tried 0")
    closer = start(engine.__exit__, None, None, None)
    with pytest.raises(KeyboardInterrupt):
        start(interrupt)
        engine.__exit__(None, None, None)
    closer.result(SOON)
    with pytest.raises(sharing.SharingError):
        reader.result(SOON)


def names_of(frame: FrameType | None) -> list[str]:
    """The functions that a thread is in."""
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_no_source_is_read_on_whose_map_is_kept() -> None:
    before = set(threading.enumerate())
    with opened("fork") as engine:
        results = [engine.map(double, (n for n in itertools.count())) for _ in range(3)]
        assert [next(one) for one in results] == [0, 0, 0]
    wait_until(lambda: set(threading.enumerate()) <= before)
    for one in results:
        read_till_told(one)


def test_a_handler_of_the_log_that_closes_it_leaves_no_thread(signs: Signs) -> None:
    before = set(threading.enumerate())

    class Closes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            engine.__exit__(None, None, None)

    logger, handler = logging.getLogger("tests.driven"), Closes()
    logger.addHandler(handler)
    try:
        with opened("spawn") as engine:
            results = engine.map(do_as_told, (Item(signs, n, "logs") for n in itertools.count()))
            read_till_told(results)
    finally:
        logger.removeHandler(handler)
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_a_source_that_closes_its_own_map() -> None:
    with opened("fork") as engine:

        def source() -> Iterator[int]:
            yield 1
            yield 2
            results.close()
            yield 3

        results: Any
        for own_thread in (True, False):
            results = engine.map(double, source(), source_thread=own_thread, chunk_size=1)
            read_till_told(results)
        assert list(engine.map(double, [4])) == [8]


def test_a_source_that_reads_its_own_map() -> None:
    """Were the error that it gets all there is, the map would look complete."""
    with opened("fork") as engine:

        def source() -> Iterator[int]:
            yield 1
            yield 2
            with contextlib.suppress(sharing.SharingError):
                next(results)
            yield 3
            yield 4

        for ordered in (True, False):
            results = engine.map(double, source(), source_thread=False, ordered=ordered)
            read_till_told(iter(results))
        assert list(engine.map(double, [4])) == [8]
