"""How one thing is measured beside another."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Any

WORKERS = 2
CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class Way:
    """One way to do it: `run` does it often and returns the seconds that one took."""

    name: str
    run: Callable[[], float]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of all rounds: what else the machine did moves it least."""
        return median(self.seconds)


def measure(ways: list[Way], rounds: int) -> None:
    """Run the ways in turn, so that a slow moment of the machine hits all of them."""
    for way in ways:
        way.run()  # the first time, memory is touched and caches are filled
    for _ in range(rounds):
        for way in ways:
            way.seconds.append(way.run())


def each(times: int, work: Callable[[int], None]) -> float:
    """Return the seconds that one of `times` takes; the loop is in `work`, to cost little."""
    start = time.perf_counter()
    work(times)
    return (time.perf_counter() - start) / times


def together(barrier: Barrier, times: int, work: Callable[[int], None]) -> float:
    """The same in a worker, begun when all workers are there."""
    barrier.wait(30)
    return each(times, work)


given: list[Any] = []
"""What the workers of a `pool` were given."""


def _give(*values: object) -> None:
    given.extend(values)


@contextmanager
def pool(*values: object) -> Iterator[Callable[[Callable[[int], float], int], float]]:
    """Open a Pool for the copied snippets; its workers have `values` in `given`.

    What it yields runs a job in each worker at once and returns the slowest one's seconds.
    """
    with CONTEXT.Pool(WORKERS, _give, values) as workers:

        def run(job: Callable[[int], float], times: int) -> float:
            return max(workers.map_async(job, [times] * WORKERS, chunksize=1).get(60))

        yield run
