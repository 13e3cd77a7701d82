"""The jobs of test_counter_remote.py, apart from it: workers need not import pytest."""

import os
from dataclasses import dataclass
from typing import Any

from probe import kill_self
from remote_jobs import Task
from under_test import sharing


@dataclass
class State:
    """What the workers share."""

    lines: sharing.Counter
    kinds: sharing.Counter
    log: sharing.Log[Any]


def fresh_state() -> State:
    """One that has counted nothing."""
    return State(sharing.Counter(), sharing.Counter(labels=("even", "odd")), sharing.Log())


def tally(number: int, state: State) -> int:
    """Count a number, and note it."""
    state.lines.add()
    state.kinds.add(1, "odd" if number % 2 else "even")
    state.log.append(number)
    return number


def tally_but_die_once(task: Task, state: State) -> int:
    """Be killed in the middle of items 13 and 31, which have counted by then."""
    tally(task.number, state)
    if task.number in (13, 31) and task.signs.first(f"killed {task.number}"):
        kill_self()
    return task.number


def tally_and_wait(task: Task, state: State) -> int:
    """Count, and wait to be killed from outside, the first time."""
    tally(task.number, state)
    if task.number == 7 and task.signs.first("waits"):
        task.signs.note("pid", os.getpid())
        task.signs.wait("never")
    return task.number


def tally_and_kill_always(task: Task, state: State) -> int:
    """Count, and kill each worker that has item 13."""
    tally(task.number, state)
    if task.number == 13:
        kill_self()
    return task.number


def tally_and_raise(number: int, state: State) -> int:
    """Count, and fail on odd ones."""
    tally(number, state)
    if number % 2:
        raise ValueError(number)
    return number
