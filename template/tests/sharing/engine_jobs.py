"""The jobs of test_engine.py, apart from it: workers need not import pytest."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from probe import Bare, Probe, kill_self
from signs import Signs, wait_until
from under_test import base, primitives, worker

SLOW = 2 * worker.GIVE_BACK
"""Seconds that are longer than a worker keeps other items waiting."""


def square(item: int, state: object) -> int:
    return item * item


@dataclass(frozen=True)
class Item:
    """A number, with signs to give and to wait for."""

    signs: Signs
    number: int


def wait_if_first(item: Item, state: object) -> int:
    if item.number == 0:
        item.signs.wait("go")
    item.signs.note("ended", item.number)
    return item.number


def wait_for_the_last(item: Item, state: object) -> int:
    if item.number == 0:
        wait_until(lambda: len(item.signs.notes("ended")) == 7)
    item.signs.note("ended", item.number)
    return item.number


def divide(item: int, state: object, *, by: int) -> int:
    return item // by


@dataclass(frozen=True)
class Divide:
    by: int

    def __call__(self, item: int, state: object) -> int:
        return item // self.by


def to_text(item: int, state: object) -> str:
    return str(item)


def give_back(item: bytes, state: object) -> bytes:
    return item[::-1]


def wait_for_refusal(item: Item, state: object) -> int:
    """As the first, wait until no more are handed out, or far too many have been."""
    begun = partial(item.signs.notes, "begun")
    item.signs.note("begun")
    if item.number == 0:
        wait_until(lambda: item.signs.given("refused") or len(begun()) > 1_000)
    return len(begun())


def note_both_ends(item: Item, state: object) -> int:
    item.signs.note("begun", item.number)
    if item.number:
        item.signs.wait("left")
    item.signs.note("ended", item.number)
    return item.number


def chunk_of(item: int, state: Bare) -> int:
    return state.probe.chunk


def chunk_of_slow(item: int, state: Bare) -> tuple[int, int]:
    """One in a thousand is slow."""
    if item % 1000 == 400:
        time.sleep(SLOW)
    return state.probe.chunk, item


class HasArguments(Exception):
    """Can't be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"line {one}\n  and line {two}")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class NoPickle:
    """Can't be pickled, which it says in a way of its own."""

    def __reduce__(self) -> str:
        raise RuntimeError("stays where it is")


def explode_here() -> None:
    raise RuntimeError("can't be put together again")


class NoUnpickle:
    """Pickles well, but can't be unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return explode_here, ()


def fail(item: Any, state: object) -> object:
    """Fail in the way that the item says."""
    if item == "raise":
        raise HasArguments(1, 2)
    if item == "local":
        error = ValueError("holds a lambda")
        error.callback = lambda: None  # type: ignore[attr-defined]
        raise error
    if item == "unspeakable":
        raise Unspeakable
    if item == "exit":
        sys.exit(3)
    if item == "interrupt":
        raise KeyboardInterrupt
    if item == "result":
        return lambda: None
    if item == "no pickle":
        return NoPickle()
    if item == "no unpickle":
        return [1, NoUnpickle()]
    return item


def note_and_raise(item: Item, state: object) -> None:
    item.signs.note("tried")
    raise ValueError


def die_at_first(item: Item, state: Bare) -> int:
    """Kill the worker, as often as the number says; note each attempt."""
    item.signs.note(f"tried {item.number}")
    if len(item.signs.notes(f"tried {item.number}")) <= item.number:
        kill_self()
    return item.number


def die_on_four(item: Item, state: Bare) -> int:
    item.signs.note(f"tried {item.number}")
    if item.number == 4:
        kill_self()
    return item.number


def die_once(item: Item, state: Bare) -> int:
    if item.number % 3 == 2 and item.signs.first(f"died on {item.number}"):
        kill_self()
    return item.number


def die_after_all(item: Item, state: Bare) -> int:
    item.signs.note("tried")
    if item.number == 9 and item.signs.first("died"):
        state.probe.die_at = "answer"
    return item.number


def give_much(item: Item, state: Bare) -> bytes:
    if item.signs.first("begun"):
        item.signs.note("answers", os.getpid())
        return bytes(20_000_000)
    return b"again"


def get_stuck(item: str, state: Bare) -> str:
    """Stop in the way that the item says, and seem to have done so for long."""
    import ctypes

    if len(item) > 1:
        state.probe.seem_late()
    if item == "sleeps":
        time.sleep(600)
    elif item == "in C":  # which keeps the interpreter from doing anything else
        ctypes.PyDLL(None).sleep(600)
    elif item == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    return item


def take_long(item: object, state: object) -> None:
    time.sleep(600)


def leave_a_child(item: Item, state: Bare) -> int:
    """Die, while a child that was forked lives on with all that this process had open."""
    if item.signs.first("died"):
        child = os.fork()
        if not child:
            item.signs.note("child", os.getpid())
            time.sleep(600)
        wait_until(lambda: item.signs.notes("child"))
        kill_self()
    return item.number


def square_with_pid(item: int, state: object) -> tuple[int, int]:
    return item * item, os.getpid()


def log_something(item: Item, state: object) -> None:
    log = logging.getLogger("tests.worker")
    log.debug("not asked for")
    log.info("item %d is %s", item.number, "x" * 100_000)
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("went wrong")


@dataclass
class Unpicklable:
    fine: int = 1
    event: Any = field(default_factory=threading.Event)


@dataclass
class Two:
    one: Probe
    other: Probe


class Broken(base.Pattern):
    """Fails to start in the workers, in the way that it is told."""

    def __init__(self, signs: Signs, how: str) -> None:
        self.signs = signs
        self.how = how

    def attach(self, worker: primitives.Worker) -> None:
        self.signs.note("attached")
        if self.how == "dies":
            os._exit(9)
        raise LookupError("no such thing")


@dataclass
class BrokenState:
    broken: Broken
