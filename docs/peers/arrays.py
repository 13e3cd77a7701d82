"""Arrays: 200 MB of float64, each row brought to mean 0 and deviation 1."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from my_service.bench.timing import CONTEXT, LIMIT, Setting, each
from my_service.sharing import SharedArray

from . import servers
from .compare import Comparison, Entry, Run, Target, Wrong, least_times, most_times

Rows: TypeAlias = "npt.NDArray[np.float64]"
ROWS, COLUMNS = 25_000, 1_000
BLOCK = 131
"""Rows that are about 1 MiB."""


@dataclass
class State:
    source: SharedArray
    out: SharedArray


def standardize(rows: Rows, out: Rows) -> None:
    """Write the rows to `out`, each with mean 0 and deviation 1."""
    np.subtract(rows, rows.mean(axis=1, keepdims=True), out=out)
    deviation = np.sqrt(np.einsum("ij,ij->i", out, out) / out.shape[1])
    np.divide(out, deviation[:, None], out=out)


def standardized(rows: Rows) -> Rows:
    out = np.empty_like(rows)
    standardize(rows, out)
    return out


def standardize_here(rows: Rows, out_rows: Rows, _state: State) -> None:
    standardize(rows, out_rows)


def standardize_part(source: Rows, out: Rows, start: int, stop: int) -> None:
    standardize(source[start:stop], out[start:stop])


@cache
def data(rows: int) -> Rows:
    return np.random.default_rng(1).random((rows, COLUMNS))


def parts(rows: int, size: int = BLOCK) -> list[tuple[int, int]]:
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def checking(rows: int) -> tuple[Any, Any]:
    """What spoils a result beforehand, and what looks at it: some rows of it."""
    some = slice(0, rows, 997)
    wanted = standardized(data(rows)[some])

    def spoil(out: Rows) -> None:
        out[some] = np.nan

    def look(out: Rows) -> None:
        if out.shape != (rows, COLUMNS) or not np.allclose(out[some], wanted, rtol=1e-12):
            raise Wrong("wrong: other numbers than in one process")

    return spoil, look


def timed(rows: int, out: Any, work: Any) -> Run:
    """Run the work on an array that nobody has seen before, and look at what came out."""
    spoil, look = checking(rows)

    def run() -> float:
        source = data(rows).copy()
        spoil(out())
        seconds = float(each(1, lambda _times: work(source)))
        look(out())
        return seconds

    return run


def opened_ours(part: float, from_parent: bool) -> Any:
    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        rows = setting.times(round(part * ROWS))
        state = State(SharedArray.from_array(data(rows)), SharedArray((rows, COLUMNS), "float64"))
        with setting.open(state) as engine:

            def work(source: Rows) -> None:
                if from_parent:
                    engine.state.source.array[...] = source
                engine.map_blocks(standardize_here, engine.state.source, engine.state.out)

            yield timed(rows, lambda: engine.state.out.array, work)

    return opener


@contextmanager
def threads(setting: Setting) -> Iterator[Run]:
    rows = setting.times(ROWS)
    out = np.empty((rows, COLUMNS))
    with ThreadPoolExecutor(setting.workers) as opened:

        def work(source: Rows) -> None:
            for done in [opened.submit(standardize_part, source, out, *p) for p in parts(rows)]:
                done.result()

        yield timed(rows, lambda: out, work)


@contextmanager
def dask_threads(setting: Setting) -> Iterator[Run]:
    from dask import array

    rows = setting.times(ROWS)
    out = [np.empty((rows, COLUMNS))]

    def work(source: Rows) -> None:
        lazy = array.from_array(source, chunks=(8 * BLOCK, COLUMNS))
        out[0] = lazy.map_blocks(standardized).compute(
            scheduler="threads", num_workers=setting.workers
        )

    yield timed(rows, lambda: out[0], work)


@contextmanager
def pickled(setting: Setting) -> Iterator[Run]:
    rows = setting.times(ROWS)
    out = np.empty((rows, COLUMNS))
    with CONTEXT.Pool(setting.workers) as opened:

        def work(source: Rows) -> None:
            chunks = [source[start:stop] for start, stop in parts(rows)]
            np.concatenate(opened.map_async(standardized, chunks).get(LIMIT), out=out)

        yield timed(rows, lambda: out, work)


@contextmanager
def joblib(setting: Setting) -> Iterator[Run]:
    """It maps the input by itself; the output is a mapped file, as its documentation shows."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    rows = setting.times(ROWS)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        shape = rows, COLUMNS
        out = np.memmap(Path(folder, "out"), np.float64, "w+", shape=shape)
        with Parallel(n_jobs=setting.workers) as parallel:

            def work(source: Rows) -> None:
                parallel(
                    delayed(standardize_part)(source, out, *part)
                    for part in parts(rows, -(-rows // (4 * setting.workers)))
                )

            yield timed(rows, lambda: out, work)
        get_reusable_executor().shutdown(wait=True)


@contextmanager
def joblib_by_hand(setting: Setting) -> Iterator[Run]:
    """The input is written to a mapped file as well."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    rows = setting.times(ROWS)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        shape = rows, COLUMNS
        mapped = np.memmap(Path(folder, "source"), np.float64, "w+", shape=shape)
        out = np.memmap(Path(folder, "out"), np.float64, "w+", shape=shape)
        with Parallel(n_jobs=setting.workers) as parallel:

            def work(source: Rows) -> None:
                mapped[...] = source
                parallel(
                    delayed(standardize_part)(mapped, out, *part)
                    for part in parts(rows, -(-rows // (4 * setting.workers)))
                )

            yield timed(rows, lambda: out, work)
        get_reusable_executor().shutdown(wait=True)


def memory_folder() -> str | None:
    """Files in memory, where there is such a folder: joblib itself prefers it."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def mpire_part(shared: Any, start: int, stop: int) -> None:
    source, out = (np.frombuffer(raw).reshape(-1, COLUMNS) for raw in shared)
    standardize_part(source, out, start, stop)


@contextmanager
def mpire(setting: Setting) -> Iterator[Run]:
    from mpire import WorkerPool

    rows = setting.times(ROWS)
    shared = tuple(CONTEXT.RawArray("d", rows * COLUMNS) for _ in range(2))
    given, out = (np.frombuffer(raw).reshape(-1, COLUMNS) for raw in shared)
    with WorkerPool(
        setting.workers, start_method="spawn", keep_alive=True, shared_objects=shared
    ) as opened:

        def work(source: Rows) -> None:
            given[...] = source
            opened.map(mpire_part, parts(rows))

        yield timed(rows, lambda: out, work)


def ray_part(source: Rows, start: int, stop: int) -> Rows:
    return standardized(source[start:stop])


@contextmanager
def ray(setting: Setting) -> Iterator[Run]:
    rows = setting.times(ROWS)
    out = np.empty((rows, COLUMNS))
    with servers.ray() as module:
        part = module.remote(ray_part)

        def work(source: Rows) -> None:
            put = module.put(source)
            some = parts(rows, -(-rows // (8 * setting.workers)))
            np.concatenate(module.get([part.remote(put, *one) for one in some]), out=out)

        yield timed(rows, lambda: out, work)


@contextmanager
def dask(setting: Setting) -> Iterator[Run]:
    rows = setting.times(ROWS)
    out = np.empty((rows, COLUMNS))
    with servers.dask() as client:

        def work(source: Rows) -> None:
            some = parts(rows, -(-rows // (8 * setting.workers)))
            chunks = client.scatter([source[start:stop] for start, stop in some], hash=False)
            done = client.map(standardized, chunks, pure=False)
            np.concatenate(client.gather(done), out=out)

        yield timed(rows, lambda: out, work)


SHARED, QUARTER, THREADS = "map_blocks", "map_blocks, a quarter of it", "numpy in 2 threads"
OURS, MPIRE, BY_HAND = "map_blocks", "mpire, shared memory", "joblib, both mapped by hand"
COPIES = (
    "Memory is the bound: every way has to copy the 200 MB into shared memory, and that copy is "
    "half of what ours takes in all"
)
PAGES = (
    "Pages bound it: those of shared memory are small ones, which each worker maps for itself, "
    "and numpy asks the system for large ones"
)
OTHERS = {
    "Pool, pickled": pickled,
    "joblib": joblib,
    "ray": ray,
    "dask.distributed": dask,
}


def comparisons() -> list[Comparison]:
    return [
        Comparison(
            "shared arrays",
            "200 MB that are shared already",
            [
                Entry(SHARED, opened_ours(1, from_parent=False), "ours"),
                Entry(QUARTER, opened_ours(0.25, from_parent=False), "ours"),
                Entry(THREADS, threads, "floor"),
                Entry("dask.array in 2 threads", dask_threads, "floor"),
            ],
            rounds=9,
        ),
        Comparison(
            "arrays",
            "200 MB from an array of the parent to the result there",
            [
                Entry(OURS, opened_ours(1, from_parent=True), "ours"),
                Entry(MPIRE, mpire),
                Entry(BY_HAND, joblib_by_hand),
                *(Entry(name, opener) for name, opener in OTHERS.items()),
            ],
            rounds=4,
        ),
    ]


def targets(found: dict[str, Comparison]) -> list[Target]:
    shared, arrays = found["shared arrays"], found["arrays"]
    quarter = shared.ratio(SHARED, QUARTER)
    return [
        most_times(shared, SHARED, 1.15, THREADS, PAGES),
        *least_times(arrays, OURS, 3, list(OTHERS), COPIES),
        most_times(arrays, OURS, 1, MPIRE),
        Target(
            f"shared arrays: {SHARED}, as long as {QUARTER}, each row", 1.1, quarter and quarter / 4
        ),
    ]
