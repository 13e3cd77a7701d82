"""What the parent and a worker say to each other: types at both ends, tuples on the wire."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..chunks import ChunkId
from ..failure import Failure


class Order(NamedTuple):
    """To a worker: a chunk. The body of its frame has the items; see `desk.Task`."""

    chunk: ChunkId
    run: int
    first: int
    timed: bool
    left: dict[int, int]
    start: int
    stop: int
    apart: bool
    careful: bool
    job: bytes | None  # unless the worker has that of the map already


class End(NamedTuple):
    """To a worker: no more chunks will come."""


class Up(NamedTuple):
    """From a worker: it is ready for chunks."""


class Failed(NamedTuple):
    """From a worker: it can't become ready."""

    failure: Failure


class Done(NamedTuple):
    """From a worker: what came of a chunk, as `desk.Answer` has it, whose body is the frame's."""

    chunk: ChunkId
    ended: int
    elapsed: float
    deltas: dict[int, Any]
    refused: Failure | None
    apart: bool


class Gave(NamedTuple):
    """From a worker: of this chunk it keeps so many items."""

    chunk: ChunkId
    kept: int


class Unread(NamedTuple):
    """From a worker: it can't unpickle the items of this chunk, or its job."""

    chunk: ChunkId
    failure: Failure


class Record(NamedTuple):
    """From a worker: a record of the log, pickled, is the body."""


Message = Order | End | Up | Failed | Done | Gave | Unread | Record

KINDS: tuple[type[Message], ...] = (Order, End, Up, Failed, Done, Gave, Unread, Record)
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


def to_wire(message: Message) -> tuple[Any, ...]:
    """As it is pickled: its kind as a number, and its fields."""
    return _NUMBERS[type(message)], *message


def from_wire(number: int, *fields: Any) -> Message:
    """The message that was sent."""
    return KINDS[number](*fields)
