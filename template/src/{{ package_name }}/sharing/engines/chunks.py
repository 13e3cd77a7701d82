"""Chunks: items that travel together, how far a worker is in one, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, NewType

from .failure import Failure

if TYPE_CHECKING:
    from .runs import Run

ChunkId = NewType("ChunkId", int)
"""The number of a chunk on its way to one worker: a chunk that is sent again has another one."""

NO_CHUNK = ChunkId(0)

made = tuple.__new__
"""Makes a named tuple of its fields in a third of the time that its class takes, which does so by a
function in Python. For those that each chunk has: events, commands, messages."""


class Phase(IntEnum):
    """How far a worker is in a chunk."""

    UNBEGUN = 0
    READING = 1  # unpickles its items
    RUNNING = 2  # an item, from its unpickling, where that travels apart, to its result
    PACKING = 3  # all have returned: it pickles the results
    SENDING = 4  # the answer is on its way
    UNKNOWN = 5  # of a worker whose memory nobody sees


class Place(NamedTuple):
    """Where in a chunk a worker is, or was when it died.

    Attributes:
        phase: see `Phase`.
        item: the place of the item that runs, when one does; else how many have returned.
    """

    phase: Phase
    item: int = 0


UNBEGUN = Place(Phase.UNBEGUN)
UNKNOWN = Place(Phase.UNKNOWN)


class Packed(NamedTuple):
    """Items as they travel. A part of a chunk travels as the whole, of which it is a slice.

    Attributes:
        body: the pickle of a list of items, or of a list of their pickles.
        length: how many items the list has.
        apart: whether each item has a pickle of its own.
    """

    body: bytes
    length: int
    apart: bool = False


@dataclass(slots=True, eq=False)
class Chunk:
    """Consecutive items of a map.

    Attributes:
        run: the map.
        first: the number of its first item in the map.
        items: as they were read.
        packed: the list that they travel in.
        start: where they begin in that list.
        died: how often a worker died over its item, when it has only one.
        unexplained: how often a worker died with it that no item can be blamed for.
        ended: whether its items have had an attempt that ended, whose answer was lost.
        left: what an attempt has left behind, by the place of the pattern in the state.
        suspect: whether it may be what ended several workers, so that it has to run alone.
        nbytes: the bytes that its items have, about, if those of its list are alike.
    """

    run: Run
    first: int
    items: list[object]
    packed: Packed
    start: int = 0
    died: int = 0
    unexplained: int = 0
    ended: bool = False
    left: dict[int, int] = field(default_factory=dict)
    suspect: bool = False
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        # Kept, since it is asked for several times on the way of each chunk.
        self.nbytes = len(self.packed.body) * len(self.items) // self.packed.length

    def __lt__(self, other: Chunk) -> bool:
        return self.first < other.first

    def __len__(self) -> int:
        return len(self.items)

    @property
    def stop(self) -> int:
        """Where its items end in the list that they travel in."""
        return self.start + len(self.items)

    @property
    def stands_alone(self) -> bool:
        """Whether nothing but its only item can be to blame for what its unpickling does."""
        return len(self.items) == 1 and (self.packed.apart or self.packed.length == 1)

    def part(self, start: int, stop: int, *, ended: bool = False) -> Chunk:
        """Some of its items. What is known of its only item goes along with that."""
        is_all = start == 0 and stop >= len(self.items)
        return Chunk(
            self.run,
            self.first + start,
            self.items[start:stop],
            self.packed,
            self.start + start,
            died=self.died if is_all else 0,
            unexplained=self.unexplained,
            left=self.left if is_all else {},
            ended=ended or self.ended,
            suspect=self.suspect,
        )

    def parts(self, pieces: int, *, ended: bool = False) -> list[Chunk]:
        """All of its items, in that many parts, or in as many as there are items."""
        step = max(1, -(-len(self.items) // pieces))
        starts = range(0, len(self.items), step)
        return [self.part(start, start + step, ended=ended) for start in starts]

    def cut(self, length: int) -> Chunk:
        """Keep that many items, and return the others."""
        others = self.part(length, len(self.items))
        del self.items[length:]
        self.nbytes -= others.nbytes
        return others

    def again(self, **changes: Any) -> Chunk:
        """The same with other values for some of its attributes."""
        return replace(self, **changes)


class Why(NamedTuple):
    """Why an item has no value, before it is an exception.

    Attributes:
        kind: the name of the exception's class in `errors`.
        failure: what it says.
    """

    kind: str
    failure: Failure


@dataclass(slots=True, eq=False)
class Piece:
    """What came of consecutive items.

    Attributes:
        first: the number of the first one in the map.
        items: as they were read.
        nbytes: of both, pickled, about.
        body: the pickle of their results and failures; None where a failure is all there is.
        apart: whether each of the results has a pickle of its own in that.
        failures: of the items that have no result, by their places, what is known besides.
    """

    first: int
    items: Sequence[object]
    nbytes: int = 0
    body: bytes | memoryview | None = None
    apart: bool = False
    failures: dict[int, Why] = field(default_factory=dict)
