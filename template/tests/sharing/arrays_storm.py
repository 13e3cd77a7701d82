"""The part of arrays in a storm."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from probe import Step
from storm_part import Ended, Part, Wrong
from under_test import sharing

ROWS = 1 << 6
"""Of a block."""

BLOCK = 8 * ROWS
"""Elements of one."""


@dataclass
class Share:
    table: sharing.SharedArray = field(
        default_factory=partial(sharing.SharedArray, (1 << 10, 8), "int64")
    )


class InArrays(Part):
    share = Share
    points = ("in a block",)

    def beside(self, engine: sharing.Engine[Any], step: Step) -> None:
        kernel = partial(raise_by_one, step=step)
        engine.map_blocks(kernel, engine.state.table, rows=ROWS, retries=1000)

    def look(self, state: Share, ended: Ended) -> Iterator[Wrong]:
        for kind, wrong in (
            ("lost", state.table.array < ended.maps),
            ("doubled", state.table.array > ended.maps),
        ):
            if rows := np.flatnonzero(wrong.any(axis=1)).tolist():
                yield Wrong(kind, f"rows {rows} of the table")


def raise_by_one(
    rows: npt.NDArray[Any], out: npt.NDArray[Any], state: object, *, step: Step
) -> None:
    """In place, row by row."""
    for place in range(len(rows)):
        rows[place] += 1
        if place == len(rows) // 2:
            step.die_at("in a block")


PART = InArrays()
