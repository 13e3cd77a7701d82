"""The jobs of the tests of how an engine is driven, apart from them: workers import no pytest.

A state has what the project was generated with; a job uses what is there.
"""

import contextlib
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

from signs import Signs
from under_test import sharing

FOR_EVER = 600.0
"""Seconds that no test waits for."""


def _made(name: str, *arguments: Any) -> Any:
    """An object of that class, or None in a project that has no such class."""
    found = getattr(sharing, name, None)
    return None if found is None else found(*arguments)


@dataclass
class State:
    """A counter, a log and a guarded number, each None in a project without it."""

    count: Any = field(default_factory=partial(_made, "Counter"))
    log: Any = field(default_factory=partial(_made, "Log"))
    total: Any = field(default_factory=partial(_made, "Guarded", "q", [0]))

    def counted(self) -> int | None:
        """The adds so far; None without a counter."""
        return None if self.count is None else int(self.count.value)


@dataclass(frozen=True)
class Item:
    """A number, with signs to give and to wait for; ``how`` says what is special about it."""

    signs: Signs
    number: int
    how: str = ""


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _add(state: State) -> None:
    if state.count is not None:
        state.count.add()


def double(item: int, state: State) -> int:
    """Count the item."""
    _add(state)
    return 2 * item


def give_back(item: Any, state: State) -> Any:
    return item


def note(item: Item, state: State) -> int:
    """Count the item, and note who works on it and that it has ended."""
    item.signs.note("workers", os.getpid())
    _add(state)
    item.signs.note("ended", item.number)
    return item.number


def wait_to_go(item: Item, state: State) -> int:
    """All but item 0 wait for "go"."""
    item.signs.note("begun", item.number)
    if item.number:
        item.signs.wait("go")
    item.signs.note("ended", item.number)
    return item.number


def do_as_told(item: Item, state: State) -> int:
    """Be slow, hang, or die in the way that the item says; note each try."""
    signs, number = item.signs, item.number
    signs.note(f"tried {number}", os.getpid())
    if item.how == "hangs":
        time.sleep(FOR_EVER)
    elif item.how == "hangs in a section":
        with state.total:
            signs.give("in a section")
            time.sleep(FOR_EVER)
    elif item.how == "dies once" and signs.first(f"died {number}"):
        kill_self()
    elif item.how == "waits":
        signs.wait("go")
    elif item.how == "logs":
        logging.getLogger("tests.driven").warning("item %d", number)
    elif item.how == "logs and waits":
        logging.getLogger("tests.driven").warning("item %d", number)
        signs.wait("go")
    elif item.how == "takes a while":
        for _ in range(8):
            time.sleep(0.05)
    elif item.how == "leaves a child":
        _leave_a_child(item)
    _add(state)
    signs.note("ended", number)
    return number


def _leave_a_child(item: Item) -> None:
    """Die the first time, while a forked child lives on with all that this process had open."""
    signs = item.signs
    if signs.first("child left"):
        if not os.fork():
            with contextlib.suppress(BaseException):
                signs.give("child lives")
                signs.wait("child may go")
            os._exit(0)
        signs.wait("child lives")
        signs.note("died at", time.monotonic())
        kill_self()


def log_in_a_section(item: int, state: State) -> int:
    """Log much while nobody else gets into the section: a hundred of these fill any pipe."""
    with state.total as total:
        total[0] += 1
        logging.getLogger("tests.driven").warning("%d %s", item, "r" * 20_000)
    return item


def meet(item: Item, state: State) -> int:
    """Wait until as many items have begun as the number of each says."""
    item.signs.note("begun", os.getpid())
    end = time.monotonic() + 60
    while len(item.signs.notes("begun")) < item.number and time.monotonic() < end:
        time.sleep(0.002)
    return os.getpid()


def make_bytes(item: tuple[Signs, int, int], state: State) -> bytes:
    """A result of so many bytes."""
    signs, number, length = item
    signs.note("ended", number)
    return bytes(length)


def weigh(item: bytes, state: State) -> int:
    return len(item)


def crash(item: int, state: State) -> int:
    """Read where no memory is."""
    import ctypes

    return len(ctypes.string_at(item))


# Results that are rebuilt in the parent by code that uses the engine

engine: Any = None
"""What `Asks` uses, in the process that has it open."""

rebuilding: Callable[[int], object] | None = None
"""What `Waits` calls, in the process that unpickles it."""


def ask_engine(number: int) -> list[int]:
    found: list[int] = list(engine.map(double, [number, number + 1]))
    return found


class Asks:
    """Unpickled, it is what a map of the same engine gives."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[int], list[int]], tuple[int]]:
        return ask_engine, (self.number,)


def call_rebuilding(number: int) -> int:
    assert rebuilding is not None
    rebuilding(number)
    return number


class Waits:
    """Unpickled, it is its number, once `rebuilding` has returned."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[int], int], tuple[int]]:
        return call_rebuilding, (self.number,)


def answer_that_asks(item: int, state: State) -> Any:
    return Asks(item)


def answer_that_waits(item: int, state: State) -> Any:
    return Waits(item)


# Items and results whose pickling or unpickling does something to whoever does it


def come_to_pass(signs: Signs, how: str, number: int) -> Any:
    """What an evil item or result does, in the process that pickles or unpickles it."""
    signs.note(f"tried {number}", os.getpid())
    if how == "kills":
        kill_self()
    elif how == "exits":
        os._exit(0)
    elif how == "hangs":
        time.sleep(FOR_EVER)
    elif how == "raises":
        raise LookupError("can't be put together")
    elif how == "raises SystemExit":
        raise SystemExit(3)
    elif how == "raises KeyboardInterrupt":
        raise KeyboardInterrupt
    return number


def rebuild_in_parent(number: int) -> int:
    raise LookupError(f"can't be put together: {number}")


class BadToPickle:
    """A result, which does that when it is pickled."""

    def __init__(self, item: Item, how: str) -> None:
        self.item = item
        self.how = how

    def __reduce__(self) -> Any:
        return come_to_pass(self.item.signs, self.how, self.item.number)


class BadToUnpickle:
    """An item, which does that when it is unpickled, be it in a worker or anywhere."""

    def __init__(self, signs: Signs, number: int, how: str) -> None:
        self.signs = signs
        self.number = number
        self.how = how

    def __reduce__(self) -> Any:
        return come_to_pass, (self.signs, self.how, self.number)


class BadToRebuild:
    """A result that pickles well, and can't be unpickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return rebuild_in_parent, (self.number,)


def leave_in_parent(name: str) -> None:
    raise {"SystemExit": SystemExit, "GeneratorExit": GeneratorExit}[name](3)


class EndsWhenRebuilt:
    """A result that raises what would end a program, or a generator, when it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return leave_in_parent, (self.name,)


def answer_with_an_end(item: tuple[int, str], state: State) -> Any:
    """The number of an item; of the third one, a result that ends something."""
    number, name = item
    return EndsWhenRebuilt(name) if number == 3 else number


def fork_and_come_back(item: tuple[int, str], state: State) -> int:
    """Count the item; of the third one a child is forked, which leaves the job as it is told."""
    number, how = item
    _add(state)
    if number == 3:
        child = os.fork()
        if not child and how == "exits":
            sys.exit(0)
        if not child and how == "raises":
            raise LookupError("in the child")
        if not child:
            return -number
        os.waitpid(child, 0)
    return number


def _deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def answer_badly(item: Item, state: State) -> Any:
    """Count the item; its result, if it is a special one, is as bad as it says."""
    _add(state)
    item.signs.note(f"ran {item.number}")
    if item.how == "can't be rebuilt":
        return BadToRebuild(item.number)
    if item.how == "is too deep":
        return _deep(100_000)
    if item.how == "closes all":
        os.closerange(3, 256)
    elif item.how:
        return BadToPickle(item, item.how)
    return item.number


def number_of(item: Any, state: State) -> int:
    """Count the item, which is a number or an `Item`."""
    _add(state)
    if isinstance(item, Item):
        item.signs.note(f"ran {item.number}")
        return item.number
    return int(item)


def name_thread(item: int, state: State) -> str:
    return threading.current_thread().name


# Engines that are opened in a process of somebody else's


def say_what_comes(sender: Any, start_method: str) -> None:
    """Open an engine here, and send what a map gives, or why there is none."""
    try:
        with sharing.open_engine(State(), workers=1, start_method=start_method) as engine:
            sender.send(list(engine.map(double, range(3))))
    except sharing.SharingError as error:
        sender.send(str(error))
    except BaseException as error:
        sender.send(error)
