"""An engine is driven by itself: whatever its reader, its source and its handlers are at."""

import contextlib
import contextvars
import itertools
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import driven_jobs
import leftovers
import pytest
import scripts
from driven_jobs import (
    Item,
    State,
    answer_that_asks,
    answer_that_waits,
    do_as_told,
    double,
    log_in_a_section,
)
from in_threads import SOON, start
from needs import needs
from signs import Signs, wait_until
from under_test import chunks, crew, pump, runs, sharing

pytestmark = pytest.mark.timeout(100)

Engine = sharing.Engine[State]

PATIENCE = 5.0
"""Seconds after which what should have come meanwhile is taken not to come."""


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests, which leave it as it was."""
    with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
        yield engine


@pytest.fixture(scope="module")
def any_engine() -> Iterator[Engine]:
    """For what takes place in the parent, and so has nothing to do with how workers start."""
    with sharing.open_engine(State(), workers=2) as engine:
        yield engine


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[[logging.LogRecord], None]], None]]:
    """Have a function called for each record of `tests.driven`, till the test has ended."""
    logger = logging.getLogger("tests.driven")
    handlers = []

    class Handler(logging.Handler):
        def __init__(self, function: Callable[[logging.LogRecord], None]) -> None:
            super().__init__()
            self.function = function

        def emit(self, record: logging.LogRecord) -> None:
            self.function(record)

    def add(function: Callable[[logging.LogRecord], None]) -> None:
        handlers.append(Handler(function))
        logger.addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logger.removeHandler(handler)


def is_gone(pid: int) -> bool:
    return pid not in {process.pid for process in leftovers.family(os.getpid())}


# Nobody reads


def test_a_timeout_is_kept_while_nobody_reads(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, 0), Item(signs, 1, "hangs"), *(Item(signs, n) for n in range(2, 6))]
    outcomes = engine.outcomes(do_as_told, items, chunk_size=1, timeout=0.3)
    assert next(outcomes).ok
    wait_until(lambda: signs.notes("tried 1"), SOON)
    (pid,) = map(int, signs.notes("tried 1"))
    wait_until(lambda: is_gone(pid), SOON)
    errors = [outcome.error for outcome in outcomes]
    assert isinstance(errors[0], sharing.ItemTimeout)
    assert errors[1:] == [None] * 4


def test_a_death_is_noticed_while_nobody_reads(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, 0), Item(signs, 1, "dies once")]
    results = engine.map(do_as_told, items, chunk_size=1)
    assert next(results) == 0
    wait_until(lambda: len(signs.notes("tried 1")) == 2, SOON)
    assert list(results) == [1]


def test_items_go_on_while_nobody_reads(engine: Engine, signs: Signs) -> None:
    """Those of a source that has a thread of its own; a list is read by its reader."""
    results = engine.map(do_as_told, (Item(signs, n) for n in range(8)), chunk_size=1)
    assert next(results) == 0
    wait_until(lambda: len(signs.notes("ended")) == 8, SOON)
    assert list(results) == list(range(1, 8))


def test_logs_are_passed_on_while_nobody_reads(
    engine: Engine, signs: Signs, handled: Callable[..., None]
) -> None:
    heard = threading.Event()
    handled(lambda record: heard.set())
    items = [Item(signs, 0), Item(signs, 1, "logs and waits")]
    results = engine.map(do_as_told, items, chunk_size=1)
    try:
        assert next(results) == 0
        assert heard.wait(SOON)
    finally:
        signs.give("go")
    assert list(results) == [1]


def test_what_a_killed_idle_worker_leaves_is_seen_to_while_nobody_reads(
    start_method: str, signs: Signs
) -> None:
    """No map runs at all; the next one finds a full team."""
    before = leftovers.family(os.getpid())
    with sharing.open_engine(State(), workers=1, start_method=start_method) as engine:
        assert list(engine.map(do_as_told, [Item(signs, 0)])) == [0]
        (pid,) = map(int, signs.notes("tried 0"))
        with_worker = len(leftovers.family(os.getpid()) - before)
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: is_gone(pid) and len(leftovers.family(os.getpid()) - before) == with_worker,
            SOON,
        )
        assert list(engine.map(double, range(9))) == [2 * n for n in range(9)]


# Sources


@pytest.mark.parametrize("ordered", [True, False])
def test_results_come_while_the_source_blocks(engine: Engine, ordered: bool) -> None:
    had_four = threading.Event()
    in_time = []

    def source() -> Iterator[int]:
        yield from range(4)
        in_time.append(had_four.wait(PATIENCE))
        yield 4

    results = engine.map(double, source(), ordered=ordered)
    found = sorted(next(results) for _ in range(4))
    had_four.set()
    assert [*found, *results] == [0, 2, 4, 6, 8]
    assert in_time == [True]


def test_each_result_comes_though_the_source_waits_for_it(engine: Engine) -> None:
    came = [threading.Event() for _ in range(20)]
    in_time = []

    def source() -> Iterator[int]:
        for n in range(20):
            yield n
            in_time.append(came[n].wait(PATIENCE))
            if not in_time[-1]:
                return

    for result in engine.map(double, source()):
        came[result // 2].set()
    assert in_time == [True] * 20


def test_a_timeout_is_kept_while_the_source_blocks(engine: Engine, signs: Signs) -> None:
    ended = threading.Event()
    in_time = []

    def source() -> Iterator[Item]:
        yield Item(signs, 0, "hangs")
        in_time.append(ended.wait(PATIENCE))
        yield Item(signs, 1)

    outcomes = engine.outcomes(do_as_told, source(), chunk_size=1, timeout=0.3)
    assert isinstance(next(outcomes).error, sharing.ItemTimeout)
    ended.set()
    assert [outcome.value for outcome in outcomes] == [1]
    assert in_time == [True]


def test_other_maps_go_on_while_a_source_blocks(engine: Engine) -> None:
    goes_on = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        goes_on.wait(SOON)
        yield 1

    blocked = start(list, engine.map(double, source(), chunk_size=2))
    try:
        assert start(list, engine.map(double, range(100))).result(SOON) == [
            2 * n for n in range(100)
        ]
        assert not blocked.done()
    finally:
        goes_on.set()
    assert blocked.result(SOON) == [0, 2]


def test_an_endless_source_is_left_at_any_time(engine: Engine) -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    results: Any = engine.map(double, source())
    assert list(itertools.islice(results, 500)) == [2 * n for n in range(500)]
    results.close()
    wait_until(lambda: closed, SOON)


def test_a_map_is_left_while_its_source_blocks(engine: Engine) -> None:
    goes_on = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        goes_on.wait(SOON)
        yield 1

    def leave() -> int:
        for value in engine.map(double, source(), chunk_size=1):
            return value
        raise AssertionError

    try:
        assert start(leave).result(PATIENCE) == 0
        assert list(engine.map(double, [1])) == [2]
    finally:
        goes_on.set()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_what_came_before_an_error_of_the_source_comes_before_it(
    any_engine: Engine, ordered: bool, chunk_size: int | None
) -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    found = []
    with pytest.raises(LookupError, match="no more"):
        for value in any_engine.map(double, source(), ordered=ordered, chunk_size=chunk_size):
            found.append(value)  # noqa: PERF402 (an error comes in between)
    assert sorted(found) == [0, 2, 4, 6, 8]
    assert list(any_engine.map(double, [3])) == [6]


def test_an_error_of_the_source_has_its_traceback(any_engine: Engine) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError) as caught:
        list(any_engine.map(double, source()))
    assert "source" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_any_exception_of_the_source_is_the_readers(
    any_engine: Engine, error: type[BaseException]
) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(error):
        list(any_engine.map(double, numbers()))
    assert list(any_engine.map(double, [3])) == [6]


name_of_reader: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


def test_a_source_has_the_context_variables_of_its_reader(any_engine: Engine) -> None:
    seen = []

    def source() -> Iterator[int]:
        for n in range(3):
            seen.append(name_of_reader.get())
            yield n

    def read(name: str) -> list[int]:
        name_of_reader.set(name)
        return list(any_engine.map(double, source()))

    for name in ("one", "other"):
        assert contextvars.copy_context().run(read, name) == [0, 2, 4]
        assert set(seen) == {name}
        seen.clear()


def test_one_thread_reads_a_source_one_item_at_a_time(any_engine: Engine) -> None:
    threads = set()
    inside = threading.Lock()

    class Source:
        """An iterator that is no generator: nobody but the engine keeps threads apart."""

        def __init__(self) -> None:
            self.number = 0

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            with contextlib.ExitStack() as stack:
                assert inside.acquire(blocking=False)
                stack.callback(inside.release)
                threads.add(threading.get_ident())
                self.number += 1
                if self.number > 200:
                    raise StopIteration
                return self.number

    expected = [2 * n for n in range(1, 201)]
    assert list(any_engine.map(double, Source(), chunk_size=3)) == expected
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("items", [list(range(60)), tuple(range(60)), range(60)])
def test_a_list_a_tuple_and_a_range_need_no_thread(any_engine: Engine, items: Any) -> None:
    list(any_engine.map(double, items))
    before = set(threading.enumerate())
    results = any_engine.map(double, items, chunk_size=1)
    assert next(results) == 0
    assert set(threading.enumerate()) <= before
    assert list(results) == [2 * n for n in range(1, 60)]


def test_the_thread_of_a_source_ends_with_its_map(any_engine: Engine) -> None:
    list(any_engine.map(double, range(60)))
    before = set(threading.enumerate())
    for turn in range(5):
        results = any_engine.map(double, itertools.count(turn))
        assert next(results) == 2 * turn
        results.close()  # type: ignore[attr-defined]
    wait_until(lambda: set(threading.enumerate()) <= before, SOON)


def test_a_source_can_be_kept_in_the_thread_of_its_reader(any_engine: Engine) -> None:
    threads = set()

    def source() -> Iterator[int]:
        for n in range(60):
            threads.add(threading.get_ident())
            yield n

    results = any_engine.map(double, source(), source_thread=False)
    assert list(results) == [2 * n for n in range(60)]
    outcomes = any_engine.outcomes(double, source(), source_thread=False)
    assert [outcome.value for outcome in outcomes] == [2 * n for n in range(60)]
    assert threads == {threading.get_ident()}


def test_an_sqlite_cursor_is_read_in_the_thread_of_its_reader(any_engine: Engine) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as shop:
        shop.execute("create table numbers (n)")
        shop.executemany("insert into numbers values (?)", [(n,) for n in range(60)])
        query = "select n from numbers order by n"
        rows = (n for (n,) in shop.execute(query))
        results = any_engine.map(double, rows, source_thread=False)
        assert list(results) == [2 * n for n in range(60)]


def test_an_sqlite_cursor_says_that_it_is_read_in_another_thread(any_engine: Engine) -> None:
    """Its own error arrives; it does not hang, and nothing is lost in silence."""
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as shop,
        pytest.raises(sqlite3.ProgrammingError, match="thread"),
    ):
        list(any_engine.map(driven_jobs.give_back, shop.execute("select 1 union select 2")))


@needs("Counter", "Guarded")
@pytest.mark.parametrize("source_thread", [True, False])
def test_a_source_uses_the_state_and_the_engine(engine: Engine, source_thread: bool) -> None:
    def source() -> Iterator[int]:
        for n in range(20):
            assert engine.state.total.read()[0] >= 0
            assert engine.state.count.value >= 0
            (found,) = engine.map(double, [n])
            yield found

    options: dict[str, Any] = {} if source_thread else {"source_thread": False}
    assert list(engine.map(double, source(), **options)) == [4 * n for n in range(20)]


def test_a_source_reads_another_map_whose_reader_it_is(engine: Engine) -> None:
    inner = engine.map(double, itertools.count())

    def source() -> Iterator[int]:
        for value in inner:
            yield value
            if value >= 400:
                return

    assert list(engine.map(double, source())) == [4 * n for n in range(201)]


# Handlers of logs


@needs("Counter", "Guarded")
def test_a_log_handler_reads_the_state(
    engine: Engine, signs: Signs, handled: Callable[..., None]
) -> None:
    seen = []

    def read(record: logging.LogRecord) -> None:
        seen.append((engine.state.count.value, engine.state.total.read()[0]))

    handled(read)
    items = [Item(signs, n, "logs") for n in range(20)]
    assert list(engine.map(do_as_told, items, chunk_size=1)) == list(range(20))
    wait_until(lambda: len(seen) == 20, SOON)


def test_a_log_handler_runs_another_map(
    engine: Engine, signs: Signs, handled: Callable[..., None]
) -> None:
    seen = []
    handled(lambda record: seen.append(list(engine.map(double, range(5)))))
    items = [Item(signs, n, "logs" if n % 4 == 1 else "") for n in range(20)]
    assert list(engine.map(do_as_told, items, chunk_size=1)) == list(range(20))
    wait_until(lambda: len(seen) == 5, SOON)
    assert seen == [[0, 2, 4, 6, 8]] * 5


def test_timeouts_are_kept_while_a_log_handler_blocks(
    engine: Engine, signs: Signs, handled: Callable[..., None]
) -> None:
    ended = threading.Event()
    in_time = []
    handled(lambda record: in_time.append(ended.wait(PATIENCE)))

    def watch() -> None:
        wait_until(lambda: signs.notes("tried 1"), SOON)
        (pid,) = map(int, signs.notes("tried 1"))
        wait_until(lambda: is_gone(pid), SOON)
        ended.set()

    watching = start(watch)
    items = [Item(signs, 0, "logs"), Item(signs, 1, "hangs"), Item(signs, 2)]
    outcomes = list(engine.outcomes(do_as_told, items, chunk_size=1, timeout=0.5))
    watching.result(SOON)
    assert [type(one.error) for one in outcomes] == [type(None), sharing.ItemTimeout, type(None)]
    wait_until(lambda: in_time, SOON)
    assert in_time == [True]


def test_results_come_while_a_log_handler_blocks(
    engine: Engine, signs: Signs, handled: Callable[..., None]
) -> None:
    all_came = threading.Event()
    in_time = []
    handled(lambda record: in_time.append(all_came.wait(PATIENCE)))
    items = [Item(signs, n, "" if n else "logs") for n in range(20)]
    results = engine.map(do_as_told, items, chunk_size=1, ordered=False)
    assert sorted(results) == list(range(20))
    all_came.set()
    wait_until(lambda: in_time, SOON)
    assert in_time == [True]


def test_a_log_handler_that_raises_ends_nothing(
    engine: Engine, signs: Signs, handled: Callable[..., None]
) -> None:
    heard = []

    def fail(record: logging.LogRecord) -> None:
        heard.append(record)
        raise LookupError("no such place")

    handled(fail)
    items = [Item(signs, n, "logs" if n == 3 else "") for n in range(9)]
    assert list(engine.map(do_as_told, items, chunk_size=1)) == list(range(9))
    wait_until(lambda: heard, SOON)
    assert list(engine.map(double, [1])) == [2]


# Results that are rebuilt by code of the user


@pytest.mark.parametrize("ordered", [True, False])
def test_a_result_uses_the_engine_while_it_is_unpickled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    monkeypatch.setattr(driven_jobs, "engine", engine)
    results = engine.map(answer_that_asks, range(9), ordered=ordered, chunk_size=2)
    assert sorted(results) == [[2 * n, 2 * n + 2] for n in range(9)]
    outcomes = engine.outcomes(answer_that_asks, iter(range(9)), ordered=ordered)
    assert sorted(one.value or [] for one in outcomes) == [[2 * n, 2 * n + 2] for n in range(9)]


def test_others_go_on_while_a_result_is_unpickled(
    engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has its map, a timeout is kept."""
    goes_on = threading.Event()
    begun = threading.Event()

    def wait(number: int) -> None:
        begun.set()
        goes_on.wait(SOON)

    monkeypatch.setattr(driven_jobs, "rebuilding", wait)
    waiting = start(list, engine.map(answer_that_waits, [7]))
    try:
        assert begun.wait(SOON)
        items = [Item(signs, 0), Item(signs, 1, "hangs"), Item(signs, 2)]
        beside = start(list, engine.outcomes(do_as_told, items, chunk_size=1, timeout=0.3))
        assert [outcome.ok for outcome in beside.result(SOON)] == [True, False, True]
        assert not waiting.done()
    finally:
        goes_on.set()
    assert waiting.result(SOON) == [7]


# A section of somebody who hangs


@needs("Guarded")
def test_reading_in_a_loop_whose_job_hangs_in_a_section(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n, "hangs in a section" if n == 3 else "") for n in range(8)]
    found = {}

    def read() -> None:
        outcomes = engine.outcomes(do_as_told, items, chunk_size=1, timeout=0.5, ordered=False)
        for outcome in outcomes:
            engine.state.total.read()
            found[outcome.item.number] = type(outcome.error)

    reading = start(read)
    signs.wait("in a section", SOON)
    # Not behind the one who hangs, however the reader stands.
    start(engine.state.total.read).result(SOON)
    reading.result(SOON)
    assert found.pop(3) is sharing.ItemTimeout
    assert set(found.values()) == {type(None)}
    assert len(found) == 7


@needs("Guarded")
def test_reading_in_a_loop_whose_job_logs_in_a_section(
    engine: Engine, handled: Callable[..., None]
) -> None:
    heard = []
    handled(lambda record: heard.append(engine.state.total.read()[0]))

    def read() -> tuple[int, bool]:
        before = last = engine.state.total.read()[0]
        rises = True
        results = engine.map(
            log_in_a_section, range(600), chunk_size=100, timeout=30, ordered=False
        )
        for turn, _ in enumerate(results):
            if turn % 100 == 0:
                time.sleep(0.05)  # this is how slow the reader is: logs fill the pipes meanwhile
            now = engine.state.total.read()[0]
            rises, last = rises and now >= last, now
        return last - before, rises

    assert start(read).result(SOON) == (600, True)
    wait_until(lambda: len(heard) == 600, SOON)


# A program that was stopped


def test_no_time_in_which_a_program_was_stopped_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever that was, between two looks at the clock."""
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now, monotonic_ns=lambda: int(now * 1e9))
    monkeypatch.setattr(pump, "time", clock)
    place = chunks.Place(chunks.Phase.RUNNING, 0)
    workers: Any = SimpleNamespace(sight=lambda slot, number: crew.Sighting(place, 0))
    run = SimpleNamespace(settings=runs.Settings("job", timeout=1.0))
    busy = [(SimpleNamespace(slot=1, id=7, late=None), SimpleNamespace(run=run))]
    scheduler: Any = SimpleNamespace(busy=lambda: busy)
    watch = pump._Watch()
    for now, sleeps, is_late in (
        (0.1, 0.5, False),
        (1.75, 0.2, False),  # it was stopped from 0.15 to 1.65
        (1.95, 0.2, False),
        (2.15, 0.2, False),
        (2.35, 0.2, False),
        (2.75, 0.2, True),
    ):
        late, _ = watch.look(scheduler, workers)
        assert bool(late) == is_late, now
        watch.sleeps(sleeps)


@pytest.mark.parametrize("whom", ["all of it", "the main process"])
def test_a_program_that_was_stopped_ends_nobody_for_it(signs: Signs, whom: str) -> None:
    """As by Ctrl-Z, or with a container that is paused, for longer than the timeout."""
    file = Path(__file__).with_name("stopped_work.py")
    with scripts.running(file, "spawn", signs, "1.0") as script:
        stop, pid = (os.killpg, os.getpgid(script.process.pid))
        if whom == "the main process":
            stop, pid = os.kill, script.process.pid
        wait_until(lambda: len(signs.notes("begun")) >= 2)
        stop(pid, signal.SIGSTOP)
        time.sleep(1.5)  # this is how long it is stopped
        stop(pid, signal.SIGCONT)
        script.ends(0)
        assert script.said.split() == ["ok"] * 6
        assert len(signs.notes("begun")) == 6


# A worker that is dead, though its pipes are open


def test_a_dead_worker_whose_child_holds_its_pipes_is_noticed_meanwhile(
    engine: Engine, signs: Signs
) -> None:
    """While other results go on coming, which give no reason to ask who lives."""
    began = time.monotonic()
    had_it = threading.Event()

    def source() -> Iterator[Item]:
        yield Item(signs, 0, "leaves a child")
        for n in itertools.count(1):
            if had_it.is_set() or time.monotonic() > began + 15:
                return
            yield Item(signs, n)

    came = 0.0
    try:
        results = engine.map(do_as_told, source(), ordered=False, chunk_size=1)
        for value in results:
            if value == 0:
                came = time.monotonic()
                had_it.set()
        (died,) = map(float, signs.notes("died at"))
        assert came - died < 5  # a second, and the start of another worker
    finally:
        signs.give("child may go")


def test_a_dead_worker_whose_child_holds_its_pipes_is_noticed_while_nobody_reads(
    engine: Engine, signs: Signs
) -> None:
    items = [Item(signs, 0), Item(signs, 1, "leaves a child")]
    results = engine.map(do_as_told, items, chunk_size=1)
    try:
        assert next(results) == 0
        wait_until(lambda: len(signs.notes("tried 1")) == 2, 10)
        assert list(results) == [1]
    finally:
        signs.give("child may go")
