"""One call for 2.4 MB of numbers: all of it is handed to one worker, and there again at the end."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .subject import sharing

pytestmark = pytest.mark.benchmark(group="one array")

Rows = npt.NDArray[Any]


@dataclass
class State:
    source: sharing.SharedArray
    out: sharing.SharedArray


def exponentials(rows: Rows, out_rows: Rows, _state: State) -> None:
    np.exp(rows, out=out_rows)


@pytest.fixture
def data() -> Rows:
    return np.random.default_rng(1).random((30_000, 10))


def test_shared_array(benchmark: BenchmarkFixture, data: Rows) -> None:
    state = State(sharing.SharedArray.from_array(data), sharing.SharedArray(data.shape, data.dtype))
    with sharing.open_engine(state, workers=1) as engine:
        benchmark(engine.map_blocks, exponentials, engine.state.source, engine.state.out)
        assert np.array_equal(engine.state.out.array, np.exp(data))


def test_copied_pool(benchmark: BenchmarkFixture, data: Rows) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(benchmark(pool.apply, np.exp, (data,)), np.exp(data))


def test_floor_numpy_in_a_thread(benchmark: BenchmarkFixture, data: Rows) -> None:
    out = np.empty_like(data)
    with ThreadPoolExecutor(1) as thread:
        benchmark(lambda: thread.submit(np.exp, data, out).result())
