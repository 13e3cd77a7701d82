"""Bring the columns of a 2-d .npy file to zero mean and unit variance; the output is float64.

Both files are mapped, so they may be larger than memory. NaN is left out of the statistics and
kept. A column whose values are all the same becomes 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ..files import InputError, check_paths
from ..progress import track
from ..sharing import EngineOptions, SharedArray, open_engine

Rows = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass
class State:
    """What the workers share. `columns` takes the result of the first pass to the second."""

    source: SharedArray
    out: SharedArray
    columns: SharedArray  # mean, deviation (0 for a column of one value)


@dataclass
class Statistics:
    """What is known of the columns over some rows, as in Chan, Golub and LeVeque (1979)."""

    count: Floats
    mean: Floats
    squares: Floats  # of the distances from the mean
    least: Floats
    most: Floats

    def join(self, more: "Statistics") -> "Statistics":
        """Return the statistics over both."""
        count = self.count + more.count
        share = more.count / np.maximum(count, 1)
        apart = np.where(self.count * more.count > 0, more.mean - self.mean, 0)
        return Statistics(
            count,
            np.where(self.count > 0, self.mean + apart * share, more.mean),
            self.squares + more.squares + apart**2 * self.count * share,
            np.fmin(self.least, more.least),
            np.fmax(self.most, more.most),
        )


@np.errstate(all="ignore")  # infinite values make NaN, as in numpy, and no warning
def measure(rows: Rows, _out_rows: Rows, _state: State) -> Statistics:
    """Return the statistics of one block."""
    values = rows.astype(np.float64)
    seen = ~np.isnan(values)
    count = seen.sum(axis=0, dtype=np.float64)
    mean = values.sum(axis=0, where=seen) / np.maximum(count, 1)
    least, most = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    values -= mean
    squares = np.square(values, out=values).sum(axis=0, where=seen)
    return Statistics(count, mean, squares, least, most)


@np.errstate(all="ignore")
def scale(rows: Rows, out_rows: Rows, state: State) -> None:
    """Write one block of the output."""
    mean, deviation = state.columns.array
    np.subtract(rows, mean, out=out_rows)
    np.divide(out_rows, np.where(deviation > 0, deviation, 1), out=out_rows)
    same = deviation == 0
    if same.any():
        np.copyto(out_rows, 0, where=same & ~np.isnan(rows))


@np.errstate(all="ignore")
def summarize(blocks: Iterable[Statistics]) -> tuple[Floats, Floats]:
    """Return mean and deviation of the columns; the order of the blocks settles every bit."""
    whole, *rest = blocks
    for block in rest:
        whole = whole.join(block)
    deviation = np.sqrt(whole.squares / whole.count)
    return whole.mean, np.where(whole.least == whole.most, 0, deviation)


def check(path: Path) -> tuple[int, int]:
    """Return rows and columns, or raise if this is no table of real numbers."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a whole .npy file of numbers ({error})") from error
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: needs 2 dimensions of real numbers, has {array.ndim} of {array.dtype}"
        )
    rows, columns = array.shape
    if not rows or not columns:
        raise InputError(f"{path}: the array has no rows or no columns")
    return rows, columns


def main(source: Path, out: Path, **options: Unpack[EngineOptions]) -> dict[str, object]:
    """Read `source` twice: once for the statistics, once to write `out`."""
    check_paths([source], [out])
    rows, columns = check(source)
    state = State(
        SharedArray.from_npy(source),
        SharedArray.create_npy(out, (rows, columns), np.float64),
        SharedArray((2, columns), np.float64),
    )
    with open_engine(state, **options) as engine:
        state = engine.state
        measured = engine.imap_blocks(measure, state.source)
        mean, deviation = summarize(track(measured, "blocks measured"))
        state.columns.array[:] = mean, deviation
        for _ in track(engine.imap_blocks(scale, state.source, out=state.out), "blocks written"):
            pass
    return {"rows": rows, "columns": columns, "constant_columns": int((deviation == 0).sum())}


def sample(folder: Path, random: Random) -> list[str]:
    """Write 50,000 rows of measurements with gaps, one column of which never changes."""
    generator = np.random.default_rng(random.randrange(1 << 32))
    table = generator.normal(20, 5, (50_000, 8)).astype(np.float32)
    table[generator.random(table.shape) < 0.01] = np.nan
    table[:, 3] = 1.5
    np.save(folder / "measurements.npy", table)
    return [str(folder / name) for name in ("measurements.npy", "standardized.npy")]
