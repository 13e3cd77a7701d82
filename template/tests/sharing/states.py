"""States of all kinds, for tests of what may be one: those that work, and those that can't."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

from probe import Probe
from under_test import base, primitives


class Slot(base.Pattern):
    """Knows in a worker which one that is, and is nowhere else of any use."""

    _own_to_process: ClassVar[frozenset[str]] = frozenset({"slot"})
    slot = 0

    def attach(self, worker: primitives.Worker) -> None:
        self.slot = worker.slot


@dataclass(slots=True)
class Slots:
    """Without a dictionary."""

    slot: Slot
    other: object = None


@dataclass(frozen=True, slots=True)
class Frozen:
    """Without one, and read only."""

    slot: Slot


@dataclass
class Unset:
    """One of its fields has no value."""

    slot: Slot
    later: int = field(init=False)


@dataclass
class Aliased:
    """What is shared is a field, and stands somewhere else as well."""

    slot: Slot
    by_name: dict[str, Slot]


@dataclass
class Around:
    """What holds a pattern in a field, which is none itself."""

    value: Any


@dataclass
class Unannotated:
    """A pattern that is no field, for want of an annotation."""

    number: int = 1
    probe = Probe()


@dataclass
class OfTheClass:
    """A pattern that is no field, by its annotation."""

    number: int = 1
    probes: ClassVar[list[Probe]] = [Probe()]


class Node:
    """Refers to itself, and to a pattern."""

    def __init__(self, probe: Probe) -> None:
        self.me = self
        self.probe = probe


class OwnPickle:
    """A pattern that nothing but its pickle knows of."""

    def __reduce__(self) -> tuple[type[Around], tuple[Probe]]:
        return Around, (Probe(),)


class Odd:
    """Answers to all questions by an error."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise LookupError

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise LookupError


def with_extra() -> Around:
    """A pattern in an attribute that is no field."""
    state = Around(1)
    state.extra = Probe()  # type: ignore[attr-defined]
    return state


MISPLACED: dict[str, tuple[object, str]] = {
    "dict": (Around({"long": Probe()}), "value['long']"),
    "key": (Around({Probe(): 1}), "a key of value"),
    "list": (Around([1, Probe()]), "value[1]"),
    "tuple": (Around((1, "a", (2, Probe()))), "value[2][1]"),
    "set": (Around({Probe()}), "an element of value"),
    "deque": (Around(deque([Probe()])), "value[0]"),
    "dataclass": (Around(Around(Probe())), "value.value"),
    "slots": (Around(Slots(Slot())), "value.slot"),
    "object": (Around(SimpleNamespace(inner=[Probe()])), "value.inner[0]"),
    "circle": (Around([Node(Probe())]), "value[0].probe"),
    "beside the fields": (with_extra(), "extra"),
    "without annotation": (Unannotated(), "probe"),
    "of the class": (OfTheClass(), "probes[0]"),
}
"""States that hold a pattern where none can be shared, and where that is."""


def slot_of(item: int, state: Any) -> int:
    """Which worker it is."""
    return int(state.slot.slot)


def alias_of(item: int, state: Aliased) -> bool:
    """Whether both are one in a worker, too."""
    return state.by_name["slot"] is state.slot and state.slot.slot > 0
