"""What a storm is put together from: see storm.py, and the `*_storm.py` beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probe import Step


@dataclass(frozen=True)
class Wrong:
    """What should not have come of a storm: "lost", "doubled" or "torn", and what."""

    kind: str
    what: str


def compare(what: str, found: int, expected: int) -> Iterator[Wrong]:
    """Find a count wrong that is too small or too large."""
    if found != expected:
        kind = "lost" if found < expected else "doubled"
        yield Wrong(kind, f"{what}: {found} where {expected} were expected")


class Part:
    """The part of one pattern. All hooks are optional.

    Attributes:
        share: a dataclass whose fields join the state.
        points: where an item can be told to die, by name.
    """

    share: type
    points: tuple[str, ...] = ()

    def work(self, step: Step, state: Any) -> None:
        """In a worker: what an item does."""

    def beside(self, engine: Any, step: Step) -> None:
        """In the parent: another map, each time after that of the items."""

    def look(self, state: Any, items: int, maps: int) -> Iterator[Wrong]:
        """In the parent, when the items below this number have ended, in so many maps."""
        return iter(())
