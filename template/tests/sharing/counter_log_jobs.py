"""The jobs of test_counter_log.py, apart from it: workers need not import pytest."""

import os
from dataclasses import dataclass, field
from typing import Any

from probe import Probe, kill_self
from signs import Signs
from under_test import sharing


@dataclass
class State:
    before: Probe = field(default_factory=Probe)
    log: sharing.Log[Any] = field(default_factory=sharing.Log)
    after: Probe = field(default_factory=Probe)


def note(item: int, state: State) -> int:
    """Append two records for each odd item."""
    if item % 2:
        state.log.append((item, "first"))
        state.log.append((item, "second"))
    return item


def notes_of(items: range) -> list[tuple[int, str]]:
    """What `note` appends for these."""
    return [(item, which) for item in items if item % 2 for which in ("first", "second")]


def note_and_be_refused(item: int, state: State) -> int:
    """Note it; one of them has done what can't be kept."""
    if item == 13:
        state.after.refuses = True
    return note(item, state)


def append(record: Any, state: State) -> None:
    state.log.append(record)


def append_many(item: tuple[int, int, int], state: State) -> None:
    """Append so many records of that length."""
    number, count, length = item
    for turn in range(count):
        state.log.append((number, turn, bytes(length)))


def append_and_raise(item: int, state: State) -> None:
    state.log.append(item)
    raise ValueError(item)


def append_and_wait(item: tuple[Signs, int], state: State) -> int:
    """Append; the first item ends after all the others."""
    signs, number = item
    state.log.append(number)
    if number == 0:
        signs.wait("go on")
    return number


@dataclass(frozen=True)
class Late:
    """A record of that length; with signs, the first one comes after all the others."""

    signs: Signs | None
    number: int
    length: int


def append_late(item: Late, state: State) -> None:
    if item.signs is not None and item.number == 0:
        item.signs.wait("go on")
    state.log.append((item.number, bytes(item.length)))


def note_and_sign(item: tuple[Signs, int], state: State) -> int:
    signs, number = item
    signs.note("ran", number)
    state.log.append(number)
    return number


def note_but_die_once(item: tuple[Signs, int], state: State) -> int:
    """Die in the middle of item 13, between its records."""
    signs, number = item
    state.log.append((number, "first"))
    if number == 13 and signs.first("killed"):
        kill_self()
    state.log.append((number, "second"))
    return number


def note_and_arm(item: tuple[Signs, int, str], state: State) -> int:
    """Have the worker die, once, when item 13 and its chunk have ended."""
    signs, number, where = item
    note(number, state)
    if number == 13 and signs.first(f"killed {where}"):
        place, _, moment = where.partition(":")
        getattr(state, place).die_at = moment
    return number


def note_and_kill_always(item: int, state: State) -> int:
    note(item, state)
    if item == 13:
        kill_self()
    return item


def note_slowly(item: int, state: State) -> tuple[int, int]:
    """Append in many steps, to be killed among them."""
    for step in range(20):
        state.log.append((item, step))
        sum(range(2_000))
    return item, os.getpid()


class Unreadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("not to be had")


def note_and_give_unreadable(item: int, state: State) -> object:
    note(item, state)
    return Unreadable() if item == 13 else item


def read(item: str, state: State) -> object:
    return len(state.log) if item == "len" else getattr(state.log, item)
