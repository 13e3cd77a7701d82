"""The jobs of test_counter.py, apart from it: workers need not import pytest."""

import os
from dataclasses import dataclass
from typing import Any

from probe import Probe, kill_self
from signs import Signs, wait_until
from under_test import sharing


@dataclass
class State:
    before: Probe
    lines: sharing.Counter
    kinds: sharing.Counter
    after: Probe


def fresh_state() -> State:
    return State(Probe(), sharing.Counter(), sharing.Counter(labels=("even", "odd")), Probe())


def tally(item: int, state: State) -> int:
    """Count the item, and its kind."""
    state.lines.add()
    state.kinds.add(1, "odd" if item % 2 else "even")
    return item


def add_with_the_other(signs: Signs, state: State) -> None:
    """Begin when both workers are there, and add as often as that takes a while."""
    signs.note("there", os.getpid())
    wait_until(lambda: len(signs.notes("there")) == 2)
    add = state.lines.add
    for _ in range(50_000):
        add()


def subtract(n: int, state: State) -> None:
    state.lines.add(-n)


def add_and_raise(item: int, state: State) -> None:
    state.lines.add(item)
    raise ValueError(item)


def add_and_wait(signs: Signs, state: State) -> None:
    state.lines.add(3)
    state.kinds.add(4, "odd")
    signs.give("added")
    signs.wait("seen")


def tally_and_note(item: tuple[Signs, int], state: State) -> int:
    signs, number = item
    signs.note("ran")
    return tally(number, state)


def show(state: State) -> int:
    """Have what this worker has added seen by all, which else takes a moment."""
    return state.lines.value + state.kinds.value


def tally_but_die_once(item: tuple[Signs, int], state: State) -> int:
    """Die in the middle of item 13, having counted it."""
    signs, number = item
    tally(number, state)
    if number == 13 and signs.first("killed"):
        show(state)
        kill_self()
    return number


def tally_and_arm(item: tuple[Signs, int, str], state: State) -> int:
    """Have the worker die, once, when item 13 and its chunk have ended."""
    signs, number, where = item
    tally(number, state)
    if number == 13 and signs.first(f"killed {where}"):
        show(state)
        field, _, moment = where.partition(":")
        getattr(state, field).die_at = moment
    return number


def tally_and_kill_always(item: int, state: State) -> int:
    tally(item, state)
    if item == 13:
        kill_self()
    return item


def tally_in_steps(item: int, state: State) -> tuple[int, int]:
    """Count in a thousand steps, to be killed among them."""
    for _ in range(1_000):
        tally(item, state)
    return item, os.getpid()


def add_and_die(item: int, state: State) -> None:
    state.lines.add(item)
    show(state)
    kill_self()


def add_much(n: int, state: State) -> None:
    state.lines.add(n)


def add_what_it_is(item: Any, state: State) -> None:
    """Add the item itself, whatever it is; and count that it was here."""
    state.kinds.add(1, "even")
    state.lines.add(item)


def tally_but_break_the_first(item: int, state: State) -> None:
    """Count the item twice, and have one count of the first be what can't be kept."""
    state.kinds.add(1, "even")
    state.lines.add(1 if item else 0.5)  # type: ignore[arg-type]


def give_counter(item: int, state: State) -> sharing.Counter:
    return state.lines
