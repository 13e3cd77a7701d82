"""Numbers that every worker adds to: exact, live, and as cheap as adding to a list."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, ClassVar

from .errors import SharingError
from .pattern import PARENT, Host, Pattern, Words, Worker

_LINE = 8
"""Words in a cache line: two workers never write to the same one."""


class Counter(Pattern):
    """A number, or one a label, that all workers add to.

    Each process has a slot of its own in shared memory, which nobody else writes: so no lock
    is needed and no update is lost. The sum can be read at any time. What a worker added also
    travels with the results of its chunk, and the parent keeps that: when a worker dies, its
    slot goes back to what had arrived, and the items that are run again count once. Adds of
    an item that raised count; those of an attempt that died don't.

    Args:
        labels: the names to count by; left out, there is one number without a name.

    Raises:
        ValueError: a label is there twice.
    """

    __slots__ = ("_plain",)  # beside the dictionary: it takes a sixth off an add
    _own_to_process: ClassVar[frozenset[str]] = frozenset({"_mine", "_before"})
    _mine: Any  # this process's slot: 64-bit integers, one a label
    _plain: Any  # the same where there are no labels; else empty, so that it can't be used

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self.labels = tuple(labels)
        self._index = {label: place for place, label in enumerate(self.labels)}
        if len(self._index) < len(self.labels):
            twice = next(x for x in self.labels if self.labels.count(x) > 1)
            raise ValueError(f"the label {twice!r} is there twice: give each once")
        self._width = max(1, len(self.labels))
        self._stride = -(-self._width // _LINE) * _LINE
        self._words: Words | None = None
        self._arrived: list[array[int]] = []
        self._use([0] * self._width)

    def _use(self, slot: Any) -> None:
        self._mine = slot
        self._plain = () if self.labels else slot

    def add(self, n: int = 1, label: str | None = None) -> None:
        """Add ``n``, which may be negative, to the number of this label.

        Raises:
            ValueError: the label is not one of the counter's, or is missing, or what this
                worker has added does not fit into 64 bits.
        """
        try:
            if label is None:
                self._plain[0] += n
            else:
                self._mine[self._index[label]] += n
        except (KeyError, IndexError):
            raise ValueError(
                f"{self.name!r} counts {', '.join(self.labels) or 'without labels'}, not {label!r}"
            ) from None

    @property
    def values(self) -> dict[str, int]:
        """The number of each label, in the order in which they were given.

        Live while work runs, and then at times a little ahead of the results (it steps back
        when a worker dies); exact when a map has ended.
        """
        return dict(zip(self.labels, self._sums(), strict=False))

    @property
    def value(self) -> int:
        """The number, or the sum over all labels; as live and as exact as `values`."""
        return sum(self._sums())

    def _sums(self) -> list[int]:
        if self._words is None:
            return list(self._mine)
        view, stride = self._words.view, self._stride
        return [sum(view[place::stride]) for place in range(self._width)]

    def _slot(self, slot: int) -> memoryview:
        assert self._words is not None
        return self._words.view[slot * self._stride :][: self._width]

    def open(self, host: Host) -> None:
        self._words = host.words(host.slots * self._stride)
        self._arrived = [array("q", bytes(8 * self._width)) for _ in range(host.slots)]
        mine = self._slot(PARENT)
        try:
            mine[:] = array("q", self._mine)
        except OverflowError:
            raise SharingError(f"{self.name!r} is too large to begin with: {self.value}") from None
        self._use(mine)

    def attach(self, worker: Worker) -> None:
        self._use(self._slot(worker.slot))

    def chunk_begins(self, chunk: int, left: int) -> None:
        self._before = self._mine.tolist()

    def take_delta(self) -> object | None:
        delta = [now - before for now, before in zip(self._mine, self._before, strict=True)]
        return delta if any(delta) else None

    def receive_delta(self, slot: int, delta: list[int]) -> None:
        arrived = self._arrived[slot]
        for place, n in enumerate(delta):
            arrived[place] += n

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        self._slot(slot)[:] = memoryview(self._arrived[slot])
        return 0

    def close(self, *, whole: bool) -> None:
        self._arrived[PARENT][:] = array("q", self._mine)
        sums = [sum(numbers) for numbers in zip(*self._arrived, strict=True)]
        self._words, self._arrived = None, []
        self._use(sums)
