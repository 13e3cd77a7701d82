"""The jobs of test_troubles.py: what can go wrong in an item that is not its worker's death."""

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import storm
from engine_jobs import HasArguments, NoPickle, NoUnpickle
from probe import Step, kill_self
from signs import Signs
from under_test import sharing


@dataclass(frozen=True)
class Trouble:
    """An item that makes it."""

    signs: Signs
    kind: str


def work_or_trouble(item: Any, state: Any) -> object:
    """Work as in a storm, or make trouble."""
    if isinstance(item, Step):
        return storm.work(item, state)
    make: Callable[[Signs, Any], object] = globals()[item.kind]
    return make(item.signs, state)


@contextlib.contextmanager
def _half_done(state: Any) -> Iterator[None]:
    """Be where nobody else can be meanwhile, and have changed half of it."""
    with state.report, state.accounts as accounts:
        accounts[0] += 1
        yield


def hangs(signs: Signs, state: Any) -> None:
    time.sleep(600)


def hangs_in_c(signs: Signs, state: Any) -> None:
    """Keep the interpreter from doing anything else."""
    ctypes.PyDLL(None).sleep(600)


def stops(signs: Signs, state: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def raises(signs: Signs, state: Any) -> None:
    """What can't be unpickled."""
    with _half_done(state):
        raise HasArguments(1, 2)


def raises_what_holds_a_lambda(signs: Signs, state: Any) -> None:
    error = ValueError("can't be pickled")
    error.callback = lambda: None  # type: ignore[attr-defined]
    raise error


def returns_what_cannot_be_pickled(signs: Signs, state: Any) -> object:
    return NoPickle()


def returns_what_cannot_be_unpickled(signs: Signs, state: Any) -> object:
    return NoUnpickle()


def segfaults(signs: Signs, state: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    ctypes.string_at(0)


@contextlib.contextmanager
def _limited(kind: int, limit: int) -> Any:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def _memory_in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def asks_for_too_much_memory(signs: Signs, state: Any) -> int:
    with _limited(resource.RLIMIT_AS, _memory_in_use() + (64 << 20)):
        return len(bytes(1 << 30))


class Swollen:
    """Takes more memory to be pickled than there is."""

    def __reduce__(self) -> Any:
        with _limited(resource.RLIMIT_AS, _memory_in_use() + (64 << 20)):
            return bytes, (bytes(1 << 30),)


def returns_too_much(signs: Signs, state: Any) -> object:
    return Swollen()


def is_out_of_memory(signs: Signs, state: Any) -> None:
    """Be ended as the kernel does it."""
    with _half_done(state):
        kill_self()


def opens_too_many_files(signs: Signs, state: Any) -> None:
    with contextlib.ExitStack() as stack, _limited(resource.RLIMIT_NOFILE, 256):
        while True:
            stack.enter_context(Path(os.devnull).open())


def forks(signs: Signs, state: Any) -> str:
    """Leave a child that holds all that this process has open, while the job ends as any does."""
    child = os.fork()
    if not child:
        signs.note("children", os.getpid())
        time.sleep(600)
        os._exit(0)
    return "forked"


def forks_and_dies(signs: Signs, state: Any) -> str:
    """Die, while such a child lives on."""
    if not signs.first("forked and died"):
        return "forked"
    forks(signs, state)
    kill_self()
    return "never"


def wait_and_work(step: Step, state: Any) -> object:
    """Work when it is told to go on, as every attempt does that is there by then."""
    step.signs.note("waits", os.getpid())
    step.signs.wait("go on")
    return storm.work(step, state)


def give_bytes(count: int, state: Any) -> bytes:
    return bytes(count)


class Unmakable:
    """What a factory makes that raises."""

    def __init__(self) -> None:
        raise LookupError("no such database")


@dataclass
class PerWorkerState:
    lines: sharing.Counter
    shop: sharing.PerWorker[Unmakable]


def use_shop(item: int, state: PerWorkerState) -> int:
    """Count, and use what can't be made, for one item in five."""
    state.lines.add()
    if item % 5 == 0:
        state.shop.get()
    return item
