"""The jobs of test_cache.py, apart from it: workers need not import pytest."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from probe import Probe, kill_self
from signs import Signs, wait_until
from under_test import sharing


@dataclass
class State:
    """What the workers share."""

    probe: Probe
    results: sharing.Cache
    small: sharing.Cache
    brief: sharing.Cache


def fresh_state() -> State:
    """A state like that of the engine, for a test of its own."""
    results = sharing.Cache(max_entries=1000)
    return State(Probe(), results, sharing.Cache(max_entries=3), sharing.Cache(ttl=0.2))


@dataclass(frozen=True)
class Task:
    """An item: a key, and signs."""

    signs: Signs
    key: Any = "key"
    number: int = 0


def meet(signs: Signs) -> None:
    """Wait until both workers are here."""
    signs.note("there", os.getpid())
    wait_until(lambda: len(signs.notes("there")) == 2)


def get_all(signs: Signs, state: State) -> list[tuple[str, int]]:
    """Want a hundred keys, together with the other worker.

    The first ones take until the other wants them, too.
    """

    def compute(number: int) -> tuple[str, int]:
        signs.note("computed", number)
        if number < 20:
            wait_until(lambda: len(signs.notes(f"at {number}")) == 2)
        return f"value {number}", number

    def get(number: int) -> tuple[str, int]:
        signs.note(f"at {number}")
        return state.results.get_or_compute(("all", number), partial(compute, number))

    return [get(number) for number in range(100)]


def compute_and_wait(task: Task, state: State) -> object:
    """Compute, while the other asks for the same."""

    def compute() -> object:
        task.signs.note("computing", os.getpid())
        task.signs.wait("go on")
        return task.key

    if not task.signs.first("first"):
        task.signs.wait("computing")
        task.signs.give("go on")
    return state.results.get_or_compute(task.key, compute)


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
        return state.results.get_or_compute(task.key, compute_and_die)
    task.signs.wait("computing")
    task.signs.give("waiting")
    return state.results.get_or_compute(task.key, compute)


def compute_or_raise(task: Task, state: State) -> str:
    """Of two, one raises computing while the other waits for it."""

    def compute_and_raise() -> str:
        task.signs.give("computing")
        task.signs.wait("waiting")
        raise LookupError("not to be had")

    if task.signs.first("raises"):
        return state.results.get_or_compute(task.key, compute_and_raise)
    task.signs.wait("computing")
    task.signs.give("waiting")
    return state.results.get_or_compute(task.key, lambda: "from the next")


def need_oneself(key: str, state: State) -> str:
    """Compute a value that needs itself."""

    def compute() -> str:
        return state.results.get_or_compute(key, compute)

    return state.results.get_or_compute(key, compute)


def need_each_other(task: Task, state: State) -> str:
    """Of two, each computes a value that needs the one that the other computes."""

    def compute() -> str:
        meet(task.signs)
        other = ("loop", 1 - task.number)
        return state.results.get_or_compute(other, lambda: "nobody computes it twice")

    return state.results.get_or_compute(("loop", task.number), compute)


def compute_once(task: Task, state: State) -> object:
    """Note each computation of a key; the value is None."""
    return state.results.get_or_compute(task.key, lambda: task.signs.note("computed", task.key))


def in_turns(task: Task, state: State) -> list[Any]:
    """Of two, one changes the values and the other says what it sees after each change."""
    cache, signs, key = state.results, task.signs, task.key
    changes = [
        lambda: cache.put(key, "put"),
        lambda: cache.put(key, "put over"),
        lambda: cache.invalidate(key),
        lambda: cache.put(key, "again"),
        cache.clear,
    ]
    seen = []
    if signs.first("changes"):
        for turn, change in enumerate(changes):
            change()
            signs.give(f"changed {turn}")
            signs.wait(f"seen {turn}")
        return []
    for turn in range(len(changes)):
        signs.wait(f"changed {turn}")
        seen.append((cache.get(key, "none"), cache.get_many([key, key]), cache.get(key, "none")))
        signs.give(f"seen {turn}")
    return seen


def put_all(items: dict[Any, Any], state: State) -> None:
    for key, value in items.items():
        state.small.put(key, value)


def get_small(keys: list[Any], state: State) -> dict[Any, Any]:
    return state.small.get_many(keys)


def put_unpicklable(item: int, state: State) -> None:
    state.results.put("bad", lambda: None)


def compute_unpicklable(item: int, state: State) -> list[int]:
    """A value that can't be kept is computed by everybody for himself."""

    def compute() -> Callable[[], int]:
        return lambda: item

    return [state.results.get_or_compute("own", compute)() for _ in range(2)]


def in_threads(signs: Signs, state: State) -> list[int]:
    """Ask in four threads at once."""
    found: list[int] = []

    def compute(number: int) -> int:
        signs.note("computed")
        return number

    def ask() -> None:
        for number in range(30):
            key = "thread", number
            found.append(state.results.get_or_compute(key, partial(compute, number)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


def nothing(item: int, state: State) -> None:
    """Let the engine look after itself."""


def compute_brief(task: Task, state: State) -> int:
    return state.brief.get_or_compute(task.key, lambda: task.number)


def compute_and_invalidate(key: str, state: State) -> list[str]:
    """Have the key forgotten while it is computed: that value is not kept."""

    def compute() -> str:
        state.results.invalidate(key)
        return "outdated"

    return [
        state.results.get_or_compute(key, compute),
        state.results.get_or_compute(key, lambda: "fresh"),
    ]
