"""What lies between engines and patterns.

An engine is a map and four primitives (a `Host`); a pattern is what the workers share, and
uses nothing of an engine but these. So the two add up instead of multiplying: a new pattern
runs on every engine, and a new engine carries every pattern.

The life of a pattern, by the hooks of `Pattern` that an engine calls, and where:

    parent   open ─ opened ─ map_begins ─────── receive_delta ─ worker_died ─ … ─ close
                          ╲                    ╱ (with the results)
    worker                 attach ─ chunk_begins ─ at_work … ─ take_delta ─ … ─ detach

Where workers don't see the parent's memory, `news` and `hear` are between map and chunk.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from ..errors import SharingError
from ..machine.primitives import Lease, Mutex, Service, Words, Worker
from .search import Found, first_of


class Host(Protocol):
    """What an engine lends to patterns while it is open."""

    @property
    def slots(self) -> int:
        """How many processes share: the parent, and the workers behind it."""

    def words(self, count: int) -> Words: ...

    @property
    def is_shared(self) -> bool:
        """Whether words are the same in all processes; else each has its own."""

    @property
    def store(self) -> Store | None:
        """How an array gets to workers that don't see the parent's memory; None if they do."""

    def mutex(self, kind: str) -> Mutex:
        """``kind``: "lock", freed by the kernel when its holder dies, or "rlock", which isn't."""

    def lease(self, data: bytes) -> Lease | None:
        """A mutex that keeps these data, where words are not shared; else None."""

    def service(self, factory: Callable[..., object], *args: object) -> Service: ...


class Published(Protocol):
    """A copy of an array for the workers, to which it travels as something that is `Readable`."""

    @property
    def lost(self) -> bool:
        """Whether it may be gone with a worker."""


class Readable(Protocol):
    """A published array, in a worker."""

    def fetch(self) -> Any:
        """The array, read only. Not called twice for the same one."""


class Store(Protocol):
    """How an engine brings an array to workers that don't see the parent's memory."""

    @property
    def ships_blocks(self) -> bool:
        """Whether blocks of rows travel with their items; else workers read a published array."""

    def publish(self, array: object) -> Published:
        """Copy an array for the workers, in the place of what was published of the same."""


class _Travel(threading.local):
    """Whether this thread is pickling a state for a worker."""

    begun = False


_travel = _Travel()


@contextmanager
def travelling() -> Iterator[None]:
    """Let the patterns of an open engine be pickled inside, by this thread, for its workers."""
    _travel.begun = True
    try:
        yield
    finally:
        _travel.begun = False


class Pattern:
    """The base of everything that workers share: hooks that an engine calls, all optional."""

    name: str = "?"
    order: int = -1
    is_open: bool = False
    _own_to_process: ClassVar[frozenset[str]] = frozenset()
    """Attributes that each process makes for itself: they are not pickled."""

    def __getstate__(self) -> dict[str, object]:
        if not (_travel.begun and self.is_open):
            raise SharingError(
                f"a {type(self).__name__} reaches the workers as a field of the state only, "
                "which is there before the engine opens"
            )
        return {k: v for k, v in self.__dict__.items() if k not in self._own_to_process}

    def copied(self) -> Mapping[str, object]:
        """What the user has given it that travels to each worker as a copy, by names."""
        return {}

    def move_to(self, host: Host) -> None:
        """Open it; `shut` takes that back."""
        self.open(host)
        self.is_open = True

    def shut(self, *, whole: bool) -> None:
        """Close it, whatever `close` raises."""
        self.is_open = False
        self.close(whole=whole)

    def open(self, host: Host) -> None:
        """In the parent, before the workers start: move what there is to shared memory."""

    def opened(self) -> None:
        """In the parent, when what was asked of the host is there, services too."""

    def map_begins(self, run: int) -> None:
        """In the parent: its number, which is greater than that of any map before."""

    def attach(self, worker: Worker) -> None:
        """In each worker, once, before its first chunk."""

    def news(self, unread: Container[str]) -> object | None:
        """In the parent, when a map begins: what workers have to `hear` before its items.

        ``unread``: the fields that its job does not look at.
        """
        return None

    def hear(self, news: Any) -> None:
        """In a worker, before a chunk begins: the news for its map, unless there are none."""

    def chunk_begins(self, chunk: int, left: int) -> None:
        """In a worker: ``left`` is what `worker_died` said of the attempt before, else 0."""

    def at_work(self) -> None:
        """In a worker, in a thread of its own, now and then while a chunk runs."""

    def take_delta(self) -> object | None:
        """In a worker, at the end of a chunk: what is to ride back with the results.

        Raises:
            ValueError: an item has done what can't be kept. It is found by running the chunk
                again in parts, and fails with this.
        """
        return None

    def receive_delta(self, slot: int, delta: Any) -> None:
        """In the parent, once for every chunk whose results arrived."""

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        """In the parent, when a worker is gone: repair, and say what its item had done.

        ``chunk`` is the one that it was running (0: none) and ``item`` the place of the
        running item in it (-1: none). What is returned reaches the next attempt's
        `chunk_begins`; attempts add up, so it counts from the item's first.
        """
        return 0

    def detach(self) -> None:
        """In a worker that ends in order."""

    def close(self, *, whole: bool) -> None:
        """In the parent, after the workers are gone: take the values back to this process.

        ``whole`` is False when the work ended by an exception.
        """


def patterns_of(state: object) -> list[Pattern]:
    """The patterns among the fields of a state, in order, each knowing its name and place.

    Raises:
        SharingError: the state is no dataclass instance, holds one object in two fields, or has
            one anywhere else than in a field, where workers would not share it.
    """
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        raise SharingError(
            f"the state must be an instance of a dataclass, not {state!r}: "
            "put what the workers share into the fields of one"
        )
    found: list[Pattern] = []
    for order, field in enumerate(dataclasses.fields(state)):
        value = getattr(state, field.name, None)  # which `field(init=False)` may leave unset
        if isinstance(value, Pattern):
            if any(value is other for other in found):
                raise SharingError(
                    f"the fields {value.name!r} and {field.name!r} hold the same object: "
                    "make one for each"
                )
            if value.is_open:
                raise SharingError(
                    f"the field {field.name!r} is in use by another open engine: "
                    "close that one first, or make a state of its own for this one"
                )
            value.name, value.order = field.name, order
            found.append(value)
    copied = (Found(v, ".", k, Found(p, ".", p.name)) for p in found for k, v in p.copied().items())
    names = {field.name for field in dataclasses.fields(state)}
    misplaced = first_of(Pattern, state, names, copied, found)
    if misplaced is not None:
        raise SharingError(
            f"{misplaced} of the state, a {type(misplaced.value).__name__}, is no field of it, so "
            "each worker would have one of its own: give it a field with an annotation"
        )
    return found


def patterns_by_field(state: object) -> list[Pattern]:
    """In a worker: the patterns of a state that `patterns_of` has seen, in the same order."""
    assert dataclasses.is_dataclass(state)
    values = (getattr(state, field.name, None) for field in dataclasses.fields(state))
    return [value for value in values if isinstance(value, Pattern)]
