"""What is read ahead of a reader is bounded, in items and in bytes."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from driven_jobs import State, double, make_bytes, weigh
from in_threads import SOON
from signs import Signs, wait_until
from under_test import sharing

pytestmark = pytest.mark.timeout(100)

MIB = 1 << 20

AT_MOST = 64 * MIB
"""Bytes that may wait for a reader, and what is under way, once sizes are known."""

STILL = 0.2
"""Seconds that something is as it was when it has come to rest."""


def comes_to_rest(count: Callable[[], int], least: int) -> int:
    """What it counts to, when that has been the same for a while, and this many at least."""
    wait_until(lambda: count() >= least, SOON)
    last, since = count(), time.monotonic()
    end = since + SOON
    while time.monotonic() < since + STILL:
        assert time.monotonic() < end, "it does not come to rest"
        time.sleep(0.02)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last


@pytest.fixture(scope="module")
def engine() -> Iterator[sharing.Engine[State]]:
    """Eight workers; how they start has nothing to do with what is read ahead."""
    with sharing.open_engine(State(), workers=8, start_method="forkserver") as engine:
        # Each at work once, so that no test finds more processes than there were.
        results = engine.map(double, range(2_000), chunk_size=1)
        assert list(results) == [2 * n for n in range(2_000)]
        yield engine


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_results_of_a_megabyte(
    engine: sharing.Engine[State], signs: Signs, ordered: bool, chunk_size: int
) -> None:
    items = ((signs, n, MIB) for n in itertools.count())
    results = engine.map(make_bytes, items, ordered=ordered, chunk_size=chunk_size)
    with contextlib.closing(results):  # type: ignore[type-var]
        for read in range(1, 4):
            assert len(next(results)) == MIB
            ended = comes_to_rest(lambda: len(signs.notes("ended")), 1)
            assert (ended - read) * MIB <= AT_MOST + 8 * chunk_size * MIB


def test_results_of_a_megabyte_in_chunks_of_any_size(
    engine: sharing.Engine[State], signs: Signs
) -> None:
    results = engine.map(make_bytes, ((signs, n, MIB) for n in range(400)))
    with contextlib.closing(results):  # type: ignore[type-var]
        most = 0
        for read, result in enumerate(itertools.islice(results, 120), 1):
            assert len(result) == MIB
            most = max(most, len(signs.notes("ended")) - read)
        ended = comes_to_rest(lambda: len(signs.notes("ended")), 120)
        # A chunk is meant to stay below 4 MiB.
        assert max(most, ended - 120) * MIB <= AT_MOST + 8 * 4 * MIB


def test_results_that_become_large(engine: sharing.Engine[State], signs: Signs) -> None:
    """What is handed out by then may come, one chunk a worker, and no more."""
    jump, chunk_size = 40, 4
    items = ((signs, n, 10 if n < jump else MIB) for n in itertools.count())
    results = engine.map(make_bytes, items, chunk_size=chunk_size)
    with contextlib.closing(results):  # type: ignore[type-var]
        for _ in range(jump):
            assert len(next(results)) == 10
        ended = comes_to_rest(lambda: len(signs.notes("ended")), jump)
        assert (ended - jump) * MIB <= AT_MOST + 8 * chunk_size * MIB
        for _ in range(100):
            assert len(next(results)) == MIB
        ended = comes_to_rest(lambda: len(signs.notes("ended")), jump)
        assert (ended - jump - 100) * MIB <= AT_MOST + 8 * chunk_size * MIB


def test_results_that_become_large_behind_a_slow_head(
    engine: sharing.Engine[State], signs: Signs
) -> None:
    """Nothing is read at all: small ones wait, then large ones."""
    jump = 20
    items = ((signs, n, 10 if n < jump else 4 * MIB) for n in itertools.count())
    results = engine.map(make_bytes, items, chunk_size=1)
    with contextlib.closing(results):  # type: ignore[type-var]
        next(results)
        ended = comes_to_rest(lambda: len(signs.notes("ended")), 8)
        assert (ended - jump) * 4 * MIB <= AT_MOST + 8 * 4 * MIB


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_items_of_a_megabyte(engine: sharing.Engine[State], chunk_size: int) -> None:
    made = 0

    def source() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(MIB)

    results = engine.map(weigh, source(), chunk_size=chunk_size)
    with contextlib.closing(results):  # type: ignore[type-var]
        for read in range(1, 4):
            assert next(results) == MIB
            made_at_rest = comes_to_rest(lambda: made, 1)
            # Each worker's chunk, and the one that is being read.
            assert (made_at_rest - read) * MIB <= AT_MOST + 9 * chunk_size * MIB


def test_small_items_of_an_endless_source(engine: sharing.Engine[State]) -> None:
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        for n in itertools.count():
            read += 1
            yield n

    results = engine.map(double, source(), chunk_size=1)
    with contextlib.closing(results):  # type: ignore[type-var]
        assert next(results) == 0
        # Some chunks a worker are of use; hundreds are not.
        assert comes_to_rest(lambda: read, 1) <= 8 * 64
        assert [next(results) for _ in range(1_000)] == [2 * n for n in range(1, 1_001)]
        assert comes_to_rest(lambda: read, 1_000) <= 1_000 + 8 * 64


def test_an_endless_source_in_chunks_of_any_size_comes_to_rest(
    engine: sharing.Engine[State],
) -> None:
    """However large chunks have grown by then."""
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        for n in itertools.count():
            read += 1
            yield n

    results = engine.map(double, source())
    with contextlib.closing(results):  # type: ignore[type-var]
        assert list(itertools.islice(results, 20_000)) == [2 * n for n in range(20_000)]
        comes_to_rest(lambda: read, 20_000)
        assert next(results) == 40_000


def test_a_reader_that_stops_for_a_while_misses_nothing(
    engine: sharing.Engine[State], signs: Signs
) -> None:
    items = ((signs, n, 1000 * (n % 5)) for n in range(600))
    results = engine.map(make_bytes, items)
    lengths = [len(next(results)) for _ in range(7)]
    comes_to_rest(lambda: len(signs.notes("ended")), 7)
    lengths += [len(next(results)) for _ in range(300)]
    comes_to_rest(lambda: len(signs.notes("ended")), 307)
    lengths += map(len, results)
    assert lengths == [1000 * (n % 5) for n in range(600)]
    assert sorted(map(int, signs.notes("ended"))) == list(range(600))


def test_two_maps_that_nobody_reads_leave_room_for_a_third(
    engine: sharing.Engine[State], signs: Signs
) -> None:
    """What waits for one reader is not in the way of another."""
    stopped = [
        engine.map(make_bytes, ((signs, n, MIB) for n in itertools.count()), chunk_size=1)
        for _ in range(2)
    ]
    with contextlib.ExitStack() as stack:
        for results in stopped:
            stack.enter_context(contextlib.closing(results))  # type: ignore[type-var]
            next(results)
        comes_to_rest(lambda: len(signs.notes("ended")), 2)
        assert list(engine.map(double, range(500))) == [2 * n for n in range(500)]
