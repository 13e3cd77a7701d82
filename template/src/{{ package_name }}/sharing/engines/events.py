"""What the scheduler is told, and what it has others do: the border between rules and doing.

Events come from readers, sources, workers and clocks. Commands go to the pump, which carries
them out in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .chunks import Chunk, ChunkId, Piece, Place
from .failure import Failure
from .runs import Run
from .verdict import Death

# Events


class Began(NamedTuple):
    """A reader has asked for the first value of a map."""

    run: Run


class Fetched(NamedTuple):
    """A source has brought what it was asked for, or as much as it has.

    Attributes:
        run: the map.
        size: how many items a chunk was to have.
        times: how many chunks it was asked for; 0 if it brings a part of one early.
        chunks: what it has brought.
        refused: the items among it that can't be pickled.
        ended: whether there are no more.
        error: what it has raised.
    """

    run: Run
    size: int
    times: int
    chunks: list[Chunk]
    refused: list[Piece]
    ended: bool = False
    error: BaseException | None = None


class Repacked(NamedTuple):
    """The items of a chunk have been pickled one by one, for a `Repack`."""

    chunk: Chunk
    chunks: list[Chunk]
    refused: list[Piece]


class Passed(NamedTuple):
    """The reader of a map has gone through a piece."""

    run: Run
    items: int
    nbytes: int


class Left(NamedTuple):
    """The reader of a map wants no more of it."""

    run: Run


class Ready(NamedTuple):
    """The worker in a slot can be given a chunk."""

    slot: int


class Answered(NamedTuple):
    """A worker has ended a chunk.

    Attributes:
        slot: the worker's.
        id: of the chunk.
        ended: how many of its items have ended; those behind were not begun.
        elapsed: seconds that these took, by the worker's clock.
        deltas: what rides back for the patterns, by their places in the state.
        refused: why what an item has done can't be kept, if it can't.
        apart: whether each result has a pickle of its own in the body.
        body: results and failures, pickled.
    """

    slot: int
    id: ChunkId
    ended: int
    elapsed: float
    deltas: Mapping[int, object]
    refused: Failure | None
    apart: bool
    body: bytes | memoryview


class GaveBack(NamedTuple):
    """A worker in the middle of a chunk keeps so many of its items, and begins no other."""

    slot: int
    id: ChunkId
    kept: int


class Unreadable(NamedTuple):
    """A worker could not unpickle the items of a chunk."""

    slot: int
    id: ChunkId
    failure: Failure


class Late(NamedTuple):
    """The item that runs in a slot has taken longer than it may."""

    slot: int
    id: ChunkId
    place: Place


class Gone(NamedTuple):
    """A worker has died.

    Attributes:
        slot: its slot.
        death: how it ended.
        left: what the item that it was running has left behind, by the places of the patterns.
    """

    slot: int
    death: Death
    left: dict[int, int]


class Opened(NamedTuple):
    """As many workers are ready as are waited for."""


class Closing(NamedTuple):
    """The engine is to close: nothing new begins."""


class Hurry(NamedTuple):
    """What still runs while the engine closes is to be ended; what had ended is kept."""


class Broke(NamedTuple):
    """Nothing of the engine can be relied on any more."""

    error: BaseException


Event = (
    Began
    | Fetched
    | Repacked
    | Passed
    | Left
    | Ready
    | Answered
    | GaveBack
    | Unreadable
    | Late
    | Gone
    | Opened
    | Closing
    | Hurry
    | Broke
)

# Commands


class Start(NamedTuple):
    """Have a worker start in a slot."""

    slot: int


class Send(NamedTuple):
    """Send a chunk to the worker in a slot."""

    slot: int
    id: ChunkId
    chunk: Chunk


class Stop(NamedTuple):
    """Have a worker begin no further item of its chunk, where that can be said."""

    slot: int


class Kill(NamedTuple):
    """End the worker in a slot now."""

    slot: int


class Apply(NamedTuple):
    """Give the patterns what came with results, each of them once."""

    slot: int
    deltas: Mapping[int, object]


class Undo(NamedTuple):
    """Have the patterns take back what the worker has shown of a chunk, since it is run again."""

    slot: int
    id: ChunkId


class Fetch(NamedTuple):
    """Ask the source of a map for so many chunks, each of so many items."""

    run: Run
    size: int
    times: int


class Repack(NamedTuple):
    """Pickle the items of a chunk one by one."""

    chunk: Chunk


class Deliver(NamedTuple):
    """Pass results on to the reader of a map."""

    run: Run
    pieces: list[Piece]


class Finish(NamedTuple):
    """Tell the reader of a map that nothing more comes.

    Attributes:
        run: the map.
        whole: whether all has come that there is.
    """

    run: Run
    whole: bool


class Fail(NamedTuple):
    """Tell all who use the engine that it is broken."""

    error: BaseException


class Drained(NamedTuple):
    """The engine closes, and nothing is under way any more."""


Command = (
    Start | Send | Stop | Kill | Apply | Undo | Fetch | Repack | Deliver | Finish | Fail | Drained
)
