"""The exponentials of 24 MB of numbers, all of them, by two workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .subject import sharing
from .timing import CONTEXT, WORKERS, Way, each

SHAPE = 300_000, 10
BLOCKS = 24

Rows = npt.NDArray[Any]


@dataclass
class State:
    source: sharing.SharedArray
    out: sharing.SharedArray


def ours(rows: Rows, out_rows: Rows, _state: State) -> None:
    np.exp(rows, out=out_rows)


def copied(rows: Rows) -> Rows:
    result: Rows = np.exp(rows)
    return result


@contextmanager
def ways() -> Iterator[list[Way]]:
    data = np.random.default_rng(1).random(SHAPE)
    out = np.empty_like(data)
    state = State(sharing.SharedArray.from_array(data), sharing.SharedArray(SHAPE, data.dtype))
    with (
        sharing.open_engine(state, workers=WORKERS) as engine,
        CONTEXT.Pool(WORKERS) as pool,
        ThreadPoolExecutor(WORKERS) as threads,
    ):

        def shared(times: int) -> None:
            for _ in range(times):
                engine.map_blocks(ours, engine.state.source, engine.state.out)

        def pickled(times: int) -> None:
            for _ in range(times):
                parts = pool.map_async(copied, np.array_split(data, BLOCKS)).get(60)
                np.concatenate(parts, out=out)

        def threaded(times: int) -> None:
            for _ in range(times):
                parts = zip(np.array_split(data, BLOCKS), np.array_split(out, BLOCKS), strict=True)
                list(threads.map(lambda part: np.exp(part[0], out=part[1]), parts))

        def alone(times: int) -> None:
            for _ in range(times):
                np.exp(data, out=out)

        yield [
            Way("map_blocks on a SharedArray", lambda: each(10, shared)),
            Way("copied: Pool.map over chunks of the array", lambda: each(2, pickled)),
            Way("bare: numpy in two threads", lambda: each(10, threaded)),
            Way("bare: numpy in one thread", lambda: each(10, alone)),
        ]
