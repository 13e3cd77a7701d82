"""Locks: a section that one worker at a time is in."""

import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from my_service.bench.timing import CONTEXT, Setting, at_once, given, pool, together
from my_service.sharing import Guarded, Lock

from . import servers
from .compare import Comparison, Entry, Run, Target, check, least_times, most_times

NUMBERS = 64
POLL = 0.001
"""Seconds between two tries, where a lock has to be asked for again and again."""


@dataclass
class State:
    barrier: Any
    total: Any  # a RawValue, which is right only if the sections hold
    bare: Any
    value: Any
    lock: Lock
    numbers: Guarded


def sections(times: int, barrier: Any, total: Any, lock: Any) -> float:
    """The same under any lock: reading a number and writing it back."""
    words = memoryview(total).cast("B").cast("q")

    def work(times: int) -> None:
        for _ in range(times):
            with lock:
                words[0] += 1

    return float(together(barrier, times, work))


def under_lock(times: int, state: State) -> float:
    return sections(times, state.barrier, state.total, state.lock)


def under_bare(times: int, state: State) -> float:
    return sections(times, state.barrier, state.total, state.bare)


def under_value(times: int, state: State) -> float:
    return sections(times, state.barrier, state.total, state.value.get_lock())


def guarded(times: int, state: State) -> float:
    def work(times: int) -> None:
        for _ in range(times):
            with state.numbers as numbers:
                numbers[0] += 1

    return float(together(state.barrier, times, work))


def theirs(times: int) -> float:
    barrier, total, make, *arguments = given
    with contextmanager(make)(*arguments) as lock:
        return sections(times, barrier, total, lock)


def opened_ours(job: Any, full: int) -> Any:
    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        times = setting.times(full)
        state = State(
            *(setting.barrier(), CONTEXT.RawArray("q", 1), CONTEXT.RLock()),
            *(CONTEXT.Value("q", 0), Lock(), Guarded("q", [0] * NUMBERS)),
        )
        with setting.open(state) as engine:

            def total() -> int:
                return int(state.numbers.read()[0] if job is guarded else state.total[0])

            def run() -> float:
                before = total()
                seconds = float(at_once(engine, job, times))
                check(total() - before, times * setting.workers, "sections that counted")
                return seconds

            yield run

    return opener


def opened_theirs(full: int, make: Any, serve: Any) -> Any:
    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        times, total = setting.times(full), CONTEXT.RawArray("q", 1)
        with (
            serve() as arguments,
            pool(setting.barrier(), total, make, *arguments, workers=setting.workers) as in_pool,
        ):

            def run() -> float:
                before = total[0]
                seconds = float(in_pool(theirs, times))
                check(total[0] - before, times * setting.workers, "sections that counted")
                return seconds

            yield run

    return opener


@contextmanager
def manager() -> Iterator[tuple[Any]]:
    with CONTEXT.Manager() as opened:
        yield (opened.Lock(),)


@contextmanager
def path() -> Iterator[tuple[str]]:
    with tempfile.TemporaryDirectory() as folder:
        yield (str(Path(folder, "lock")),)


@contextmanager
def redis_server() -> Iterator[tuple[str]]:
    with servers.redis() as socket:
        yield (socket,)


def as_it_is(lock: Any) -> Iterator[Any]:
    yield lock


def filelock(path: str) -> Iterator[Any]:
    from filelock import FileLock

    yield FileLock(path, poll_interval=POLL)


def fasteners(path: str) -> Iterator[Any]:
    from fasteners import InterProcessLock

    yield InterProcessLock(path, sleep_func=lambda _seconds: time.sleep(POLL))


def portalocker(path: str) -> Iterator[Any]:
    from portalocker import Lock as FileLock
    from portalocker import LockFlags

    yield FileLock(path, flags=LockFlags.EXCLUSIVE)  # waits in the kernel, without polling


def redis(path: str) -> Iterator[Any]:
    import redis as client

    with client.Redis(unix_socket_path=path) as connected:
        yield connected.lock("lock", timeout=60, sleep=POLL)


@dataclass
class Large:
    barrier: Any
    numbers: Guarded


def small_writes(times: int, state: Large) -> float:
    def work(times: int) -> None:
        for _ in range(times):
            with state.numbers as numbers:
                numbers[5] += 1
                numbers[len(numbers) - 5] += 1

    return float(together(state.barrier, times, work))


def opened_large(nbytes: int) -> Any:
    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        times = setting.times(5_000)
        numbers = Guarded("q", array("q", bytes(nbytes)))
        with setting.open(Large(setting.barrier(), numbers)) as engine:
            yield lambda: float(at_once(engine, small_writes, times))

    return opener


LOCK, GUARDED, RLOCK, VALUE = "Lock", f"Guarded, {NUMBERS} values", "RLock", "Value.get_lock()"
MANAGER, FOUR = "Manager().Lock()", "Lock, 4 times as often"
SMALL, LARGE = "Guarded of 1 MB", "Guarded of 100 MB"
OTHERS = {
    # how often a worker takes it in a run, what it is there, and what serves
    MANAGER: (200, as_it_is, manager),
    "filelock": (200, filelock, path),
    "fasteners": (500, fasteners, path),
    "portalocker": (500, portalocker, path),
    "Redis, lock": (100, redis, redis_server),
}

NOTE = (
    "Python is the bound: the methods of an RLock are C, and those of ours are Python, which keep "
    "the order of locks and call a mutex that outlives its holder"
)

SLEEPS = (
    "A worker that waits for portalocker sleeps in the kernel, so that the sections of the other "
    "worker come as fast as if it were alone"
)


def entries() -> list[Entry]:
    return [
        Entry(LOCK, opened_ours(under_lock, 40_000), "ours"),
        Entry(FOUR, opened_ours(under_lock, 160_000), "ours"),
        Entry(GUARDED, opened_ours(guarded, 20_000), "ours"),
        *(Entry(name, opened_theirs(*how)) for name, how in OTHERS.items()),
        Entry(RLOCK, opened_ours(under_bare, 40_000), "floor"),
        Entry(VALUE, opened_ours(under_value, 40_000), "floor"),
    ]


def comparisons() -> list[Comparison]:
    writes = [Entry(SMALL, opened_large(10**6), "ours"), Entry(LARGE, opened_large(10**8), "ours")]
    title = "A section that changes a number"
    return [
        Comparison("locks alone", f"{title}, by one worker", entries(), workers=1),
        Comparison("locks contended", f"{title}, by both workers at once", entries()),
        Comparison("large data", "A section that changes two of many numbers", writes, 9, 1),
    ]


def targets(found: dict[str, Comparison]) -> list[Target]:
    alone, contended = found["locks alone"], found["locks contended"]
    waits = [way for way in contended.ways if way.name == GUARDED]
    return [
        most_times(alone, LOCK, 3, RLOCK),
        most_times(contended, LOCK, 1, VALUE, NOTE),
        *least_times(alone, LOCK, 20, [name for name in OTHERS if "Redis" not in name]),
        *least_times(contended, LOCK, 20, [name for name in OTHERS if "Redis" not in name], SLEEPS),
        Target(
            f"locks contended: {GUARDED}, sections a second of both workers",
            400_000,
            2 / waits[0].median if waits else None,
            least=True,
            show=lambda rate: f"{rate:,.0f}",
        ),
        most_times(found["large data"], LARGE, 1.1, SMALL),
        most_times(alone, FOUR, 1.1, LOCK),
    ]
