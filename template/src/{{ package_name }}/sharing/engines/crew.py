"""What an engine offers to the scheduler: workers that start, are reached, and end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ..patterns.base import Pattern
from .chunks import Chunk, ChunkId, Place
from .events import Answered, GaveBack, Ready, Unreadable
from .runs import Settings


class Died(NamedTuple):
    """A worker is gone.

    Attributes:
        slot: its slot.
        place: where in its chunk it was.
        how: in words, such as "by SIGKILL".
        in_company: whether it may have been another worker's chunk that ended it.
    """

    slot: int
    place: Place
    how: str
    in_company: bool = False


class Logged(NamedTuple):
    """A worker has logged something: the pickled record."""

    record: bytes | memoryview


CrewEvent = Ready | Answered | GaveBack | Unreadable | Died | Logged


class Sighting(NamedTuple):
    """Where a worker is just now, and since when, in ns of the monotonic clock."""

    place: Place
    since: int


class Crew(Protocol):
    """The workers of an engine. All but `wake` is called by one thread at a time.

    What it raises breaks the engine, and is what its users are told.
    """

    @property
    def workers(self) -> int:
        """How many there are to be, when it has opened."""

    @property
    def eager(self) -> int:
        """How many of them start before there is work for them."""

    def open(self, patterns: list[Pattern]) -> None:
        """Open the patterns on a host, and make ready to start workers.

        Raises:
            SharingError: something is not to be had that is needed.
        """

    def start(self, slot: int) -> None:
        """Have a worker start in a slot; `Ready` or `Died` says when it has."""

    def send(self, slot: int, chunk_id: ChunkId, chunk: Chunk) -> None:
        """Send a chunk to a worker that is ready, and has none."""

    def stop(self, slot: int) -> None:
        """Have a worker begin no further item of its chunk, where that can be said."""

    def kill(self, slot: int) -> None:
        """End the worker in a slot now; `Died` says when it has."""

    def poll(self, timeout: float) -> Iterable[CrewEvent]:
        """What has happened, after so many seconds at most, or as soon as it is woken."""

    def wake(self) -> None:
        """Have a `poll` that waits return. Called by any thread, and by handlers of signals."""

    def sight(self, slot: int, chunk_id: ChunkId) -> Sighting:
        """Where the worker in a slot is in a chunk that was sent to it."""

    def adapt(self, settings: Settings) -> Settings:
        """The settings of a map as they can be kept here.

        Raises:
            SharingError: one of them can't.
        """

    def dumps(self, value: object) -> bytes:
        """Pickle an item or a job, in any thread."""

    def end(self, *, politely: bool) -> Iterable[CrewEvent]:
        """End the workers: politely those that wait for work, the others at once.

        Returns:
            What they had to say before.
        """

    def close(self) -> None:
        """Clean up all that is left of what `open` has made, however far it came."""

    def forsake(self) -> None:
        """Called when the interpreter ends and nobody has closed the engine."""
