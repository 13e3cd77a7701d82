"""A map while it runs, as the scheduler sees it: what is to be handed out, and what has come back.

source ─▶ fresh ─┐                              ┌─▶ shelf ─▶ its reader
                 ├─▶ a worker (`out` of them) ──┤
        waiting ─┘ ▲                            │
                   └── again: of a dead worker, ┘ or given back by a slow one
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from .chunks import Chunk, Piece
from .lifecycles import RUN, RunState

CHUNK_BYTES = 1 << 22
"""Bytes that a chunk, and its results, are meant to stay below."""

WINDOW = 16
"""Chunks a worker that may be handed out, or wait for their turn, before their reader reads."""

WINDOW_BYTES = 1 << 26
"""Bytes that may be read ahead, as items or as results."""


SMALL = 1 << 14
"""Bytes of a chunk below which to ask for it takes as long as to bring it."""


class Sizes(NamedTuple):
    """How large chunks are made, where nobody says so.

    Attributes:
        items: that one has at most, since whoever looks at their results does nothing else.
        seconds: that one is meant to take: many times what its way to the worker takes.
        least: the share of these seconds that a chunk is given at least, when the last items of
            a source are shared out. A smaller one would take longer for its way than for itself.
        growth: how many times as large as the one before a chunk may be.
    """

    items: int
    seconds: float
    least: float
    growth: int


class Settings(NamedTuple):
    """How a map was asked for.

    Attributes:
        name: of its job, for messages.
        ordered: whether results come in the order of the items.
        chunk_size: the items of a chunk; None where they are to be measured.
        retries: how often an item is tried again whose worker died.
        timeout: seconds that an item may take.
        length: how many items there are, where that is known.
    """

    name: str
    ordered: bool = True
    chunk_size: int | None = None
    retries: int = 2
    timeout: float | None = None
    length: int | None = None


class Sizer:
    """How many items the next chunk of a map has, from how long those before took.

    Attributes:
        size: of the next one, while there are enough items.
        largest: that there was.
        learns: whether sizes are measured.
        settled: whether it has stopped growing, so that chunks can be made ready ahead.
    """

    def __init__(self, settings: Settings, workers: int, sizes: Sizes) -> None:
        self._fixed = settings.chunk_size
        self._length = settings.length
        self._workers = workers
        self._sizes = sizes
        self.size = self.largest = settings.chunk_size or 1
        self.learns = settings.chunk_size is None
        self.settled = not self.learns
        self._smallest = 1
        self._item_time: float | None = None
        self._sampled = 0

    def next_size(self, read: int) -> int:
        """The items of the next chunk, when so many of the source have been read."""
        if self._fixed is not None:
            return self._fixed
        if self._length is None:
            return self.size
        share = (self._length - read) // (2 * self._workers)  # the last ones are shared out
        return min(self.size, max(self._smallest, share))

    def learn(self, ended: int, elapsed: float, nbytes: int) -> None:
        """A chunk has ended so many items in so many seconds, with so many bytes there and back."""
        now = elapsed / ended
        # Fewer items than before may be other ones; more of them say it better than those did.
        if self._item_time is None or ended > self._sampled:
            self._item_time = now
        else:
            self._item_time = (self._item_time + now) / 2
        self._sampled = ended
        in_time = self._sizes.seconds / max(self._item_time, 1e-9)
        fits = min(in_time, self._sizes.items, CHUNK_BYTES * ended / max(nbytes, 1))
        grown = self._sizes.growth * self.size
        self.settled = fits <= grown
        self.size = max(1, min(int(fits), grown))
        self._smallest = max(1, min(self.size, int(in_time * self._sizes.least)))
        self.largest = max(self.largest, self.size)


class Shelf:
    """Where results wait for their turn.

    Attributes:
        turn: the number of the item whose results are passed on next, where they are in order.
        waiting: pieces whose turn has not come, by the numbers of their first items.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self.turn = 0
        self.waiting: dict[int, Piece] = {}

    def put(self, piece: Piece) -> list[Piece]:
        """Keep it, and take out all whose turn has come."""
        if not self._ordered:
            return [piece]
        if piece.first != self.turn:
            self.waiting[piece.first] = piece
            return []
        ready = [piece]
        self.turn += len(piece.items)
        while self.waiting and (following := self.waiting.pop(self.turn, None)) is not None:
            ready.append(following)
            self.turn += len(following.items)
        return ready


@dataclass(slots=True, eq=False)
class Run:
    """One map.

    Attributes:
        number: greater than that of any map before.
        settings: how it was asked for.
        job: the pickled function.
        sizer: says how large chunks are.
        shelf: has results whose turn has not come.
        state: see `RunState`.
        waiting: a heap of chunks to be sent again, which were sent before.
        fresh: chunks of the source that were never sent.
        fetching: how many chunks the source was asked for and has not brought.
        asked: how many items these were to have.
        repacking: chunks whose items are being pickled one by one, to be sent again.
        out: how many chunks workers have.
        read: how many items the source has brought.
        delivered: how many of them have gone to the reader, as results or failures.
        passed: how many of these the reader has gone through.
        dropped: how many nobody waits for any more.
        brought: bytes of the chunk that was brought last.
        ahead: bytes of the items that are fresh.
        held: bytes of results, and of their items, that the reader has not gone through.
        expected: bytes of the items that workers have, and of the results that these will have.
        reply: bytes that an item's result has, by what has come so far.
        careful: whether a worker has died with it, so that each result is pickled by itself.
        is_held_up: whether more would be read or sent if its reader had gone further.
        error: what the source has raised, to be raised when all before it has been passed on.
        unread: the names of fields of the state that the job does not look at.
    """

    number: int
    settings: Settings
    job: bytes
    sizer: Sizer
    shelf: Shelf
    unread: frozenset[str] = frozenset()
    state: RunState = RunState.OPEN
    waiting: list[Chunk] = field(default_factory=list)
    fresh: deque[Chunk] = field(default_factory=deque)
    fetching: int = 0
    asked: int = 0
    repacking: list[Chunk] = field(default_factory=list)
    out: int = 0
    read: int = 0
    delivered: int = 0
    passed: int = 0
    dropped: int = 0
    brought: int = 0
    ahead: int = 0
    held: int = 0
    expected: int = 0
    reply: float = 0.0
    careful: bool = False
    is_held_up: bool = False
    error: BaseException | None = None

    @property
    def name(self) -> str:
        """Of its job."""
        return self.settings.name

    @property
    def retries(self) -> int:
        """How often an item is tried again."""
        return self.settings.retries

    @property
    def timeout(self) -> float | None:
        """Seconds that an item may take."""
        return self.settings.timeout

    def move(self, name: str) -> None:
        """Go on in its lifecycle."""
        self.state = RUN[self.state, name]

    def put_back(self, chunk: Chunk) -> None:
        """A chunk that was sent is to be sent again, unless nobody waits for it any more.

        What had ended runs again all the same, since its counts have not arrived.
        """
        if chunk.ended or self.state is not RunState.LEFT:
            heapq.heappush(self.waiting, chunk)
        else:
            self.dropped += len(chunk)

    def room(self, workers: int) -> int:
        """How many items may still be read ahead of the reader, by their number."""
        return WINDOW * workers * self.sizer.largest - (self.read + self.asked - self.passed)

    def may_read(self, workers: int) -> bool:
        """Whether more of the source may be read."""
        if self.room(workers) <= 0:
            return False
        if self.fresh or self.fetching:
            coming = self.fetching * self.brought
            return coming + self.ahead + self.held + self.expected < WINDOW_BYTES
        return True

    def may_send(self) -> bool:
        """Whether a fresh chunk may be sent: not while too much waits for the reader.

        Where nothing waits, each worker may have one, however large its results will be.
        """
        if not self.held:
            return True
        return self.held + self.expected + self.cost(self.fresh[0]) < WINDOW_BYTES

    def cost(self, chunk: Chunk) -> int:
        """Bytes of its items, and of the results that these will have by what has come so far."""
        return chunk.nbytes + int(self.reply * len(chunk.items))

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way any more."""
        if self.waiting or self.repacking or self.out:
            return False
        if self.state is RunState.LEFT:
            return True
        return self.state is RunState.DRAINING and not (self.fresh or self.fetching)
