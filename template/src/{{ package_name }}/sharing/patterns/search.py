"""What a state leads to: its attributes, what these hold, and so on."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

from ..errors import brief


class Found(NamedTuple):
    """A value that a state leads to. As text it is the way there, as ``rates['day'].limits``.

    Attributes:
        value: the value.
        how: "." for an attribute, "[]" for an item; else what it is of its holder, in words.
        key: the name of the attribute, the key or the index.
        holder: what holds it; None for the state.
    """

    value: object
    how: str
    key: object
    holder: Found | None = None

    def __str__(self) -> str:
        if self.holder is None:
            return str(self.key)
        if self.how == ".":
            return f"{self.holder}.{self.key}"
        return (
            f"{self.holder}[{brief(self.key)}]" if self.how == "[]" else f"{self.how} {self.holder}"
        )


_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType)
"""Types of what a worker imports, which is not looked into."""

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types of values that hold no others, and that there may be very many of."""

_CONTAINERS = frozenset({dict, list, tuple, set, frozenset, deque})
"""Types of containers that have no attributes beside."""


def first_of(
    kind: type,
    state: object,
    fields: Container[str],
    more: Iterable[Found],
    beside: Iterable[object],
) -> Found | None:
    """The nearest object of a class that a state leads to, if there is any.

    What is looked into are containers, attributes and slots, and of the class of the state those
    attributes that are no fields.

    Args:
        kind: the class.
        state: an instance of a dataclass.
        fields: the names of its fields.
        more: where else to look.
        beside: objects that are not meant, and are not looked into.
    """
    seen = {id(value): value for value in (state, *beside)}
    waiting = deque([*_attributes_of_state(state, fields), *more])
    while waiting:
        found = waiting.popleft()
        value, its_kind = found.value, type(found.value)
        if id(value) in seen or _is_empty(value):
            continue
        if issubclass(its_kind, kind):
            return found
        seen[id(value)] = value
        if not issubclass(its_kind, _CODE):
            waiting += _inside(found)
    return None


def _attributes_of_state(state: object, fields: Container[str]) -> Iterator[Found]:
    """The attributes of a state, and those of its class that are no fields."""
    for name, value in attributes_of(state).items():
        yield Found(value, ".", name)
    for kind in type(state).__mro__:
        for name, value in vars(kind).items():
            if name not in fields and not name.startswith("__"):
                yield Found(value, ".", name)


def _inside(found: Found) -> Iterator[Found]:
    """What a container has in it, and the attributes of an object."""
    value: Any = found.value
    kind = type(value)
    # By the methods of Python's own types: a subclass may have others, which do as they like.
    if issubclass(kind, dict):
        for key, one in tuple(dict.items(value)):
            if not _is_empty(key):
                yield Found(key, "a key of", key, found)
            if not _is_empty(one):
                yield Found(one, "[]", key, found)
    for ordered in list, tuple, deque:
        if issubclass(kind, ordered):
            for place, one in enumerate(tuple(ordered.__iter__(value))):
                if not _is_empty(one):
                    yield Found(one, "[]", place, found)
    for unordered in set, frozenset:
        if issubclass(kind, unordered):
            for one in tuple(unordered.__iter__(value)):
                if not _is_empty(one):
                    yield Found(one, "an element of", None, found)
    if kind not in _CONTAINERS:
        for name, one in attributes_of(value).items():
            if not _is_empty(one):
                yield Found(one, ".", name, found)


def _is_empty(value: Any) -> bool:
    """Whether nothing can be in it, as is said soon of most of what a large container holds."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        return _PLAIN.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, value.values()))
    return kind in _CONTAINERS and _PLAIN.issuperset(map(type, value))


def attributes_of(value: object) -> dict[str, object]:
    """What an object has in its slots and in its dictionary, by names."""
    found: dict[str, object] = {}
    kind: type = type(value)
    for name, slot in _slots_of(kind):
        with suppress(AttributeError):  # it is not set
            found[name] = slot.__get__(value)
    with suppress(Exception):  # it has none, or its class has something else by that name
        found.update(object.__getattribute__(value, "__dict__"))
    return found


@lru_cache
def _slots_of(kind: type) -> Iterable[tuple[str, MemberDescriptorType]]:
    return [
        (name, slot)
        for base in kind.__mro__
        for name, slot in vars(base).items()
        if type(slot) is MemberDescriptorType
    ]
