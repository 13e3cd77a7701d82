"""What an engine can lend: words, mutexes and services, and what a worker tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

PARENT = 0
"""The slot of the process that opened the engine; workers have 1, 2, …"""

EVERY_SECTION = 1 << 62
"""More than an item can have: what an item that had ended has left behind."""


class Words(Protocol):
    """64-bit signed integers in memory that all processes see, zero at first."""

    @property
    def view(self) -> memoryview: ...


class Mutex(Protocol):
    """Mutual exclusion of threads and processes; the thread that holds it may take it again."""

    def attach(self, worker: Worker | None) -> None:
        """Called before its first use in a worker, or in the parent (None)."""

    @property
    def try_lock(self) -> Callable[[], int]:
        """Take it if that needs no waiting. Returns 0 when it is held, else a code for `wait`."""

    def wait(self, code: int, timeout: float | None = None) -> bool:
        """Go on after `try_lock`, for ``timeout`` seconds at most; True when it is held.

        Raises:
            MutexLost: it can't be had any more.
        """

    @property
    def unlock(self) -> Callable[[], object]: ...

    def holder_died(self, slot: int) -> None:
        """Called in the parent when the worker of that slot is gone."""


class MutexLost(Exception):
    """The mutex is held by a process that is gone, and will not be free again."""


class Service(Protocol):
    """One object in a process of its own (or in this one, outside an engine), called by name."""

    def attach(self) -> None:
        """Called in each worker before its first use."""

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the object.

        Raises:
            ServiceLost: its process is gone.
        """


class Worker(Protocol):
    """The worker that a pattern was attached in."""

    @property
    def slot(self) -> int: ...

    @property
    def running(self) -> memoryview:
        """One word: the place in its chunk of the item that runs, or ~n where n have ended."""

    @property
    def origin(self) -> tuple[int, int]:
        """Where the chunk is from: the number of its map, and that of its first item in it."""
