"""Where the items of a map come from: read, packed and brought, in a thread that may wait.

Lists, tuples and ranges are read by whoever reads the map, since that never takes long. Another
iterable may block, so a thread of the map's own reads it, one item at a time:

    Fetch ─▶ orders ─▶ the thread: next(), next(), … ─▶ pack ─▶ Fetched
                                     │
                                     └─ batch ─▶ a reader that waits takes what is there so far

Nothing here runs under a lock of the engine: pickling an item is the user's code, as reading one.
"""

from __future__ import annotations

import contextvars
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice

from .chunks import Chunk, Packed, Piece, Why, made
from .events import Event, Fetched, Repacked
from .failure import describe
from .runs import SMALL, Run

SLOW = 0.02
"""Seconds to wait for an item after which what was read before is brought."""

PATIENCE = 1.0
"""Seconds to wait, when a map is left, for its source to come to an end of what it is doing."""

Dumps = Callable[[object], bytes]

Order = tuple[Run, int, int]
"""The map, and how many items a chunk is to have, and how many chunks are wanted."""


def length_of(items: Iterable[object]) -> int | None:
    """How many there are, where that can be said."""
    if not isinstance(items, Sized):
        return None
    try:
        return len(items)
    except Exception:  # a wrapper whose content has none
        return None


def never_blocks(items: Iterable[object]) -> bool:
    """Whether it can be read at once, wherever it is read."""
    return type(items) in (list, tuple, range)


def pack(
    run: Run, first: int, items: list[object], dumps: Dumps, like: Chunk | None = None
) -> tuple[list[Chunk], list[Piece]]:
    """Chunks of these items, and what can't be pickled of them.

    Args:
        run: the map.
        first: the number of the first item.
        items: as they were read.
        dumps: the pickle of an object.
        like: what they were before; then each of them gets a pickle of its own.
    """
    if like is None:
        try:
            packed = made(Packed, (dumps(items), len(items), False))
            return [Chunk(run, first, items, packed)], []
        except Exception:
            pass
    chunks: list[Chunk] = []
    refused: list[Piece] = []
    left = like.left if like is not None and len(like) == 1 else {}
    begin = 0
    bodies: list[bytes] = []
    for place, item in enumerate([*items, None]):
        body = None
        if place < len(items):
            try:
                body = dumps(item)
            except Exception as error:
                kind, text, trace = describe(error)
                why = Why("JobFailed", (kind, f"it can't be pickled: {text}", trace))
                refused.append(Piece(first + place, [item], failures={0: why}))
        if body is not None:
            bodies.append(body)
            continue
        if bodies:
            packed = Packed(pickle.dumps(bodies, protocol=5), len(bodies), apart=True)
            chunk = Chunk(run, first + begin, items[begin:place], packed)
            if like is not None:
                chunk = like.again(
                    first=chunk.first, items=chunk.items, packed=packed, start=0, left=left
                )
            chunks.append(chunk)
        begin, bodies = place + 1, []
    return chunks, refused


def repack(chunk: Chunk, dumps: Dumps) -> Repacked:
    """Pickle the items of a chunk one by one."""
    chunks, refused = pack(chunk.run, chunk.first, chunk.items, dumps, like=chunk)
    return Repacked(chunk, chunks, refused)


class ReadBySomebody:
    """A source that is read in the thread that reads the map.

    Args:
        items: the iterable.
        dumps: the pickle of items.
        post: takes what has been brought.

    Attributes:
        has_orders: whether the reader has something to bring.
        is_waiting: whether it has read what it has not brought.
    """

    is_waiting = False

    def __init__(
        self, items: Iterable[object], dumps: Dumps, post: Callable[[Event], None]
    ) -> None:
        self._items: Iterator[object] | None = iter(items)
        self._blocks = not never_blocks(items)
        self._dumps = dumps
        self._post = post
        self._orders: deque[Order] = deque()
        self.has_orders = False
        self._read = 0

    def start(self) -> None:
        """The map is read from now on."""

    def fetch(self, run: Run, size: int, count: int) -> None:
        """Bring so many chunks when the reader comes by. Called by whoever has the pump."""
        if self._items is not None:
            self._orders.append((run, size, count))
            self.has_orders = True

    def bring(self) -> None:
        """Read and post what was asked for."""
        self.has_orders = False
        while self._orders and (source := self._items) is not None:
            run, size, count = self._orders.popleft()
            chunks: list[Chunk] = []
            refused: list[Piece] = []
            ended = False
            error: Exception | None = None
            for _ in range(count):
                items: list[object] = []
                try:
                    if self._blocks:
                        ended = self._trickle(source, items, size)
                    else:
                        items += islice(source, size)
                        ended = len(items) < size
                except Exception as raised:
                    error, ended = raised, True
                if items:
                    good, bad = pack(run, self._read, items, self._dumps)
                    chunks += good
                    refused += bad
                    self._read += len(items)
                if ended:
                    self._items = None
                    self._orders.clear()
                if ended or (chunks and len(chunks[-1].packed.body) >= SMALL):
                    break
            self._post(Fetched(run, size, count, chunks, refused, ended, error))

    def _trickle(self, source: Iterator[object], items: list[object], size: int) -> bool:
        """Read up to that many, fewer if one lets wait; whether it is at its end."""
        before = time.monotonic()
        for item in source:
            items.append(item)
            now = time.monotonic()
            if len(items) >= size or now - before > SLOW:
                return False
            before = now
        return True

    def stop(self) -> None:
        """Nothing is fetched any more."""

    def give_up(self) -> None:
        """Nobody wants more of it."""
        self._orders.clear()
        self.has_orders = False
        self._items = None


class ReadByItself:
    """A source that a thread of its own reads, with the context variables of the reader.

    Args: as for `ReadBySomebody`.
    """

    def __init__(
        self, items: Iterable[object], dumps: Dumps, post: Callable[[Event], None]
    ) -> None:
        self._items: Iterable[object] | None = items
        self._dumps = dumps
        self._post = post
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._batch: deque[object] = deque()  # what has been read and not been brought
        self._bringing = threading.Lock()  # held while a batch becomes a chunk
        self._read = 0
        self._last = 0.0  # when an item was read
        self._stopped = False
        self._run: Run | None = None
        self._thread: threading.Thread | None = None
        self.has_orders = False

    def start(self) -> None:
        """Begin to read. Called by the reader, whose context variables the source sees."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._serve,), name="source", daemon=True
        )
        self._thread.start()

    def fetch(self, run: Run, size: int, count: int) -> None:
        """Have the thread bring so many chunks. Called by whoever has the pump."""
        self._orders.put((run, size, count))

    @property
    def is_waiting(self) -> bool:
        """Whether it has read what it has not brought, since the next item lets wait."""
        if not self._batch or self._bringing.locked():
            return False
        return time.monotonic() - self._last > SLOW

    def bring(self) -> None:
        """Bring what has been read so far, unless the thread is about to. Called by the reader."""
        if self._batch and self._bringing.acquire(blocking=False):
            try:
                self._bring(0, 0)
            finally:
                self._bringing.release()

    def _bring(
        self, size: int, count: int, *, ended: bool = False, error: BaseException | None = None
    ) -> int:
        """Make a chunk of what has been read; how many bytes it has."""
        items = []
        while self._batch:
            items.append(self._batch.popleft())
        run = self._run
        if run is None or not (items or count):
            return 0
        chunks, refused = pack(run, self._read, items, self._dumps) if items else ([], [])
        self._read += len(items)
        self._post(Fetched(run, size, count, chunks, refused, ended, error))
        return len(chunks[-1].packed.body) if chunks else 0

    def _serve(self) -> None:
        items, self._items = self._items, None
        assert items is not None
        iterator: Iterator[object] | None = None
        ended = False
        while not ended and (order := self._orders.get()) is not None:
            run, size, count = order
            self._run = run
            error: BaseException | None = None
            while count and not ended:
                count -= 1
                try:
                    if iterator is None:
                        iterator = iter(items)
                        del items
                    ended = self._read_batch(iterator, size)
                except BaseException as raised:
                    ended, error = True, raised
                with self._bringing:
                    if self._stopped:
                        break
                    nbytes = self._bring(size, 1, ended=ended, error=error)
                    if nbytes >= SMALL and not ended:  # the end says that nothing more is owed
                        self._post(Fetched(run, size, count, [], []))
                        break
        self._batch.clear()
        self._run = None

    def _read_batch(self, iterator: Iterator[object], size: int) -> bool:
        """Read up to that many items, fewer if one lets wait; whether it is at its end."""
        batch, clock = self._batch, time.monotonic
        before = begun = self._last = clock()
        for count, item in enumerate(iterator, 1):
            batch.append(item)
            self._last = now = clock()
            if count >= size or now - before > SLOW or now - begun > 4 * SLOW or self._stopped:
                return False
            before = now
        return True

    def stop(self) -> None:
        """Nothing is fetched any more: the thread ends. Called by whoever has the pump."""
        self._stopped = True
        self._orders.put(None)

    def give_up(self) -> None:
        """Nobody wants more of it. Waits a little for the item that it is reading."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)
        self._items = None
