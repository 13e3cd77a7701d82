"""A section that changes two numbers, by two workers at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, RLock

from .subject import sharing
from .timing import CONTEXT, WORKERS, Way, given, pool, together

TIMES = 20_000


@dataclass
class State:
    barrier: Barrier
    lock: sharing.Lock
    balances: sharing.Guarded
    bare: RLock


def guarded(times: int, state: State) -> float:
    def work(times: int) -> None:
        for _ in range(times):
            with state.balances as balances:
                balances[0] -= 1
                balances[1] += 1

    return together(state.barrier, times, work)


def locked(times: int, state: State) -> float:
    balances = [0, 0]

    def work(times: int) -> None:
        for _ in range(times):
            with state.lock:
                balances[0] -= 1
                balances[1] += 1

    return together(state.barrier, times, work)


def bare(times: int, state: State) -> float:
    balances = [0, 0]

    def work(times: int) -> None:
        for _ in range(times):
            with state.bare:
                balances[0] -= 1
                balances[1] += 1

    return together(state.barrier, times, work)


def copied(times: int) -> float:
    barrier, lock = given
    balances = [0, 0]

    def work(times: int) -> None:
        for _ in range(times):
            with lock:
                balances[0] -= 1
                balances[1] += 1

    return together(barrier, times, work)


@contextmanager
def ways() -> Iterator[list[Way]]:
    state = State(
        CONTEXT.Barrier(WORKERS),
        sharing.Lock(),
        sharing.Guarded("q", [0] * 64),
        CONTEXT.RLock(),
    )
    with (
        sharing.open_engine(state, workers=WORKERS) as engine,
        CONTEXT.Manager() as manager,
        pool(CONTEXT.Barrier(WORKERS), manager.Lock()) as in_pool,
    ):

        def in_engine(job: Callable[[int, State], float]) -> float:
            return max(engine.map(job, [TIMES] * WORKERS, chunk_size=1))

        yield [
            Way("with Lock():", lambda: in_engine(locked)),
            Way("with Guarded(…), 64 numbers:", lambda: in_engine(guarded)),
            Way("copied: with Manager().Lock():", lambda: in_pool(copied, 500)),
            Way("bare: with multiprocessing.RLock():", lambda: in_engine(bare)),
        ]
