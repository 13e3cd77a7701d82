"""Every method of an engine may be called from any thread, and several at once."""

import contextlib
import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import leftovers
import pytest
from driven_jobs import Item, State, do_as_told, double, note, wait_to_go
from in_threads import SOON, start
from signs import Signs, wait_until
from under_test import pump, sharing

pytestmark = pytest.mark.timeout(100)

Engine = sharing.Engine[State]


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests, which leave it as it was."""
    with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
        yield engine


def doubles(count: int) -> list[int]:
    """What `double` gives for so many items."""
    return [2 * n for n in range(count)]


def kill_some(signs: Signs, kills: int, every: int) -> int:
    """Kill a worker each time that so many items more have ended; how many were killed."""
    killed = 0
    for turn in range(1, kills + 1):
        wait_until(lambda turn=turn: len(signs.notes("ended")) >= turn * every, SOON)  # type: ignore[misc]
        alive = {process.pid for process in leftovers.family(os.getpid())}
        for pid in map(int, reversed(signs.notes("workers"))):
            if pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                break
    return killed


# Several at once


def test_several_maps_from_several_threads(engine: Engine) -> None:
    def read() -> list[list[int]]:
        return [list(engine.map(double, range(60), chunk_size=1)) for _ in range(5)]

    before = engine.state.counted()
    threads = [start(read) for _ in range(4)]
    for thread in threads:
        assert thread.result(SOON) == [doubles(60)] * 5
    if before is not None:
        assert engine.state.counted() == before + 4 * 5 * 60


def test_maps_of_all_kinds_from_several_threads(engine: Engine) -> None:
    """In order or not, with chunks of any size, read to the end or not."""

    def read_unordered() -> list[int]:
        return sorted(engine.map(double, range(300), ordered=False))

    def read_outcomes() -> list[int | None]:
        return [outcome.value for outcome in engine.outcomes(double, iter(range(300)))]

    def read_large() -> list[int]:
        return list(engine.map(double, range(300), chunk_size=100, timeout=60))

    def leave_early() -> list[int]:
        return list(itertools.islice(engine.map(double, itertools.count()), 300))

    threads = [start(f) for f in (read_unordered, read_outcomes, read_large, leave_early) * 2]
    for thread in threads:
        assert thread.result(SOON) == doubles(300)


def test_sixteen_threads_while_workers_are_killed(start_method: str, signs: Signs) -> None:
    """Every list is right, and every item is counted once."""
    state = State()
    expected = [list(range(first, first + 20)) for first in range(0, 320, 20)]
    with sharing.open_engine(state, workers=3, start_method=start_method) as engine:

        def read(numbers: list[int]) -> list[int]:
            items = [Item(signs, number) for number in numbers]
            return list(engine.map(note, items, chunk_size=2, retries=20))

        killer = start(kill_some, signs, kills=5, every=50)
        threads = [start(read, numbers) for numbers in expected]
        assert [thread.result(SOON) for thread in threads] == expected
        assert killer.result(SOON) >= 1
    assert state.counted() in (320, None)


def test_two_engines_each_in_a_thread_of_its_own(start_method: str) -> None:
    def work() -> list[list[int]]:
        found = []
        for _ in range(3):  # each opens while the other opens, works or closes
            with sharing.open_engine(State(), workers=1, start_method=start_method) as engine:
                found.append(list(engine.map(double, range(40), chunk_size=1)))
        return found

    threads = [start(work) for _ in range(2)]
    for thread in threads:
        assert thread.result(SOON) == [doubles(40)] * 3


def test_a_map_in_a_pool_of_threads(engine: Engine) -> None:
    def total(count: int) -> int:
        return sum(engine.map(double, range(count)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(total, range(0, 200, 10), timeout=SOON))
    assert found == [sum(doubles(count)) for count in range(0, 200, 10)]


def test_a_thread_that_waits_holds_up_no_other(engine: Engine, signs: Signs) -> None:
    """One worker is at an item that waits; whoever asks for others gets them from the other."""
    waiting = start(list, engine.map(wait_to_go, [Item(signs, 1)]))
    try:
        signs_of_life = start(wait_until, lambda: signs.notes("begun"))
        signs_of_life.result(SOON)
        assert start(list, engine.map(double, range(200))).result(SOON) == doubles(200)
        assert list(engine.map(double, range(200))) == doubles(200)
        assert not waiting.done()
    finally:
        signs.give("go")
    assert waiting.result(SOON) == [1]


def test_a_death_is_told_to_the_thread_whose_item_it_was(engine: Engine, signs: Signs) -> None:
    def work(how: str, first: int) -> list[bool]:
        items = [Item(signs, first + n, how if n == 3 else "") for n in range(6)]
        return [one.ok for one in engine.outcomes(do_as_told, items, chunk_size=1, timeout=0.5)]

    threads = [start(work, how, 10 * turn) for turn, how in enumerate(("", "hangs", "dies once"))]
    assert threads[0].result(SOON) == [True] * 6
    assert threads[1].result(SOON) == [True] * 3 + [False] + [True] * 2
    assert threads[2].result(SOON) == [True] * 6


# One map, more than one thread


def test_a_map_that_was_begun_in_one_thread_is_read_in_another(engine: Engine) -> None:
    results = start(engine.map, double, range(100), chunk_size=3).result(SOON)
    assert [next(results) for _ in range(10)] == doubles(10)
    middle = start(lambda: [next(results) for _ in range(50)]).result(SOON)
    assert middle == doubles(60)[10:]
    assert list(results) == doubles(100)[60:]


def test_two_threads_read_one_map(engine: Engine) -> None:
    """Each value comes once; a thread that may not read beside another is told so."""
    results = engine.map(double, range(500), chunk_size=2)
    together = threading.Barrier(2)

    def read() -> tuple[list[int], bool]:
        together.wait(SOON)
        found = []
        try:
            while True:
                try:
                    found.append(next(results))
                except StopIteration:
                    return found, True
        except sharing.SharingError:
            return found, False

    threads = [start(read) for _ in range(2)]
    (one, one_ended), (other, other_ended) = (thread.result(SOON) for thread in threads)
    assert len({*one, *other}) == len(one) + len(other)
    assert one_ended or other_ended or list(results)
    if one_ended or other_ended:
        assert sorted(one + other) == doubles(500)


def test_one_map_feeds_another_from_another_thread(engine: Engine) -> None:
    inner = start(engine.map, double, range(300)).result(SOON)
    outer = start(list, engine.map(double, inner))
    beside = list(engine.map(double, engine.map(double, range(300))))
    assert outer.result(SOON) == beside == [4 * n for n in range(300)]


def test_a_reader_of_a_list_is_told_that_it_is_wanted(engine: Engine) -> None:
    """Though another thread turns the pump: it would find that out by itself, after a tick."""
    times = 20
    began = time.monotonic()
    for _ in range(times):
        inner = engine.map(double, range(300))
        assert list(engine.map(double, inner)) == [4 * n for n in range(300)]
    assert time.monotonic() - began < times * pump.TICK / 4


def test_three_maps_in_a_row_in_each_of_three_threads(engine: Engine) -> None:
    def read() -> list[int]:
        return list(engine.map(double, engine.map(double, engine.map(double, range(200)))))

    threads = [start(read) for _ in range(3)]
    for thread in threads:
        assert thread.result(SOON) == [8 * n for n in range(200)]


# Opened here, used there


def test_an_engine_of_a_thread_is_used_in_the_main_thread(start_method: str) -> None:
    engine = sharing.open_engine(State(), workers=1, start_method=start_method)
    start(engine.__enter__).result(SOON)
    try:
        assert list(engine.map(double, range(50))) == doubles(50)
    finally:
        start(engine.__exit__, None, None, None).result(SOON)


def test_an_engine_of_the_main_thread_is_used_in_a_thread_that_ends(engine: Engine) -> None:
    results = start(engine.map, double, range(50), chunk_size=1).result(SOON)
    assert start(next, results).result(SOON) == 0  # and the thread is gone
    assert list(results) == doubles(50)[1:]


# Leaving


def test_a_thread_leaves_its_map_early_and_others_go_on(engine: Engine) -> None:
    def leave() -> int:
        for turn in range(10):
            for value in engine.map(double, itertools.count(), chunk_size=2):
                if value == 2 * turn:
                    break
        return turn

    def read() -> list[list[int]]:
        return [list(engine.map(double, range(60), chunk_size=1)) for _ in range(5)]

    leaving = [start(leave) for _ in range(2)]
    reading = [start(read) for _ in range(2)]
    for thread in reading:
        assert thread.result(SOON) == [doubles(60)] * 5
    assert [thread.result(SOON) for thread in leaving] == [9, 9]


def test_leaving_early_waits_for_its_own_items_alone(engine: Engine, signs: Signs) -> None:
    other = start(list, engine.map(wait_to_go, [Item(signs, 1)]))
    try:
        wait_until(lambda: signs.notes("begun"), SOON)

        def leave() -> int:
            for value in engine.map(double, itertools.count(), chunk_size=1):
                return value
            raise AssertionError

        assert start(leave).result(SOON) == 0
        assert not other.done()
    finally:
        signs.give("go")
    assert other.result(SOON) == [1]


def test_a_thread_that_waits_for_what_it_left_holds_up_no_other(
    engine: Engine, signs: Signs
) -> None:
    """Not even those that have nothing to do, while all workers are at its items."""
    results: Any = engine.map(wait_to_go, [Item(signs, n) for n in range(9)], chunk_size=1)
    assert next(results) == 0
    wait_until(lambda: len(signs.notes("begun")) >= 3, SOON)
    closing = start(results.close)
    try:
        assert start(list, engine.map(double, [])).result(SOON) == []
        others = start(list, engine.map(double, range(9)))
        assert not closing.done()
    finally:
        signs.give("go")
    closing.result(SOON)
    assert others.result(SOON) == doubles(9)
    assert sorted(signs.notes("begun")) == sorted(signs.notes("ended")) == ["0", "1", "2"]


@pytest.mark.parametrize("where", ["here", "in another thread", "in a cycle"])
def test_an_unfinished_map_that_is_collected_hands_out_no_more(
    engine: Engine, signs: Signs, where: str
) -> None:
    signs.give("go")
    results: Any = engine.map(wait_to_go, (Item(signs, n) for n in itertools.count()), chunk_size=1)
    assert next(results) == 0
    if where == "in another thread":
        held = [results]
        del results
        start(held.clear).result(SOON)
    elif where == "in a cycle":
        cycle: list[Any] = [results]
        cycle.append(cycle)
        del cycle, results
    else:
        del results
    gc.collect()
    # A map that is still handed out would have an item running whenever somebody looks.
    wait_until(lambda: sorted(signs.notes("begun")) == sorted(signs.notes("ended")), SOON)
    assert list(engine.map(double, range(50))) == doubles(50)
    begun = len(signs.notes("begun"))
    assert list(engine.map(double, range(500), chunk_size=1)) == doubles(500)
    assert len(signs.notes("begun")) == begun
