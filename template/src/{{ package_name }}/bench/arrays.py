"""The exponentials of 24 MB of numbers (with --quick 1.2 MB), by all workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..sharing import SharedArray
from .timing import CONTEXT, LIMIT, Setting, Way, each
from .workload import Item, Shape, Work, burn

ROWS, COLUMNS = 300_000, 10
BLOCKS = 24

Rows = npt.NDArray[Any]


@dataclass
class State:
    source: SharedArray
    out: SharedArray


def ours(rows: Rows, out_rows: Rows, _state: State) -> None:
    np.exp(rows, out=out_rows)


def copied(rows: Rows) -> Rows:
    result: Rows = np.exp(rows)
    return result


@contextmanager
def ways(setting: Setting) -> Iterator[list[Way]]:
    data = np.random.default_rng(1).random((setting.times(ROWS), COLUMNS))
    out = np.empty_like(data)
    state = State(SharedArray.from_array(data), SharedArray(data.shape, data.dtype))
    with (
        setting.open(state) as engine,
        CONTEXT.Pool(setting.workers) as pool,
        ThreadPoolExecutor(setting.workers) as threads,
    ):

        def shared(times: int) -> None:
            for _ in range(times):
                engine.map_blocks(ours, engine.state.source, engine.state.out)

        def pickled(times: int) -> None:
            for _ in range(times):
                parts = pool.map_async(copied, np.array_split(data, BLOCKS)).get(LIMIT)
                np.concatenate(parts, out=out)

        def threaded(times: int) -> None:
            for _ in range(times):
                parts = zip(np.array_split(data, BLOCKS), np.array_split(out, BLOCKS), strict=True)
                list(threads.map(lambda part: np.exp(part[0], out=part[1]), parts))

        yield [
            Way("SharedArray, map_blocks", lambda: each(10, shared)),
            Way("Pool.map over chunks", lambda: each(1, pickled), "copied"),
            Way("numpy in threads", lambda: each(10, threaded), "floor"),
        ]


@dataclass
class Table:
    rows: SharedArray
    cost: float


def visit(item: Item, state: Table) -> Rows | None:
    return touch(item, state.rows.array, state.cost)


def touch(item: Item, rows: Rows, cost: float) -> Rows | None:
    """Read a row, or fill it; where it can only be read, as on a cluster, return what it is now."""
    row, changed = rows[item.key % len(rows)], None
    if item.reads:
        row.max()
    elif row.flags.writeable:
        row.fill(1)
    else:
        changed = np.ones_like(row)
    burn(cost)
    return changed


def work(shape: Shape) -> Work[Table]:
    """An item is the number of a row, of as many bytes as the payload, to read or to fill."""
    size = shape.slots, max(1, shape.payload)
    rows = np.ones(size, np.uint8)  # the first touch of a page costs more than any other

    def alone(item: Item) -> None:
        touch(item, rows, shape.item_cost)

    return Work(Table(SharedArray.from_array(rows), shape.item_cost), visit, alone, carries=False)
