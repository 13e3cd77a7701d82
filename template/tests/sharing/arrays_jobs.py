"""The jobs of test_arrays.py, apart from it: workers need not import pytest."""

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from probe import Probe, kill_self
from signs import Signs
from under_test import sharing

Rows = npt.NDArray[Any]


@dataclass
class State:
    """What the workers share."""

    probe: Probe
    source: sharing.SharedArray
    out: sharing.SharedArray
    signs: Signs
    die_on: tuple[int, ...] = ()
    """The first elements of blocks that kill their worker, once each."""


def numbers(rows: int = 1000) -> npt.NDArray[np.float64]:
    """As many rows of three, each with its number in front."""
    table = np.random.default_rng(7).normal(size=(rows, 3))
    table[:, 0] = np.arange(rows)
    return table


def fresh_state(signs: Signs, die_on: tuple[int, ...] = ()) -> State:
    """A table, and an empty one of its shape."""
    table = numbers()
    out = sharing.SharedArray(table.shape, "float32")
    return State(Probe(), sharing.SharedArray.from_array(table), out, signs, die_on)


def bounds(rows: Rows, out: Rows, state: State) -> tuple[int, int]:
    """Which rows these are."""
    return int(rows[0, 0]), int(rows[-1, 0])


def total(rows: Rows, out: Rows, state: State) -> npt.NDArray[Any]:
    """A part of a reduction."""
    # numpy before 2.5 says Any of this, later ones an array: the annotation suits both.
    sums: npt.NDArray[Any] = rows.astype("float32").sum(axis=0)
    return sums


def round_to_out(rows: Rows, out: Rows, state: State) -> None:
    """From one array to another."""
    out[...] = rows.round(1)


def write_to_rows(rows: Rows, out: Rows, state: State) -> None:
    """What is only to be read can't be written to."""
    rows[0] = 0


def double_in_steps(rows: Rows, out: Rows, state: State) -> int:
    """Change a block row by row; some die in the middle, once."""
    assert rows is out or np.shares_memory(rows, out)
    first = int(rows[0, 0])
    dies = first in state.die_on and state.signs.first(f"{first} died")
    for place in range(len(rows)):
        rows[place] *= 2
        rows[place] += 1
        if dies and place == len(rows) // 2:
            kill_self()
    return os.getpid()


def double_and_arm(rows: Rows, out: Rows, state: State) -> None:
    """Have the worker die when the block has ended, before it can say so; or after."""
    first = int(rows[0, 0])
    rows *= 2
    rows += 1
    for moment, place in (("answer", 100), ("chunk", 300)):
        if first == place and state.signs.first(f"{place} died"):
            state.probe.die_at = moment


def spoil_and_fail(rows: Rows, out: Rows, state: State) -> None:
    """Fail, having changed half a block."""
    rows[: len(rows) // 2] = -1
    if rows[-1, 0] == 499:
        raise ValueError("in the middle")
    rows[...] = -2


def spoil_and_hang(rows: Rows, out: Rows, state: State) -> None:
    """Never end, having changed half a block."""
    rows[: len(rows) // 2] = -1
    time.sleep(600)


def spoil_and_hang_but_first(rows: Rows, out: Rows, state: State) -> None:
    """End on the first block, and never on the others."""
    if rows[0, 0] > 0:
        rows[: len(rows) // 2] = -1
        state.signs.give("spoilt")
        time.sleep(600)


def fill(rows: Rows, out: Rows, state: State) -> None:
    """Write each row's number."""
    out[...] = rows[:, :1]


def add_up(item: int, state: State) -> float:
    """An ordinary job, with a view of the whole array."""
    return float(state.source.array[:, item].sum())
