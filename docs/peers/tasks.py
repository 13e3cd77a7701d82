"""Tasks: what it costs to hand an item to a worker and to get its value back."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from my_service.bench.timing import CONTEXT, Setting, each

from . import servers
from .compare import Comparison, Entry, Run, Target, Wrong, check, least_times, most_times

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""A way to map a function over items."""

SLOW, HIDDEN, TRIVIAL = 0.2, 10, 10_000


@dataclass
class Nothing:
    """A state without anything to share."""


def double(item: int) -> int:
    return 2 * item


def double_here(item: int, _state: Nothing) -> int:
    return 2 * item


def wait_or_not(seconds: float) -> float:
    """Take as long as an item says: most of them, no time."""
    if seconds:
        time.sleep(seconds)
    return 2 * seconds


def wait_or_not_here(seconds: float, _state: Nothing) -> float:
    return wait_or_not(seconds)


HERE = {double: double_here, wait_or_not: wait_or_not_here}


@contextmanager
def engine(setting: Setting, **options: int) -> Iterator[Map]:
    with setting.open(Nothing()) as opened:
        yield lambda job, items: opened.map(HERE[job], items, **options)


@contextmanager
def pool(setting: Setting, chunk: int) -> Iterator[Map]:
    with CONTEXT.Pool(setting.workers) as opened:
        yield lambda job, items: opened.imap(job, items, chunk)


@contextmanager
def executor(setting: Setting) -> Iterator[Map]:
    with ProcessPoolExecutor(setting.workers, mp_context=CONTEXT) as opened:
        yield opened.map


@contextmanager
def joblib(setting: Setting) -> Iterator[Map]:
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    with Parallel(n_jobs=setting.workers) as parallel:
        yield lambda job, items: parallel(delayed(job)(item) for item in items)
    get_reusable_executor().shutdown(wait=True)


@contextmanager
def mpire(setting: Setting) -> Iterator[Map]:
    from mpire import WorkerPool

    with WorkerPool(setting.workers, start_method="spawn", keep_alive=True) as opened:
        yield opened.map


@contextmanager
def pebble(setting: Setting) -> Iterator[Map]:
    from pebble import ProcessPool

    with ProcessPool(setting.workers, context=CONTEXT) as opened:
        yield lambda job, items: opened.map(job, items).result()


@contextmanager
def ray(setting: Setting) -> Iterator[Map]:
    with servers.ray():
        from ray.util.multiprocessing import Pool

        with Pool(setting.workers) as opened:
            yield opened.map


@contextmanager
def dask(setting: Setting) -> Iterator[Map]:
    from dask import bag

    with servers.dask():
        yield lambda job, items: bag.from_sequence(items).map(job).compute()


def doubled(ways: Callable[[Setting], AbstractContextManager[Map]], full: int) -> Any:
    """Map over that many trivial items; what an item took."""

    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        count = setting.times(full)
        with ways(setting) as mapped:

            def work(times: int) -> None:
                check(sum(mapped(double, range(times))), times * (times - 1), "as the sum")

            yield lambda: float(each(count, work))

    return opener


def with_slow_ones(ways: Callable[[Setting], AbstractContextManager[Map]]) -> Any:
    """Map over trivial items with some slow ones among them; seconds in all."""

    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        items = [0.0] * setting.times(TRIVIAL) + [SLOW * setting.effort] * HIDDEN
        Random(7).shuffle(items)
        wanted = [2 * item for item in items]
        with ways(setting) as mapped:

            def work(_times: int) -> None:
                if list(mapped(wait_or_not, items)) != wanted:
                    raise Wrong("wrong: other values, or in another order")

            yield lambda: float(each(1, work))

    return opener


@contextmanager
def ideal(setting: Setting) -> Iterator[Run]:
    """Nothing but the waiting, shared out."""
    yield lambda: SLOW * setting.effort * HIDDEN / setting.workers


OURS, FOUR = "map", "map, 4 times as many"
ONE, IMAP_ONE = "map, chunk_size=1", "Pool.imap, chunks of 1"
IMAP_64 = "Pool.imap, chunks of 64"
CHUNKS = (256, 1_024, 4_096, 16_384)
BEST = {size: f"Pool.imap, chunks of {size:,}" for size in CHUNKS}
EXECUTOR, JOBLIB, MPIRE, PEBBLE = "ProcessPoolExecutor", "joblib", "mpire", "pebble"
IDEAL = "the waiting alone"
ITEMS = 1_000_000
NOTE = (
    "A worker of ours has one chunk at a time and notes which item it begins, so that its death "
    "costs that item alone; the workers of a Pool find all chunks in one pipe and note nothing"
)


def comparisons() -> list[Comparison]:
    return [
        Comparison(
            "trivial items",
            "An item that takes no time, of a million",
            [
                Entry(OURS, doubled(engine, ITEMS), "ours"),
                Entry(FOUR, doubled(engine, 4 * ITEMS), "ours"),
                Entry(IMAP_64, doubled(partial(pool, chunk=64), ITEMS)),
                *(Entry(BEST[n], doubled(partial(pool, chunk=n), ITEMS)) for n in CHUNKS),
                Entry(EXECUTOR, doubled(executor, 2_000)),
                Entry(JOBLIB, doubled(joblib, 20_000)),
                Entry(MPIRE, doubled(mpire, 50_000)),
                Entry(PEBBLE, doubled(pebble, 2_000)),
                Entry("ray, its Pool", doubled(ray, 20_000)),
                Entry("dask, a bag", doubled(dask, 5_000)),
            ],
        ),
        Comparison(
            "round trips",
            "An item a round trip",
            [
                Entry(ONE, doubled(partial(engine, chunk_size=1), 5_000), "ours"),
                Entry(IMAP_ONE, doubled(partial(pool, chunk=1), 5_000)),
            ],
        ),
        Comparison(
            "slow items",
            f"{HIDDEN} items of {SLOW} s hidden among {TRIVIAL:,} trivial ones",
            [
                Entry(OURS, with_slow_ones(engine), "ours"),
                Entry(IMAP_64, with_slow_ones(partial(pool, chunk=64))),
                Entry(BEST[1_024], with_slow_ones(partial(pool, chunk=1_024))),
                Entry(EXECUTOR, with_slow_ones(executor)),
                Entry(JOBLIB, with_slow_ones(joblib)),
                Entry(MPIRE, with_slow_ones(mpire)),
                Entry(PEBBLE, with_slow_ones(pebble)),
                Entry(IDEAL, ideal, "floor"),
            ],
            rounds=2,
        ),
    ]


def targets(found: dict[str, Comparison]) -> list[Target]:
    trivial, one, hidden = (found[key] for key in ("trivial items", "round trips", "slow items"))
    by_hand = [way for way in trivial.ways if way.name in BEST.values()]
    best = min(by_hand, key=lambda way: way.median).name if by_hand else BEST[CHUNKS[0]]
    others = [IMAP_64, JOBLIB, MPIRE, PEBBLE, EXECUTOR]
    return [
        most_times(trivial, OURS, 1, best, NOTE),
        *least_times(trivial, OURS, 3, others),
        most_times(one, ONE, 1.5, IMAP_ONE),
        most_times(hidden, OURS, 1.1, IDEAL),
        most_times(trivial, FOUR, 1.1, OURS),
    ]
