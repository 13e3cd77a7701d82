"""Mutexes between the threads of one process, which any of them can free."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident

from .primitives import Worker


class PlainMutex:
    """A `Mutex` for one process. Which thread has it is not known, so none may take it again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acquire = self._lock.acquire
        self.unlock: Callable[[], object] = self._lock.release

    def attach(self, worker: Worker | None) -> None:
        pass

    def try_lock(self) -> int:
        return not self._acquire(False)

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        return self._acquire(timeout=-1 if timeout is None else timeout)

    def free(self) -> None:
        self._lock.release()

    def holder_died(self, slot: int) -> None:
        pass


class ThreadMutex(PlainMutex):
    """A `Mutex` for one process. Unlike a `threading.RLock`, another thread can free it."""

    def __init__(self) -> None:
        super().__init__()
        self._owner = 0  # the thread that has it
        self._again = 0  # how often that has taken it beside the first time
        self.unlock = self._unlock

    def try_lock(self) -> int:
        if self._acquire(False):
            self._owner = get_ident()
            return 0
        if self._owner == get_ident():
            self._again += 1
            return 0
        return 1

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        if not super().wait(code, timeout):
            return False
        self._owner = get_ident()
        return True

    def take(self, timeout: float | None = None) -> bool:
        """Take it, waiting ``timeout`` seconds at most; whether it is held now."""
        code = self.try_lock()
        return not code or self.wait(code, timeout)

    def _unlock(self) -> int:
        if self._owner != get_ident():
            return 1
        if self._again:
            self._again -= 1
            return 0
        self._owner = 0
        self._lock.release()
        return 0

    def free(self) -> None:
        self._again = self._owner = 0
        super().free()

    def is_held(self) -> bool:
        """Whether this thread has it."""
        return self._owner == get_ident()
