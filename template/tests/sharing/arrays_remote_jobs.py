"""The jobs of test_arrays_remote.py, apart from it: workers need not import pytest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from probe import kill_self
from signs import Signs
from under_test import sharing

Rows = npt.NDArray[Any]


@dataclass
class State:
    """What the workers share."""

    source: sharing.SharedArray
    out: sharing.SharedArray
    fixed: sharing.SharedArray
    signs: Signs


def numbers(rows: int = 1000) -> npt.NDArray[np.float64]:
    """As many rows of three, each with its number in front."""
    table = np.random.default_rng(7).normal(size=(rows, 3))
    table[:, 0] = np.arange(rows)
    return table


def bounds(rows: Rows, out: Rows, state: State) -> tuple[int, int]:
    """Which rows these are."""
    return int(rows[0, 0]), int(rows[-1, 0])


def round_to_out(rows: Rows, out: Rows, state: State) -> int:
    """From one array to another."""
    out[...] = rows.round(1)
    return len(rows)


def double(rows: Rows, out: Rows, state: State) -> None:
    """Change a block in two steps; some die between these, once."""
    out *= 2
    first = int(rows[0, 0]) // 2
    if first in (200, 700) and state.signs.first(f"{first} died"):
        kill_self()
    out += 1


def spoil_and_fail(rows: Rows, out: Rows, state: State) -> None:
    """Fail, having changed half a block."""
    out[: len(out) // 2] = -1
    raise ValueError("in the middle")


def write_to_rows(rows: Rows, out: Rows, state: State) -> None:
    """What is only to be read can't be written to."""
    rows[0] = 0


def add_what_is_there(rows: Rows, out: Rows, state: State) -> float:
    """Look at another array of the state."""
    return float(state.out.array[0, 0])


def add_up(column: int, state: State) -> tuple[float, float]:
    """An ordinary job, with views of whole arrays."""
    return float(state.source.array[:, column].sum()), float(state.fixed.array[:, column].sum())


def write(name: str, state: State) -> None:
    """An ordinary job that writes to an array."""
    getattr(state, name).array[0, 0] = 5
