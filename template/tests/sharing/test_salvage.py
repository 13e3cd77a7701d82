"""Which results of a chunk can be had when some can't be unpickled, against `pickle` itself."""

from __future__ import annotations

import collections
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from under_test import salvage

LISTS = 3_000
"""How many lists of results are made up."""

# What can't be unpickled, each for another reason. They go off only while something is loaded.

_is_armed = False


@contextmanager
def _armed() -> Iterator[None]:
    global _is_armed
    _is_armed = True
    try:
        yield
    finally:
        _is_armed = False


def _go_off(reason: str) -> None:
    if _is_armed:
        raise ValueError(reason)


def dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


def save(body: bytes | memoryview) -> Any:
    """Salvage it."""
    with _armed():
        return salvage.salvage(body)


def _refuse(n: int) -> object:
    _go_off(f"refused {n}")
    return n


class Thing:
    """What can be unpickled: an object with attributes."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return 7


class Refused(Thing):
    """A function raises that is to make it: REDUCE."""

    def __reduce__(self) -> Any:
        return _refuse, (self.content,)


class HalfMade(Thing):
    """It is there, and can't have its attributes: BUILD."""

    def __setstate__(self, state: Any) -> None:
        _go_off("half made")
        self.__dict__.update(state)


class Unmade(Thing):
    """Its class does not make one: NEWOBJ."""

    def __new__(cls, *_: Any) -> Any:
        _go_off("not made")
        return super().__new__(cls)


class UnmadeByName(Thing):
    """Its class does not make one by named arguments: NEWOBJ_EX."""

    def __new__(cls, content: Any = None, *, really: bool = False) -> Any:
        if really:
            _go_off("not made")
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"really": True}


class SetUpByAnother(Thing):
    """A function gives it its attributes, and raises."""

    def __reduce__(self) -> Any:
        return object.__new__, (SetUpByAnother,), self.__dict__, None, None, _set_up


def _set_up(thing: Any, state: Any) -> None:
    _go_off("not set up")
    thing.__dict__.update(state)


class Picky(list[Any]):
    """A list that takes nothing: APPEND and APPENDS."""

    def append(self, item: Any) -> None:
        _go_off("not appended")
        super().append(item)

    def extend(self, items: Any) -> None:
        _go_off("not appended")
        super().extend(items)


class PickyDict(dict[Any, Any]):
    """A dictionary that takes nothing: SETITEM and SETITEMS."""

    def __setitem__(self, key: Any, value: Any) -> None:
        _go_off("not set")
        super().__setitem__(key, value)


class Slippery(Thing):
    """It can't be a key, nor in a set: ADDITEMS, FROZENSET, SETITEMS."""

    def __hash__(self) -> int:
        _go_off("no hash")
        return 7


class Needy(Exception):
    """An exception with more arguments than it passes on, as there are many."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{what} at {where}")


class Vanishing(Thing):
    """Its class is not there where it is unpickled: STACK_GLOBAL."""


BROKEN: dict[str, Callable[[], Any]] = {
    "refused": lambda: Refused(1),
    "half made": lambda: HalfMade(2),
    "not made": lambda: Unmade(3),
    "not made by name": lambda: UnmadeByName(4),
    "set up by another": lambda: SetUpByAnother(5),
    "appends nothing": lambda: Picky([1]),
    "extends by nothing": lambda: Picky([1, 2, 3]),
    "sets nothing": lambda: PickyDict(a=1),
    "sets none": lambda: PickyDict(a=1, b=2),
    "no key": lambda: {Slippery(1): 1},
    "no keys": lambda: {1: 1, Slippery(1): 1},
    "not in a set": lambda: {1, Slippery(1)},
    "not in a frozenset": lambda: frozenset([1, Slippery(1)]),
    "needy": lambda: Needy("here", "this"),
}


def _in_itself(one: Any) -> Any:
    around: list[Any] = [one]
    around.append(around)
    return {"a": around}


AROUND: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda one: one,
    "in a list": lambda one: [one],
    "last in a list": lambda one: [1, "a", one],
    "first in a list": lambda one: [one, [2], 3],
    "in a long list": lambda one: [*range(1500), one, *range(1500)],
    "in a tuple": lambda one: (one,),
    "in a tuple of two": lambda one: (1, one),
    "in a tuple of five": lambda one: (1, 2, one, 4, 5),
    "in tuples": lambda one: ((1, (2, (one,))),),
    "in a dictionary": lambda one: {"a": one},
    "last in a dictionary": lambda one: {"a": 1, "b": one},
    "in a dictionary of a tuple": lambda one: {"a": 1, "b": (1, [one])},
    "in an object": Thing,
    "in objects": lambda one: Thing([Thing({"a": (Thing(one),)})]),
    "in a deque": lambda one: collections.deque([1, one, 2]),
    "in an ordered dictionary": lambda one: collections.OrderedDict(a=one, b=2),
    "in a dictionary of lists": lambda one: collections.defaultdict(list, a=[one]),
    "in an exception": lambda one: ValueError("a", one),
    "twice": lambda one: [one, one],
    "in itself": _in_itself,
}

GOOD = [1, "two", [3, (4, 5)], {"six": {7}}, Thing([8]), None, ("nine",)]


def loads_or_not(body: bytes) -> tuple[Any, type[BaseException] | None]:
    """What `pickle` makes of it."""
    try:
        with _armed():
            return pickle.loads(body), None
    except Exception as error:
        return None, type(error)


def see_what_is_saved(values: list[Any]) -> int:
    """Salvage these, each of which is compared with what `pickle` makes of it alone; how many."""
    told = {3: ("ValueError", "it was raised by the job", "")}
    results, failures, broken = save(dumps((values, told)))
    assert failures == told
    assert len(results) == len(values)
    for place, value in enumerate(values):
        alone, error = loads_or_not(dumps(value))
        if error is None:
            assert place not in broken, f"{place} can be had: {broken[place]}"
            assert type(results[place]) is type(alone)
            assert dumps(results[place]) == dumps(alone) or results[place] == alone
        else:
            assert place in broken, f"{place} can't be had: {value!r}"
            assert results[place] is None
            assert broken[place][0] == error.__name__
    return len(broken)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_tried_can_not_be_unpickled(broken: str) -> None:
    _, error = loads_or_not(dumps(BROKEN[broken]()))
    assert error is not None


@pytest.mark.parametrize("broken", BROKEN)
def test_what_can_not_be_unpickled_takes_nothing_else_along(broken: str) -> None:
    for around, put in AROUND.items():
        for place in range(len(GOOD) + 1):
            value = put(BROKEN[broken]())
            assert see_what_is_saved([*GOOD[:place], value, *GOOD[place:]]) == 1, around
        assert see_what_is_saved([put(BROKEN[broken]())]) == 1, around


def test_the_failure_says_what_was_raised() -> None:
    _, _, broken = save(dumps(([1, [Refused(5)]], {})))
    kind, text, _ = broken[1]
    assert (kind, text) == ("ValueError", "refused 5")


def test_whoever_shares_what_can_not_be_unpickled_is_missing_too() -> None:
    for name, make in BROKEN.items():
        one = make()
        assert see_what_is_saved([[one], 2, (one,), {"a": one}, [3], one]) == 4, name


def test_what_is_shared_stays_shared() -> None:
    shared = Thing([1])
    values = [shared, [shared], Refused(1), {"a": shared}, (shared, [Refused(2)])]
    results, _, broken = save(dumps((values, {})))
    assert sorted(broken) == [2, 4]
    assert results[0] is results[1][0] is results[3]["a"]


def test_a_class_that_is_not_there_is_the_fault_of_its_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = dumps(([1, Vanishing(2), [Vanishing(3)], Thing(4)], {}))
    monkeypatch.delattr(sys.modules[__name__], "Vanishing")
    results, _, broken = save(body)
    assert results == [1, None, None, Thing(4)]
    assert {kind for kind, _, _ in broken.values()} == {"AttributeError"}


def test_all_or_none_may_be_broken() -> None:
    assert see_what_is_saved([]) == 0
    assert see_what_is_saved(GOOD) == 0
    assert see_what_is_saved([Refused(1), [HalfMade(2)], Needy("a", "b")]) == 3


def test_a_long_list_of_results_is_saved_in_all_its_batches() -> None:
    values = [Refused(n) if n % 700 == 0 else n for n in range(3001)]
    assert see_what_is_saved(values) == 5


def test_a_view_of_the_bytes_does_as_well() -> None:
    results, _, broken = save(memoryview(dumps(([1, Refused(2)], {}))))
    assert results == [1, None]
    assert list(broken) == [1]


def test_arrays_are_saved() -> None:
    np: Any = pytest.importorskip("numpy", exc_type=ImportError)
    arrays = [np.arange(5), np.zeros((2, 3), order="F"), np.array(["a", "bc"]), np.float64(2.5)]
    record = np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])
    odd = np.array([Refused(1), 2], dtype=object)
    values = [*arrays, Refused(1), record, {"a": arrays[0], "b": Refused(2)}, odd]
    results, _, broken = save(dumps((values, {})))
    assert sorted(broken) == [4, 6, 7]
    for found, value in zip(results[:4], arrays, strict=True):
        assert np.array_equal(found, value)
        assert found.dtype == value.dtype
    assert results[5] == record


# Made up


class _Maker:
    """Makes up values, some of which can't be unpickled."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.made: list[Any] = []

    def value(self, depth: int = 0) -> Any:
        random = self.random
        if self.made and random.random() < 0.15:
            return random.choice(self.made)
        if depth > 3 or random.random() < 0.35:
            made = self.leaf()
        else:
            around = random.choice((self.list, self.tuple, self.dict, self.thing, self.wrapped))
            made = around(depth + 1)
        self.made.append(made)
        return made

    def leaf(self) -> Any:
        if self.random.random() < 0.07:
            return self.random.choice(list(BROKEN.values()))()
        return self.random.choice(
            (1, -1, "a", b"bytes", None, 2.5, True, frozenset((1, 2)), 1 << 80)
        )

    def list(self, depth: int) -> Any:
        return [self.value(depth) for _ in range(self.random.randrange(4))]

    def tuple(self, depth: int) -> Any:
        return tuple(self.value(depth) for _ in range(self.random.randrange(5)))

    def dict(self, depth: int) -> Any:
        return {f"key {n}": self.value(depth) for n in range(self.random.randrange(4))}

    def thing(self, depth: int) -> Any:
        return Thing(self.value(depth))

    def wrapped(self, depth: int) -> Any:
        return self.random.choice(list(AROUND.values()))(self.value(depth))


@pytest.mark.parametrize("part", range(4))
def test_results_that_are_made_up_are_saved(part: int) -> None:
    saved = broken = 0
    for seed in range(part * LISTS, part * LISTS + LISTS // 4):
        maker = _Maker(Random(seed))
        values = [maker.value() for _ in range(maker.random.randrange(8))]
        try:
            lost = see_what_is_saved(values)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r} of {values!r}") from error
        broken += lost
        saved += len(values) - lost
    print(f"{saved} saved, {broken} broken")
    assert saved > broken > LISTS / 20
