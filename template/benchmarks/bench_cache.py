"""Getting a value that is there already, by two workers at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from .subject import sharing
from .timing import CONTEXT, WORKERS, Way, each, given, pool, together

KEYS = [f"key {number}" for number in range(100)]


@dataclass
class State:
    barrier: Barrier
    cache: sharing.Cache


def ours(times: int, state: State) -> float:
    def work(times: int) -> None:
        for _ in range(times // len(KEYS)):
            for key in KEYS:
                state.cache.get_or_compute(key, key.upper)

    work(len(KEYS))  # the first time a worker asks is not what is measured
    return together(state.barrier, times, work)


def copied(times: int) -> float:
    barrier, values = given

    def work(times: int) -> None:
        for _ in range(times // len(KEYS)):
            for key in KEYS:
                if key not in values:
                    values[key] = key.upper()
                values[key]

    work(len(KEYS))
    return together(barrier, times, work)


def bare(times: int) -> None:
    values = {key: key.upper() for key in KEYS}
    for _ in range(times // len(KEYS)):
        for key in KEYS:
            values[key]


@contextmanager
def ways() -> Iterator[list[Way]]:
    state = State(CONTEXT.Barrier(WORKERS), sharing.Cache(max_entries=1_000))
    with (
        sharing.open_engine(state, workers=WORKERS) as engine,
        CONTEXT.Manager() as manager,
        pool(CONTEXT.Barrier(WORKERS), manager.dict()) as in_pool,
    ):
        yield [
            Way(
                "Cache.get_or_compute(key, compute)",
                lambda: max(engine.map(ours, [100_000] * WORKERS, chunk_size=1)),
            ),
            Way("copied: if key not in Manager().dict(): …", lambda: in_pool(copied, 1_000)),
            Way("bare: a dict, in one process", lambda: each(500_000, bare)),
        ]
