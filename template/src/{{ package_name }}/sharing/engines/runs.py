"""Maps while they run: chunks of items on their way out, results on their way back."""

from __future__ import annotations

import heapq
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import JobFailed, SharingError, brief

T = TypeVar("T")

_CHUNK_BYTES = 1 << 22
"""Bytes that a chunk is meant to stay below."""

_WINDOW = 16
"""Chunks a worker that may be handed out, or wait for their turn, before their reader reads."""

_SLOW_SOURCE = 0.02
"""Seconds to wait for an item by which a source is known as a trickle."""


class Sizes(NamedTuple):
    """How large chunks are made, where nobody says so.

    Attributes:
        items: that one has at most: while the parent looks at their results, it serves nobody.
        seconds: that one is meant to take: many times what its way takes.
        least: the part of these below which its way would outweigh it, even at the end.
        growth: how many times as large as the one before a chunk may be.
    """

    items: int
    seconds: float
    least: float
    growth: int


@dataclass(slots=True)
class Chunk:
    """Items that travel together.

    Attributes:
        first: the number of its first item in the map.
        died: how many workers have died on it, when it has one item.
        ended: whether its items had ended in an attempt that died before it could say so.
        left: what an attempt left behind, by the place of the pattern, when it has one item.
        packed: its items, pickled, from when that is done until they are sent.
        nbytes: of its items, pickled.
        suspect: whether it may be what has ended several workers, and so has to run alone.
    """

    run: Run[Any]
    first: int
    items: list[Any]
    died: int = 0
    ended: bool = False
    left: dict[int, int] = field(default_factory=dict)
    packed: bytes | None = None
    nbytes: int = 0
    suspect: bool = False

    def __lt__(self, other: Chunk) -> bool:
        return self.first < other.first

    def part(self, start: int, stop: int, *, ended: bool = False) -> Chunk:
        """Some of its items; who died on all of them is not held against these."""
        ended = ended or self.ended
        items = self.items[start:stop]
        return Chunk(self.run, self.first + start, items, ended=ended, suspect=self.suspect)

    def cut(self, length: int) -> Chunk:
        """Keep that many items, and return the others."""
        others = self.part(length, len(self.items))
        self.nbytes = self.nbytes * length // len(self.items)
        del self.items[length:]
        return others


@dataclass(slots=True)
class Piece:
    """Results of consecutive items."""

    items: list[Any]
    results: list[Any]
    failures: dict[int, JobFailed]


class Run(Generic[T]):
    """One map: its source, and how far it is."""

    def __init__(
        self,
        number: int,
        workers: int,
        fn: Callable[..., Any],
        items: Iterable[T],
        ordered: bool,
        chunk_size: int | None,
        retries: int,
        timeout: float | None,
        sizes: Sizes,
    ) -> None:
        self.number = number
        self.workers = workers
        self.name = _name_of(fn)
        self.fn = fn
        self.job = _pickled(fn)
        self.source = iter(items)
        self.length = len(items) if isinstance(items, Sized) else None
        self.ordered = ordered
        self.fixed = chunk_size
        self.retries = retries
        self.timeout = timeout
        self.sizes = sizes
        self.size = self.largest = chunk_size or 1
        self.smallest = 1
        self.item_time: float | None = None
        self.sampled = 0
        self.read = self.turn = self.yielded = 0
        self.exhausted = self.abandoned = False
        self.trickles = 0.0
        self.settled = chunk_size is not None
        self.waiting: list[Chunk] = []
        self.ahead: Chunk | None = None
        self.running = 0
        self.done: dict[int, Piece] = {}
        self.ready: deque[Piece] = deque()

    def put_back(self, chunk: Chunk) -> None:
        """Items to be handed out (again), unless nobody waits for them any more.

        What has ended must run again all the same: its counts have not arrived.
        """
        if chunk.items and (chunk.ended or not self.abandoned):
            heapq.heappush(self.waiting, chunk)

    def next_chunk(self) -> Chunk | None:
        """What to hand out next, from what came back, or else from the source."""
        if self.waiting:
            return heapq.heappop(self.waiting)
        chunk, self.ahead = self.ahead, None
        return chunk or self._read()

    def look_ahead(self) -> Chunk | None:
        """The chunk to make ready for whoever is idle next, if it is not yet.

        None while that would slow down a source, or the growth of chunks.
        """
        if self.ahead is None and self.settled and not (self.waiting or self.trickles):
            self.ahead = self._read()
        return self.ahead

    def _read(self) -> Chunk | None:
        window = _WINDOW * self.workers * self.largest
        if self.exhausted or self.read - self.yielded >= window:
            return None
        begun = time.monotonic()
        size = self._size_now()
        if self.length is not None:
            items = list(islice(self.source, size))
            self.exhausted = len(items) < size
        else:
            items = self._trickle(size, begun)
        if not items:
            return None
        chunk = Chunk(self, self.read, items)
        self.read += len(items)
        return chunk

    def _size_now(self) -> int:
        if self.fixed is not None:
            return self.fixed
        if self.trickles:
            return 1
        if self.length is not None:  # what is left at the end is shared out
            share = (self.length - self.read) // (2 * self.workers)
            return min(self.size, max(self.smallest, share))
        return self.size

    def _trickle(self, size: int, before: float) -> list[T]:
        """Up to that many items; fewer from a source that lets one wait."""
        items: list[T] = []
        clock = time.monotonic
        for item in self.source:
            items.append(item)
            now = clock()
            if now - before > _SLOW_SOURCE:
                self.trickles = now - before
                return items
            before = now
            if len(items) >= size:
                self.trickles = 0.0
                return items
        self.exhausted = True
        return items

    def learn(self, ended: int, elapsed: float, nbytes: int) -> None:
        """Size the next chunks by how long this one took."""
        if not ended or self.fixed is not None:
            return
        now = elapsed / ended
        # Fewer items than before may be other ones; more of them say it better than those did.
        if self.item_time is None or ended > self.sampled:
            self.item_time = now
        else:
            self.item_time = (self.item_time + now) / 2
        self.sampled = ended
        in_time = self.sizes.seconds / max(self.item_time, 1e-9)
        fits = min(in_time, self.sizes.items, _CHUNK_BYTES * ended / max(nbytes, 1))
        grown = self.sizes.growth * self.size
        self.settled = fits <= grown
        self.size = max(1, min(int(fits), grown))
        self.smallest = max(1, min(self.size, int(in_time * self.sizes.least)))
        self.largest = max(self.largest, self.size)

    def take(self, first: int, piece: Piece) -> None:
        """Results have come; they wait for their turn."""
        self.done[first] = piece
        if not self.ordered:
            self.ready.append(self.done.pop(first))
            return
        while (piece_next := self.done.pop(self.turn, None)) is not None:
            self.ready.append(piece_next)
            self.turn += len(piece_next.results)

    @property
    def finished(self) -> bool:
        left = self.waiting or self.ahead or self.running or self.ready
        return self.exhausted and not left


def _name_of(fn: Callable[..., Any]) -> str:
    """What to call a job in messages."""
    if isinstance(fn, partial):
        return _name_of(fn.func)
    return str(getattr(fn, "__name__", brief(fn)))


def _pickled(fn: Callable[..., Any]) -> bytes:
    if not callable(fn):
        raise SharingError(f"a job must be a function, not {brief(fn)}")
    try:
        return pickle.dumps(fn, protocol=5)
    except Exception as error:
        name = getattr(fn, "__qualname__", brief(fn))
        raise SharingError(
            f"the job {name} can't be pickled, so no worker can be given it: define it with "
            f"def at the top level of a module ({' '.join(str(error).split())})"
        ) from None
