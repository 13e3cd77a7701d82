"""Getting a value that is there already, by all workers at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from ..sharing import Cache
from .timing import CONTEXT, Setting, Way, at_once, given, pool, together
from .workload import Item, Shape, Work, burn

KEYS = [f"key {number}" for number in range(100)]


@dataclass
class State:
    barrier: Barrier
    cache: Cache


def ours(times: int, state: State) -> float:
    get = state.cache.get_or_compute

    def work(times: int) -> None:
        for _ in range(times // len(KEYS)):
            for key in KEYS:
                get(key, key.upper)

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


def floor(times: int, state: State) -> float:
    values = {key: key.upper() for key in KEYS}

    def work(times: int) -> None:
        for _ in range(times // len(KEYS)):
            for key in KEYS:
                values[key]

    return together(state.barrier, times, work)


@contextmanager
def ways(setting: Setting) -> Iterator[list[Way]]:
    often, seldom = (len(KEYS) * setting.times(rounds) for rounds in (3_000, 10))
    with (
        setting.open(State(setting.barrier(), Cache(max_entries=1_000))) as engine,
        CONTEXT.Manager() as manager,
        pool(setting.barrier(), manager.dict(), workers=setting.workers) as in_pool,
    ):
        yield [
            Way("Cache, a hit", lambda: at_once(engine, ours, often)),
            Way("Manager().dict()", lambda: in_pool(copied, seldom), "copied"),
            Way("own dict", lambda: at_once(engine, floor, often), "floor"),
        ]


@dataclass
class Shelf:
    cache: Cache
    shape: Shape


def compute(shape: Shape) -> bytes:
    burn(shape.item_cost)
    return bytes(shape.payload)


def look_up(item: Item, state: Shelf) -> None:
    if item.reads:
        state.cache.get_or_compute(item.key, lambda: compute(state.shape))
    else:
        state.cache.put(item.key, compute(state.shape))


def work(shape: Shape) -> Work[Shelf]:
    """An item is a key: its value is computed where there is none, or the item is to write."""
    values: dict[int, bytes] = {}

    def alone(item: Item) -> None:
        if not item.reads or item.key not in values:
            if len(values) >= shape.slots:
                values.pop(next(iter(values)))
            values[item.key] = compute(shape)

    return Work(Shelf(Cache(max_entries=shape.slots), shape), look_up, alone, carries=False)
