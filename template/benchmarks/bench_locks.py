"""One section that changes two numbers, by one process that nobody disturbs."""

import multiprocessing
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .subject import sharing

pytestmark = pytest.mark.benchmark(group="one section")


@dataclass
class State:
    lock: sharing.Lock
    balances: sharing.Guarded


def section(lock: AbstractContextManager[Any], balances: list[int]) -> None:
    with lock:
        balances[0] -= 1
        balances[1] += 1


def test_lock(benchmark: BenchmarkFixture) -> None:
    state = State(sharing.Lock(), sharing.Guarded("q", [0] * 64))
    with sharing.open_engine(state, workers=1) as engine:
        benchmark(section, engine.state.lock, [0, 0])


def test_guarded(benchmark: BenchmarkFixture) -> None:
    def transfer() -> None:
        with engine.state.balances as balances:
            balances[0] -= 1
            balances[1] += 1

    state = State(sharing.Lock(), sharing.Guarded("q", [0] * 64))
    with sharing.open_engine(state, workers=1) as engine:
        benchmark(transfer)


def test_copied_manager_lock(benchmark: BenchmarkFixture) -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        benchmark(section, manager.Lock(), [0, 0])


def test_floor_rlock(benchmark: BenchmarkFixture) -> None:
    benchmark(section, multiprocessing.get_context("spawn").RLock(), [0, 0])
