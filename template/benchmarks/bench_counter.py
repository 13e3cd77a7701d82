"""Adding one, by two workers at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from .subject import sharing
from .timing import CONTEXT, WORKERS, Way, each, given, pool, together

TIMES = 200_000


@dataclass
class State:
    barrier: Barrier
    count: sharing.Counter


def ours(times: int, state: State) -> float:
    add = state.count.add

    def work(times: int) -> None:
        for _ in range(times):
            add()

    return together(state.barrier, times, work)


def copied(times: int) -> float:
    barrier, value = given

    def work(times: int) -> None:
        for _ in range(times):
            with value.get_lock():
                value.value += 1

    return together(barrier, times, work)


def bare(times: int) -> None:
    counts = [0]
    for _ in range(times):
        counts[0] += 1


@contextmanager
def ways() -> Iterator[list[Way]]:
    state = State(CONTEXT.Barrier(WORKERS), sharing.Counter())
    with (
        sharing.open_engine(state, workers=WORKERS) as engine,
        pool(CONTEXT.Barrier(WORKERS), CONTEXT.Value("q", 0)) as in_pool,
    ):
        yield [
            Way("Counter.add()", lambda: max(engine.map(ours, [TIMES] * WORKERS, chunk_size=1))),
            Way("copied: with value.get_lock(): value.value += 1", lambda: in_pool(copied, 20_000)),
            Way("bare: numbers[0] += 1 on a list, in one process", lambda: each(TIMES, bare)),
        ]
