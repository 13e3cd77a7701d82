"""What the parent and a worker say to each other: types at both ends, tuples on the wire.

A worker gets a `Task`, whose items are the body of the frame, and at last an `End`; the others are
what it says itself.
"""

from __future__ import annotations

from typing import NamedTuple

from ..chunks import ChunkId, made
from ..desk import Task
from ..failure import Failure


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
    deltas: dict[int, object]
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


Message = Task | End | Up | Failed | Done | Gave | Unread | Record

KINDS: tuple[type[Message], ...] = (Task, End, Up, Failed, Done, Gave, Unread, Record)
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


def to_wire(message: Message) -> tuple[object, ...]:
    """As it is pickled: its kind as a number, and its fields."""
    return _NUMBERS[type(message)], *message


def from_wire(number: int, *fields: object) -> Message:
    """The message that was sent."""
    return made(KINDS[number], fields)
