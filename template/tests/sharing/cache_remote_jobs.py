"""The jobs of test_cache_remote.py, apart from it: workers need not import pytest."""

from dataclasses import dataclass
from functools import partial

from probe import kill_self
from remote_jobs import Task
from signs import wait_until
from under_test import sharing


@dataclass
class State:
    """What the workers share."""

    results: sharing.Cache


def get_all(task: Task, state: State) -> list[str]:
    """Want a hundred keys, together with the others, each of whom begins with another one.

    The first of each takes until all are here.
    """

    def compute(number: int) -> str:
        task.signs.note("computed", number)
        wait_until(lambda: len(task.signs.notes("there")) == 4)
        return f"value {number}"

    task.signs.note("there")
    numbers = [(task.number * 25 + n) % 100 for n in range(100)]
    get = state.results.get_or_compute
    found = {number: get(("all", number), partial(compute, number)) for number in numbers}
    return [found[number] for number in range(100)]


def compute_or_die(task: Task, state: State) -> str:
    """Of two, one dies computing while the other waits for it."""

    def compute_and_die() -> str:
        task.signs.give("computing")
        task.signs.wait("waiting")
        kill_self()
        return "never"

    def compute() -> str:
        task.signs.note("computed")
        return "alive"

    if task.signs.first("dies"):
        return state.results.get_or_compute("killed", compute_and_die)
    task.signs.wait("computing")
    task.signs.give("waiting")
    return state.results.get_or_compute("killed", compute)


def compute_once(task: Task, state: State) -> int:
    """Note each computation."""

    def compute() -> int:
        task.signs.note("computed", task.number)
        return task.number

    return state.results.get_or_compute(task.number, compute)


def put(task: Task, state: State) -> None:
    """Store a value of a worker's."""
    state.results.put(("put", task.number), task.number)
