"""What a storm is put together from: see storm.py, and the `*_storm.py` beside it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from probe import Step


@dataclass(frozen=True)
class Wrong:
    """What should not have come of a storm: "lost", "doubled" or "torn", and what."""

    kind: str
    what: str


@dataclass
class Ended:
    """What has ended when a storm is looked at.

    Attributes:
        surely: the numbers of the items whose results have come.
        perhaps: those of the other items that began, of maps that were left early. Who was killed
            over one of them has cut it off, and it is not tried again.
        maps: how many maps there were beside those of the items.
    """

    surely: set[int] = field(default_factory=set)
    perhaps: set[int] = field(default_factory=set)
    maps: int = 0


def compare(what: str, found: int, least: int, most: int | None = None) -> Iterator[Wrong]:
    """Find a count wrong that is too small or too large."""
    most = least if most is None else most
    if not least <= found <= most:
        kind = "lost" if found < least else "doubled"
        expected = f"{least}" if least == most else f"{least} to {most}"
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
        """In the parent: another map, one at a time, beside those of the items."""

    def look(self, state: Any, ended: Ended) -> Iterator[Wrong]:
        """In the parent, while nothing runs."""
        return iter(())
