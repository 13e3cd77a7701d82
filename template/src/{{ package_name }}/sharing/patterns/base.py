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
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

from ..errors import SharingError, brief
from ..machine.primitives import Lease, Mutex, Service, Words, Worker


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

    def publish(self, array: Any) -> Published:
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

    def __getstate__(self) -> dict[str, Any]:
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
    misplaced = _misplaced(state, found)
    if misplaced is not None:
        raise SharingError(
            f"{misplaced} of the state, a {type(misplaced.value).__name__}, is no field of it, so "
            "each worker would have one of its own: give it a field with an annotation"
        )
    return found


def patterns_by_field(state: Any) -> list[Pattern]:
    """In a worker: the patterns of a state that `patterns_of` has seen, in the same order."""
    values = (getattr(state, field.name, None) for field in dataclasses.fields(state))
    return [value for value in values if isinstance(value, Pattern)]


class _Found(NamedTuple):
    """A value that a state leads to, and the way to it.

    Attributes:
        value: the value.
        way: what is to be said of where it is, with a place for what holds it.
        key: its name, its key or its index there.
        holder: what holds it; None for the state.
    """

    value: object
    way: str
    key: object
    holder: _Found | None = None

    def __str__(self) -> str:
        if self.holder is None:
            return str(self.key)
        key = self.key if self.way == _ATTRIBUTE else brief(self.key)
        return self.way.format(holder=self.holder, key=key)


_ATTRIBUTE = "{holder}.{key}"
_ITEM = "{holder}[{key}]"
_KEY = "a key of {holder}"
_ELEMENT = "an element of {holder}"

_LEAVES = (type, ModuleType, FunctionType, BuiltinFunctionType, Pattern)
"""What a search does not look into: code, which is imported, and what is found."""

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types of values that hold no others, and that there may be very many of."""


def _misplaced(state: Any, fields: list[Pattern]) -> _Found | None:
    """A pattern that the state leads to and that is in none of its fields; None if there is none.

    What is looked into are containers, attributes and slots.
    """
    seen: dict[int, object] = {id(pattern): pattern for pattern in fields}
    seen[id(state)] = state
    waiting = deque(_attributes_of_state(state))
    for pattern in fields:
        holder = _Found(pattern, _ATTRIBUTE, pattern.name)
        waiting += (_Found(v, _ATTRIBUTE, name, holder) for name, v in pattern.copied().items())
    while waiting:
        found = waiting.popleft()
        value, kind = found.value, type(found.value)
        if kind in _PLAIN or id(value) in seen:
            continue
        if issubclass(kind, Pattern):
            return found
        seen[id(value)] = value
        if not issubclass(kind, _LEAVES):
            waiting += (inner for inner in _inside(found) if type(inner.value) not in _PLAIN)
    return None


def _attributes_of_state(state: Any) -> Iterator[_Found]:
    """The attributes of a state, and those of its class that are no fields."""
    for name, value in attributes_of(state).items():
        yield _Found(value, _ATTRIBUTE, name)
    names = {field.name for field in dataclasses.fields(state)}
    for kind in type(state).__mro__:
        for name, value in vars(kind).items():
            if name not in names and not name.startswith("__"):
                yield _Found(value, _ATTRIBUTE, name)


def _inside(found: _Found) -> Iterator[_Found]:
    """What a container has in it, and the attributes of an object."""
    value: Any = found.value
    kind = type(value)
    # By the methods of Python's own types: a subclass may have others, which do as they like.
    if issubclass(kind, dict):
        for key, one in tuple(dict.items(value)):
            yield _Found(key, _KEY, key, found)
            yield _Found(one, _ITEM, key, found)
    elif issubclass(kind, (list, tuple, deque)):
        base = next(one for one in (list, tuple, deque) if issubclass(kind, one))
        for place, one in enumerate(tuple(base.__iter__(value))):
            yield _Found(one, _ITEM, place, found)
    elif issubclass(kind, (set, frozenset)):
        for one in tuple((set if issubclass(kind, set) else frozenset).__iter__(value)):
            yield _Found(one, _ELEMENT, None, found)
    for name, one in attributes_of(value).items():
        yield _Found(one, _ATTRIBUTE, name, found)


def attributes_of(value: object) -> dict[str, object]:
    """What an object has in its slots and in its dictionary, by names."""
    found: dict[str, object] = {}
    kind: type = type(value)
    for name, slot in _slots_of(kind):
        with suppress(AttributeError):  # it is not set
            found[name] = slot.__get__(value)
    with suppress(Exception):  # most have none, and a class may make its own of it
        found.update(object.__getattribute__(value, "__dict__"))
    return found


@cache
def _slots_of(kind: type) -> Iterable[tuple[str, MemberDescriptorType]]:
    return [
        (name, slot)
        for base in kind.__mro__
        for name, slot in vars(base).items()
        if type(slot) is MemberDescriptorType
    ]
