"""The job of `test_the_next_one_is_in_at_once`."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from probe import kill_self
from signs import Signs
from under_test import sharing


@dataclass
class State:
    lock: sharing.Lock = field(default_factory=sharing.Lock)
    small: sharing.Guarded = field(default_factory=partial(sharing.Guarded, "q", [0] * 8))
    large: sharing.Guarded = field(default_factory=partial(sharing.Guarded, "q", [0] * 20_000))


@dataclass(frozen=True)
class Turn:
    """One dies in a section, and another waits for it."""

    signs: Signs
    number: int
    section: str
    dies: bool

    def name(self, event: str) -> str:
        return f"{event} {self.number}"


def hand_over(turn: Turn, state: State) -> int | None:
    """Die in the section, once; or wait for it, and return how many ns after that one is in it."""
    signs = turn.signs
    section: AbstractContextManager[Any] = getattr(state, turn.section)
    if not turn.dies:
        signs.wait(turn.name("held"))
        signs.give(turn.name("waiting"))
        with section:
            now = time.monotonic_ns()
        return now - int(signs.notes(turn.name("died"))[0])
    if signs.first(turn.name("dies")):
        with section:
            signs.give(turn.name("held"))
            signs.wait(turn.name("waiting"))
            time.sleep(0.002)  # by now it sleeps, and has to be woken
            signs.note(turn.name("died"), time.monotonic_ns())
            kill_self()
    return None
