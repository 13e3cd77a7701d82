"""Getting one value that is there, by one process that nobody disturbs."""

import multiprocessing
from dataclasses import dataclass

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .subject import sharing

pytestmark = pytest.mark.benchmark(group="one hit")


@dataclass
class State:
    cache: sharing.Cache


def test_cache(benchmark: BenchmarkFixture) -> None:
    with sharing.open_engine(State(sharing.Cache()), workers=1) as engine:
        assert benchmark(engine.state.cache.get_or_compute, "key", "value".upper) == "VALUE"


def test_copied_manager_dict(benchmark: BenchmarkFixture) -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        values = manager.dict({"key": "VALUE"})

        def get() -> str:
            if "key" not in values:
                values["key"] = "value".upper()
            return values["key"]

        assert benchmark(get) == "VALUE"


def test_floor_own_dict(benchmark: BenchmarkFixture) -> None:
    values = {"key": "VALUE"}
    assert benchmark(lambda: values["key"]) == "VALUE"
