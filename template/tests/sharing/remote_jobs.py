"""The jobs of test_remote.py, apart from it: workers need not import pytest."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from probe import kill_self
from signs import Signs, wait_until
from under_test import sharing


def nothing(item: object, state: object) -> None:
    """Have a worker that works."""


@dataclass(frozen=True)
class Task:
    """An item: a number, and signs."""

    signs: Signs
    number: int = 0


def note_and_wait(task: Task, state: object) -> int:
    """Say who runs this, and wait to be killed; the next one ends."""
    task.signs.note(f"pids {task.number}", os.getpid())
    if len(task.signs.notes(f"pids {task.number}")) == 1:
        task.signs.wait("never")
    return task.number


def die_on_three(task: Task, state: object) -> int:
    """Kill whoever runs this, each time."""
    task.signs.note(f"tried {task.number}")
    if task.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task.number


class KillsWhoReads:
    """An item whose worker is killed while it unpickles it."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return kill_self, ()


def meet(task: Task, state: object) -> int:
    """Wait until as many are here as the number says."""
    task.signs.note("there")
    wait_until(lambda: len(task.signs.notes("there")) >= task.number)
    return os.getpid()


def load(task: Task, state: object) -> bytes:
    """A value of some size: of all but item 0 when told to go on."""
    task.signs.note("begun", task.number)
    if task.number:
        task.signs.wait("go on")
    return bytes([task.number]) * (1 << 20)


class Shop:
    """What is opened in a worker, and closed with it."""

    def __init__(self, signs: Signs) -> None:
        self._signs = signs
        signs.note("opened")

    def close(self) -> None:
        """Note it."""
        self._signs.note("closed")


@dataclass
class ShopState:
    """What each worker has of its own."""

    shop: sharing.PerWorker[Shop]


def use(task: Task, state: ShopState) -> None:
    """Use it when all are here."""
    meet(task, state)
    state.shop.get()
