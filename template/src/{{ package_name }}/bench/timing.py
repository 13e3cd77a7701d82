"""How one thing is measured beside another."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Any, Literal, TypeVar

from ..sharing import Engine, open_engine

S = TypeVar("S")

CONTEXT = multiprocessing.get_context("spawn")
"""Where pools, barriers and what else is compared with come from."""

LIMIT = 60.0
"""Seconds that one run may take before it counts as stuck."""

Role = Literal["ours", "copied", "floor"]


@dataclass
class Way:
    """One way to do it: `run` does it often and returns the seconds that one took.

    Attributes:
        name: a few words.
        role: ours, a snippet that people copy, or the floor: the same without sharing anything.
        seconds: what each round gave.
    """

    name: str
    run: Callable[[], float]
    role: Role = "ours"
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of all rounds: what else the machine did moves it least."""
        return median(self.seconds)


@dataclass(frozen=True)
class Setting:
    """What the ways of a pattern are run with.

    Attributes:
        workers: how many work at once.
        effort: 1 for numbers to rely on, less for a quick look: how often a run does it.
        engine: the name of ours; the copied snippets bring processes of their own.
        start_method: of our engine's processes.
        address: of the cluster that our engine runs on.
    """

    workers: int = 2
    effort: float = 1.0
    engine: str = "processes"
    start_method: str | None = None
    address: str | None = None

    def times(self, full: int) -> int:
        """How often a run does it that does it `full` times at full effort."""
        return max(1, round(full * self.effort))

    def barrier(self) -> Barrier:
        """One that all workers wait at before they begin."""
        return CONTEXT.Barrier(self.workers)

    def open(self, state: S) -> Engine[S]:
        """Our engine, to be opened with ``with``."""
        return open_engine(
            state,
            engine=self.engine,
            workers=self.workers,
            start_method=self.start_method,
            address=self.address,
        )


def measure(ways: list[Way], rounds: int) -> None:
    """Run the ways in turn, so that a slow moment of the machine hits all of them."""
    for _ in measuring(ways, rounds):
        pass


def measuring(ways: list[Way], rounds: int) -> Iterator[int]:
    """Do so, and yield after each round; there is one more than `rounds`, which doesn't count."""
    for number in range(rounds + 1):
        for way in ways:
            seconds = way.run()
            if number:  # the first time, memory is touched and what is used often is filled
                way.seconds.append(seconds)
        yield number


def each(times: int, work: Callable[[int], None]) -> float:
    """Return the seconds that one of `times` takes; the loop is in `work`, to cost little."""
    start = time.perf_counter()
    work(times)
    return (time.perf_counter() - start) / times


def together(barrier: Barrier, times: int, work: Callable[[int], None]) -> float:
    """The same in a worker, begun when all workers are there."""
    barrier.wait(LIMIT)
    return each(times, work)


def at_once(engine: Engine[S], job: Callable[[int, S], float], times: int) -> float:
    """Run a job, which begins `together`, in each worker; return the slowest one's seconds."""
    items = [times] * engine.workers
    return max(engine.map(job, items, chunk_size=1, timeout=LIMIT))


given: list[Any] = []
"""What the workers of a `pool` were given."""


def _give(*values: object) -> None:
    given.extend(values)


@contextmanager
def pool(
    *values: object, workers: int = 2
) -> Iterator[Callable[[Callable[[int], float], int], float]]:
    """Open a Pool for the copied snippets; its workers have `values` in `given`.

    What it yields runs a job in each worker at once and returns the slowest one's seconds.
    """
    with CONTEXT.Pool(workers, _give, values) as processes:

        def run(job: Callable[[int], float], times: int) -> float:
            return max(processes.map_async(job, [times] * workers, chunksize=1).get(LIMIT))

        yield run
