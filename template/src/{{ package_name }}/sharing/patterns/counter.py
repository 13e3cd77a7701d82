"""What every worker adds to: `Counter`, a number, and `Log`, a list of records."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
from array import array
from bisect import insort
from collections.abc import Iterable
from operator import index
from typing import ClassVar, Generic, SupportsIndex, TypeVar

from ..errors import SharingError, brief
from ..machine.primitives import PARENT, Words, Worker
from .base import Host, Pattern

T = TypeVar("T")

_LINE = 8
"""Words in a cache line: two workers never write to the same one."""


_FAR = 1 << 65
"""The int that counts start from: too large for any number of a fixed width.

An int plus a number of a fixed width is of that width, and may wrap at it without a word. An int as
large as this fits into none, so that the sum is refused, and `Counter.add` then adds a plain int.
To look at the type of each number would make an add a fifth slower.
"""


class Counter(Pattern):
    """A number, or one a label, that all workers add to.

    A worker adds to a number of its own, which costs as little as any in Python, and shows it
    in a slot in shared memory that nobody else writes: so no lock is needed and no update is
    lost. The sum can be read at any time. What a worker added also travels with the results
    of its chunk, and the parent keeps that: when a worker dies, its slot goes back to what had
    arrived, and the items that are run again count once. Adds of an item that raised count;
    those of an attempt that died don't.

    Args:
        labels: the names to count by; left out, there is one number without a name.

    Raises:
        ValueError: a label is there twice.
    """

    __slots__ = ("_n",)  # beside the dictionary: an add is a third faster through a slot
    _own_to_process: ClassVar[frozenset[str]] = frozenset(
        {"_counts", "_mine", "_before", "_works", "_showing"}
    )
    _n: int  # _FAR and what this process has added; there is none where there are labels
    _counts: list[int]  # the same, one a label
    _mine: memoryview  # where it is shown
    _works = False  # on a chunk

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self.labels = tuple(labels)
        self._index = {label: place for place, label in enumerate(self.labels)}
        if len(self._index) < len(self.labels):
            twice = next(x for x in self.labels if self.labels.count(x) > 1)
            raise ValueError(f"the label {twice!r} is there twice: give each once")
        self._width = max(1, len(self.labels))
        self._stride = -(-self._width // _LINE) * _LINE
        self._words: Words | None = None
        self._is_live = True
        self._arrived: list[array[int]] = []
        self._own = [0] * self._width

    def add(self, n: SupportsIndex = 1, label: str | None = None) -> None:
        """Add ``n``, a whole number, which may be negative, to the number of this label.

        One of a fixed width is as good, and does not wrap. An item that has added a float, or more
        than fits into 64 bits, fails when it ends.

        Raises:
            ValueError: the label is not one of the counter's, or is missing.
            TypeError: ``n`` is no number.
        """
        try:
            if label is None:
                self._n += n  # type: ignore[operator]
            else:
                self._counts[self._index[label]] += n  # type: ignore[operator]
        except Exception:
            self._add_slowly(n, label)

    def _add_slowly(self, n: SupportsIndex, label: str | None) -> None:
        """Add what would not be added: a number of a fixed width, or a wrong label."""
        if (label not in self._index) if self.labels else label is not None:
            raise ValueError(
                f"{self.name!r} counts {', '.join(self.labels) or 'without labels'}, not {label!r}"
            )
        whole = index(n)
        if label is None:
            self._n += whole
        else:
            self._counts[self._index[label]] += whole

    @property
    def values(self) -> dict[str, int]:
        """The number of each label, in the order in which they were given.

        Live while work runs, within some hundredths of a second, and then at times a little
        ahead of the results (it steps back when a worker dies); exact when a map has ended.
        """
        return dict(zip(self.labels, self._sums(), strict=False))

    @property
    def value(self) -> int:
        """The number, or the sum over all labels; as live and as exact as `values`."""
        return sum(self._sums())

    def _sums(self) -> list[int]:
        if self._words is None:
            return self._own
        with self._showing:
            self._show()
        view, stride = self._words.view, self._stride
        return [sum(view[place::stride]) for place in range(self._width)]

    @property
    def _own(self) -> list[int]:
        """What this process has added, a number a label.

        Raises:
            ValueError: something else than whole numbers was added, so that some may be lost.
        """
        far = self._counts if self.labels else [self._n]
        for n in far:
            if type(n) is not int:
                raise self._unfit(f"a {type(n).__name__}")
        return [n - _FAR for n in far]

    @_own.setter
    def _own(self, numbers: Iterable[int]) -> None:
        far = [_FAR + n for n in numbers]
        if self.labels:
            self._counts = far
        else:
            (self._n,) = far

    def _show(self) -> None:
        """Write to this process's slot what it has added."""
        self._mine[:] = self._whole()

    def _whole(self) -> array[int]:
        own = self._own
        try:
            return array("q", own)
        except OverflowError:
            wrong = next(n for n in own if not -(1 << 63) <= n < 1 << 63)
            raise self._unfit(brief(wrong)) from None

    def _unfit(self, what: str) -> ValueError:
        return ValueError(
            f"{self.name!r} can't count to {what}: it is for whole numbers of 64 bits"
        )

    def at_work(self) -> None:
        with self._showing:
            # Between chunks the slot is the parent's: it may have to take back what is there.
            if self._works:
                with contextlib.suppress(ValueError):
                    self._show()

    def _slot(self, slot: int) -> memoryview:
        assert self._words is not None
        return self._words.view[slot * self._stride :][: self._width]

    def open(self, host: Host) -> None:
        own = self._whole()
        self._is_live = host.is_shared
        self._words = host.words(host.slots * self._stride)
        self._arrived = [array("q", bytes(8 * self._width)) for _ in range(host.slots)]
        self._showing = threading.Lock()
        self._mine = self._slot(PARENT)
        self._mine[:] = own

    def attach(self, worker: Worker) -> None:
        self._showing = threading.Lock()
        self._mine = self._slot(worker.slot)
        self._own = self._mine.tolist()

    def chunk_begins(self, chunk: int, left: int) -> None:
        with self._showing:
            self._before = self._mine.tolist()
            self._own = self._before
            self._works = True

    def take_delta(self) -> object | None:
        with self._showing:
            self._works = False
            try:
                self._show()
            except ValueError:
                self._mine[:] = array("q", self._before)
                raise
        delta = [now - before for now, before in zip(self._mine, self._before, strict=True)]
        return delta if any(delta) else None

    def map_begins(self, run: int) -> None:
        with self._showing:
            self._show()

    def receive_delta(self, slot: int, delta: list[int]) -> None:
        arrived = self._arrived[slot]
        for place, n in enumerate(delta):
            arrived[place] += n
        if not self._is_live:
            self._slot(slot)[:] = memoryview(arrived)

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        self._slot(slot)[:] = memoryview(self._arrived[slot])
        return 0

    def close(self, *, whole: bool) -> None:
        self._arrived[PARENT] = self._whole()
        self._own = [sum(numbers) for numbers in zip(*self._arrived, strict=True)]
        self._words, self._arrived = None, []


_Key = tuple[int, int, int]
"""Where a record belongs: the number of the map, that of the item in it, that of the append."""

_AFTER = 1 << 62
"""In a key: behind every map, or every item of one."""


class _Kept:
    """Records in order: the first ones, as many as fit.

    Which those are depends on the records and their keys alone, not on when they came.
    """

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._nbytes = 0
        self.entries: list[tuple[_Key, bytes]] = []
        self.dropped = 0
        self.end: _Key = (_AFTER, 0, 0)  # records with this key or a later one don't fit

    def put(self, key: _Key, data: bytes) -> None:
        if key >= self.end or len(data) > self._max_bytes:
            self.dropped += 1
            return
        insort(self.entries, (key, data))
        self._nbytes += len(data)
        while len(self.entries) > self._max_records or self._nbytes > self._max_bytes:
            self._drop_from(self.entries[-1][0])

    def merge(self, entries: list[tuple[_Key, bytes]], dropped: int, end: _Key) -> None:
        self._drop_from(end)
        for key, data in entries:
            self.put(key, data)
        self.dropped += dropped

    def _drop_from(self, key: _Key) -> None:
        self.end = min(self.end, key)
        while self.entries and self.entries[-1][0] >= key:
            _, data = self.entries.pop()
            self._nbytes -= len(data)
            self.dropped += 1

    def renumber(self) -> int:
        """Number the records anew, before all that come from now on; how many there are."""
        is_full = self.end < (_AFTER, 0, 0)
        self.entries = [((0, _AFTER, n), data) for n, (_, data) in enumerate(self.entries)]
        if is_full:
            self.end = (0, _AFTER, len(self.entries))
        return len(self.entries)


class Log(Pattern, Generic[T]):
    """Records that all workers append to one list: what went wrong, say, or what was skipped.

    They travel with the results of their chunk, so the list can be read while work runs, and
    an item that is run again appends once. Records of an item that raised count; those of an
    attempt that died don't. They stand in the order of the items, those of an item in the
    order in which it appended them, and one map's before the next one's; what the main process
    appends itself comes behind the maps that it has begun by then.

    The list is bounded: it keeps the first records in that order, as many as fit, and counts
    the later ones in `dropped`. Until a map has ended, an earlier one may take the place of a
    later one that was there before. What is kept is the same for any number of workers.

    Args:
        max_records: how many are kept.
        max_bytes: how many bytes all that are kept may have, pickled. A record that has more
            by itself is dropped alone.

    Raises:
        ValueError: one of these is below 1.
    """

    _own_to_process: ClassVar[frozenset[str]] = frozenset({"_kept", "_appends", "_worker"})
    _worker: Worker | None = None

    def __init__(self, max_records: int = 10_000, max_bytes: int = 1 << 24) -> None:
        for name, value in (("max_records", max_records), ("max_bytes", max_bytes)):
            if value < 1:
                raise ValueError(f"{name} must be above 0, not {value!r}")
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._map = 0  # the last that has begun
        self._kept = _Kept(max_records, max_bytes)
        self._appends = itertools.count()

    def append(self, record: T) -> None:
        """Append a record as it is now: anything that can be pickled.

        Raises:
            SharingError: it can't be pickled, or can't be unpickled again.
        """
        try:
            data = pickle.dumps(record, protocol=5)
            pickle.loads(data)  # here, where it can be mended, and not when it is read
        except Exception as error:
            raise SharingError(
                f"{self.name!r} can't take {brief(record)}: it does not stand being pickled "
                f"({' '.join(str(error).split())}): append its text, or a tuple of what matters"
            ) from None
        self._kept.put((*self._place(), next(self._appends)), data)

    def _place(self) -> tuple[int, int]:
        if self._worker is None:
            return self._map, _AFTER
        number, first = self._worker.origin
        item = self._worker.running[0]
        return number, first + (item if item >= 0 else ~item)

    @property
    def records(self) -> list[T]:
        """Copies of the records that have arrived, in order; all of them when a map has ended.

        Raises:
            SharingError: asked in a worker.
        """
        return [pickle.loads(data) for _, data in self._arrived().entries]

    @property
    def dropped(self) -> int:
        """How many records were not kept, as far as they have arrived.

        Raises:
            SharingError: asked in a worker.
        """
        return self._arrived().dropped

    def __len__(self) -> int:
        return len(self._arrived().entries)

    def _arrived(self) -> _Kept:
        if self._worker is not None:
            raise SharingError(f"{self.name!r} is read in the main process: a job only appends")
        return self._kept

    def map_begins(self, run: int) -> None:
        self._map = run

    def attach(self, worker: Worker) -> None:
        self._worker = worker
        self._kept = _Kept(self._max_records, self._max_bytes)
        self._appends = itertools.count()

    def take_delta(self) -> object | None:
        kept = self._kept
        if not (kept.entries or kept.dropped):
            return None
        self._kept = _Kept(self._max_records, self._max_bytes)
        return kept.entries, kept.dropped, kept.end

    def receive_delta(self, slot: int, delta: tuple[list[tuple[_Key, bytes]], int, _Key]) -> None:
        self._kept.merge(*delta)

    def close(self, *, whole: bool) -> None:
        self._map = 0
        self._appends = itertools.count(self._kept.renumber())
