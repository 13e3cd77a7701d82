"""Adding one, by all workers at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from ..sharing import Counter
from .timing import CONTEXT, Setting, Way, at_once, given, pool, together
from .workload import Item, Shape, Work, burn


@dataclass
class State:
    barrier: Barrier
    count: Counter


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


def floor(times: int, state: State) -> float:
    def work(times: int) -> None:
        counts = [0]
        for _ in range(times):
            counts[0] += 1

    return together(state.barrier, times, work)


@contextmanager
def ways(setting: Setting) -> Iterator[list[Way]]:
    times = setting.times(500_000)
    with (
        setting.open(State(setting.barrier(), Counter())) as engine,
        pool(setting.barrier(), CONTEXT.Value("q", 0), workers=setting.workers) as in_pool,
    ):
        yield [
            Way("Counter.add()", lambda: at_once(engine, ours, times)),
            Way("Value and its lock", lambda: in_pool(copied, setting.times(50_000)), "copied"),
            Way("own list: n[0] += 1", lambda: at_once(engine, floor, times), "floor"),
        ]


@dataclass
class Tally:
    count: Counter
    cost: float


def tally(item: Item, state: Tally) -> None:
    burn(state.cost)
    if item.reads:
        state.count.value  # noqa: B018
    else:
        state.count.add()


def work(shape: Shape) -> Work[Tally]:
    """An item that writes adds one; one that reads asks for the sum."""
    counts = [0]

    def alone(item: Item) -> None:
        burn(shape.item_cost)
        counts[0] += not item.reads

    return Work(Tally(Counter(), shape.item_cost), tally, alone, carries=True)
