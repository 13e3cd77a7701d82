"""One add, by one process that nobody disturbs."""

import multiprocessing
from dataclasses import dataclass

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .subject import sharing

pytestmark = pytest.mark.benchmark(group="one add")


@dataclass
class State:
    count: sharing.Counter


def test_counter(benchmark: BenchmarkFixture) -> None:
    with sharing.open_engine(State(sharing.Counter()), workers=1) as engine:
        benchmark(engine.state.count.add)


def test_copied_value_with_its_lock(benchmark: BenchmarkFixture) -> None:
    value = multiprocessing.get_context("spawn").Value("q", 0)

    def add() -> None:
        with value.get_lock():
            value.value += 1

    benchmark(add)


def test_floor_own_list(benchmark: BenchmarkFixture) -> None:
    counts = [0]

    def add() -> None:
        counts[0] += 1

    benchmark(add)
