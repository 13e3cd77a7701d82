"""The part of locks in a storm."""

import collections
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from probe import Step
from storm_part import Ended, Part, Wrong, compare
from under_test import sharing

ACCOUNTS = 8
MOMENTS = ("between lock and data", "in a section", "before the flip", "after the flip")
LARGE = 20_000
"""So many numbers that a section copies what was touched."""


@dataclass
class Share:
    """Of both, the second half is to be the negative of the first."""

    report: sharing.Lock = field(default_factory=sharing.Lock)
    accounts: sharing.Guarded = field(
        default_factory=partial(sharing.Guarded, "q", [0] * 2 * ACCOUNTS)
    )
    large: sharing.Guarded = field(default_factory=partial(sharing.Guarded, "q", [0] * 2 * LARGE))


class InLocks(Part):
    share = Share
    points = (
        "in the lock",
        *(f"{moment} of accounts" for moment in MOMENTS),
        *(f"{moment} of large" for moment in MOMENTS),
    )

    def work(self, step: Step, state: Share) -> None:
        self._report(step, state.report)
        for name, place in (
            *(("accounts", place) for place in places(step.number)),
            ("large", *place_in_large(step.number)),
        ):
            guarded: sharing.Guarded = getattr(state, name)
            half = len(guarded) // 2
            with dying(step, name, guarded), guarded as b:
                if b[place] != -b[half + place]:
                    step.signs.note("torn", f"{b[place]} and {b[half + place]} in {name}")
                b[place] += 1
                step.die_at(f"in a section of {name}")
                b[half + place] -= 1

    def _report(self, step: Step, lock: sharing.Lock) -> None:
        """Write to a file, where one at a time may be, and see that nobody else has."""
        inside = step.signs.folder / "inside"
        with lock:
            inside.write_text(str(os.getpid()))
            step.die_at("in the lock")
            step.signs.note("report", step.number)
            if inside.read_text() != str(os.getpid()):
                step.signs.note("torn", "two have held the lock")

    def look(self, state: Any, ended: Ended) -> Iterator[Wrong]:
        """Sections of an item that was cut off stand as far as it had come."""
        reported = set(map(int, state.signs.notes("report")))
        for number in sorted(ended.surely - reported):
            yield Wrong("lost", f"the report of item {number}")
        accounts, large = state.accounts.read(), state.large.read()
        for what, numbers, places_of in (
            ("account", accounts[:ACCOUNTS], places),
            ("number", large[:LARGE], place_in_large),
        ):
            least = collections.Counter(place for n in ended.surely for place in places_of(n))
            perhaps = collections.Counter(place for n in ended.perhaps for place in places_of(n))
            for place, found in enumerate(numbers):
                if found or least[place]:
                    most = least[place] + perhaps[place]
                    yield from compare(f"sections of {what} {place}", found, least[place], most)
        for name, numbers in (("accounts", accounts), ("large", large)):
            half = len(numbers) // 2
            if [-n for n in numbers[:half]] != numbers[half:].tolist():
                yield Wrong("torn", f"{name} after the map")


def places(number: int) -> tuple[int, int]:
    """The accounts of an item."""
    return number % ACCOUNTS, number * 5 % ACCOUNTS


def place_in_large(number: int) -> tuple[int]:
    return (number % LARGE,)


@contextlib.contextmanager
def dying(step: Step, name: str, guarded: sharing.Guarded) -> Iterator[None]:
    """Have a section end where no job is, if it is to."""
    begin, end = guarded._begin, guarded._end

    def die_and_begin() -> "memoryview[Any]":
        step.die_at(f"between lock and data of {name}")
        return begin()

    def end_and_die(whole: bool) -> None:
        step.die_at(f"before the flip of {name}")
        end(whole)
        step.die_at(f"after the flip of {name}")

    if step.points:
        guarded._begin, guarded._end = die_and_begin, end_and_die
    try:
        yield
    finally:
        guarded._begin, guarded._end = begin, end


PART = InLocks()
