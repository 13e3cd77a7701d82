"""A section that changes two numbers, by all workers at once."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, RLock
from typing import Any

from ..sharing import Guarded, Lock
from .timing import CONTEXT, Setting, Way, at_once, given, pool, together
from .workload import Item, Shape, Work, burn


@dataclass
class State:
    barrier: Barrier
    lock: Lock
    balances: Guarded
    bare: RLock


def ours(times: int, state: State) -> float:
    return sections(times, state.barrier, state.lock)


def guarded(times: int, state: State) -> float:
    def work(times: int) -> None:
        for _ in range(times):
            with state.balances as balances:
                balances[0] -= 1
                balances[1] += 1

    return together(state.barrier, times, work)


def copied(times: int) -> float:
    return sections(times, *given)


def floor(times: int, state: State) -> float:
    return sections(times, state.barrier, state.bare)


def sections(times: int, barrier: Barrier, lock: AbstractContextManager[Any]) -> float:
    """The same under any lock, on numbers that are this worker's own."""
    balances = [0, 0]

    def work(times: int) -> None:
        for _ in range(times):
            with lock:
                balances[0] -= 1
                balances[1] += 1

    return together(barrier, times, work)


@contextmanager
def ways(setting: Setting) -> Iterator[list[Way]]:
    times = setting.times(50_000)
    state = State(setting.barrier(), Lock(), Guarded("q", [0] * 64), CONTEXT.RLock())
    with (
        setting.open(state) as engine,
        CONTEXT.Manager() as manager,
        pool(setting.barrier(), manager.Lock(), workers=setting.workers) as in_pool,
    ):
        yield [
            Way("Lock", lambda: at_once(engine, ours, times)),
            Way("Guarded, 64 numbers", lambda: at_once(engine, guarded, times)),
            Way("Manager().Lock()", lambda: in_pool(copied, setting.times(500)), "copied"),
            Way("multiprocessing.RLock", lambda: at_once(engine, floor, times), "floor"),
        ]


@dataclass
class Books:
    balances: Guarded
    cost: float


def transfer(item: Item, state: Books) -> None:
    burn(state.cost)
    if item.reads:
        state.balances.read()
    else:
        with state.balances as balances:
            balances[item.key] += 1


def work(shape: Shape) -> Work[Books]:
    """An item that writes changes the number of its key in a section; one that reads reads all."""
    numbers = [0] * shape.keys

    def alone(item: Item) -> None:
        burn(shape.item_cost)
        if not item.reads:
            numbers[item.key] += 1

    return Work(Books(Guarded("q", numbers), shape.item_cost), transfer, alone, carries=True)
