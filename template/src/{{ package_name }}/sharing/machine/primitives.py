"""What an engine can lend: words, mutexes and services, and what a worker tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

PARENT = 0
"""The slot of the process that opened the engine; workers have 1, 2, …"""

EVERY_SECTION = 1 << 62
"""How many sections an item that had ended counts as having committed: more than any item has."""


class Words(Protocol):
    """64-bit signed integers in memory that all processes see, zero at first."""

    @property
    def view(self) -> memoryview: ...


class Duplicate(Protocol):
    """A descriptor on its way into another process."""

    def detach(self) -> int:
        """The descriptor, there. It is the caller's from now on."""


class Mutex(Protocol):
    """Mutual exclusion of threads and processes; the thread that holds it may take it again."""

    def attach(self, worker: Worker | None) -> None:
        """Called before its first use in a worker, or in the parent (None)."""

    @property
    def try_lock(self) -> Callable[[], int]:
        """Take it if that needs no waiting. Returns 0 when it is held, else a code for `wait`."""

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        """Go on after `try_lock`, for ``timeout`` seconds at most; True when it is held.

        ``asked`` is the `try_lock` that returned the code. Where another process has freed the
        mutex, `try_lock` and `unlock` are other functions when this has returned.

        Raises:
            MutexLost: it can't be had any more.
        """

    @property
    def unlock(self) -> Callable[[], object]:
        """Give the mutex back. Returns something true if this thread does not hold it."""

    def free(self) -> None:
        """Free the mutex from any thread of the process that holds it.

        `try_lock` and `unlock` may be other functions afterwards.
        """

    def holder_died(self, slot: int) -> None:
        """Called in the parent when the worker of that slot is gone."""


class Lease(Mutex, Protocol):
    """A mutex that keeps what it protects, where processes share no memory."""

    @property
    def data(self) -> bytes:
        """What was committed last, as it was when the mutex was taken."""

    @property
    def item(self) -> tuple[int, int] | None:
        """The item that runs in this worker: the numbers of its map and in it; else None."""

    @property
    def done(self) -> int:
        """How many sections of that item had been committed when the mutex was taken."""

    def stage(self, section: int, data: bytes) -> None:
        """Have `unlock` commit these data, as those of that section of the item."""

    def read(self) -> bytes:
        """What was committed last, whoever has the mutex."""

    def settle(self, ranges: list[tuple[int, int, int]]) -> None:
        """Forget the sections of items that have ended for good.

        A range is the number of a map, that of its first item, and that of the item behind it.
        """


class MutexLost(Exception):
    """The mutex is held by a process that is gone, and will not be free again."""


class Service(Protocol):
    """One object in a process of its own (or in this one, outside an engine), called by name."""

    def attach(self) -> None:
        """Called in each worker before its first use."""

    def call(self, method: str, *args: object) -> Any:
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
        """One word: the place of the running item in its chunk, or ~n between two, when n ended."""

    @property
    def origin(self) -> tuple[int, int]:
        """Where the chunk is from: the number of its map, and that of its first item in it."""
