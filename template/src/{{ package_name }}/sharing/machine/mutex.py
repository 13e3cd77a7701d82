"""Mutual exclusion between processes that survives the death of the one that holds it.

`RobustMutex` is a robust `pthread` mutex in shared memory (see pthread_mutexattr_setrobust(3)):
when its holder dies, the kernel gives it to the next one. `FileMutex` does the same by
`flock`, elsewhere than on Linux. `RLockMutex` is the `multiprocessing.RLock` that everybody
knows, which nobody gives back for the dead; here, waiting for such a one ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
import threading
import time
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from .memory import Words
from .primitives import PARENT, MutexLost, Worker

_SLICE = 0.2
"""Seconds that a thread waits in C at a time: signals are handled between the slices."""

_TRIES = 100
"""How often a thread asks again before it waits: most sections are over sooner than a process is
put to sleep and woken."""

_WORDS = 16  # no pthread_mutex_t is larger than 128 bytes
_SHARED = 1  # PTHREAD_PROCESS_SHARED
_ROBUST = 1  # PTHREAD_MUTEX_ROBUST
_RECURSIVE = 1  # PTHREAD_MUTEX_RECURSIVE
_MONOTONIC = 1  # CLOCK_MONOTONIC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class RobustMutex:
    """See the module. Linux only; `supported` tells."""

    def __init__(self) -> None:
        self._words = Words(_WORDS)
        self._bind()
        attributes = ctypes.create_string_buffer(64)
        _check(_libc.pthread_mutexattr_init(attributes))
        _check(_libc.pthread_mutexattr_setpshared(attributes, _SHARED))
        _check(_libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
        _check(_libc.pthread_mutexattr_settype(attributes, _RECURSIVE))
        _check(_libc.pthread_mutex_init(self._address, attributes))
        _libc.pthread_mutexattr_destroy(attributes)

    def _bind(self) -> None:
        self._address = ctypes.byref((ctypes.c_char * (8 * _WORDS)).from_buffer(self._words.view))
        # Bound in C, since a method of Python's would take as long as what it calls.
        self.try_lock = partial(_trylock, self._address)
        self.unlock = partial(_unlock, self._address)

    def __getstate__(self) -> Words:
        return self._words

    def __setstate__(self, words: Words) -> None:
        self._words = words
        self._bind()

    @staticmethod
    def supported() -> bool:
        return sys.platform == "linux" and hasattr(_libc, "pthread_mutexattr_setrobust")

    def attach(self, worker: Worker | None) -> None:
        pass

    def wait(self, code: int, timeout: float | None = None) -> bool:
        return self._is_taken(self._wait(timeout) if code == errno.EBUSY else code)

    def _is_taken(self, code: int) -> bool:
        if code == 0:
            return True
        if code == errno.EOWNERDEAD:
            # What it protects is whole at any moment, or not ours: there is nothing to repair.
            _check(_libc.pthread_mutex_consistent(self._address))
            return True
        if code in (errno.EBUSY, errno.ETIMEDOUT):
            return False
        raise OSError(code, os.strerror(code))

    def _wait(self, timeout: float | None) -> int:
        for _ in range(_TRIES):
            code = int(self.try_lock())
            if code != errno.EBUSY:
                return code
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            until = now + _SLICE if end is None else min(now + _SLICE, end)
            if until <= now:
                return int(_trylock(self._address))
            code = _timed_lock(self._address, until)
            if code != errno.ETIMEDOUT:
                return code

    def holder_died(self, slot: int) -> None:
        pass  # the kernel has seen to it


def _check(code: int) -> None:
    if code:
        raise OSError(code, os.strerror(code))


_libc = ctypes.CDLL(None)
if RobustMutex.supported():
    # These two never wait, so they need not let go of the GIL, which costs more than they do.
    _trylock = ctypes.PyDLL(None).pthread_mutex_trylock
    _unlock = ctypes.PyDLL(None).pthread_mutex_unlock


def _timed_lock(address: Any, until: float) -> int:
    """Wait until then, by the monotonic clock where the C library can, which nobody turns back."""
    if hasattr(_libc, "pthread_mutex_clocklock"):
        return int(_libc.pthread_mutex_clocklock(address, _MONOTONIC, _timespec(until)))
    until += time.time() - time.monotonic()
    return int(_libc.pthread_mutex_timedlock(address, _timespec(until)))


def _timespec(seconds: float) -> Any:
    whole = int(seconds)
    return ctypes.byref(_Timespec(whole, int((seconds - whole) * 1e9)))


class FileMutex:
    """See the module. The file is the caller's to remove."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self._open()

    def _open(self) -> None:
        self._file: Any = None
        self._depth = 0
        self._threads = threading.RLock()

    def __getstate__(self) -> Path:
        return self._path

    def __setstate__(self, path: Path) -> None:
        self._path = path
        self._open()

    def attach(self, worker: Worker | None) -> None:
        # A lock belongs to the open file: a forked child must open it anew to be another.
        self.__del__()
        self._open()
        self._file = self._path.open("rb")

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def try_lock(self) -> int:
        return not self.wait(0, 0.0)

    def wait(self, code: int, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._threads.acquire(timeout=-1 if timeout is None else timeout):
            return False
        pause = 0.0001
        while self._depth == 0:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if end is not None and time.monotonic() >= end:
                    self._threads.release()
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 0.005)
            except BaseException:
                self._threads.release()
                raise
            else:
                break
        self._depth += 1
        return True

    def unlock(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.release()

    def holder_died(self, slot: int) -> None:
        pass  # the kernel has seen to it


_FREE, _WANTS, _HOLDS = range(3)


class RLockMutex:
    """See the module.

    Each slot says whether it wants or holds the lock. When a worker dies that did either, the
    lock may be lost. It is, when for a whole slice of waiting nobody alive held it and still
    it could not be had.
    """

    def __init__(self, context: BaseContext, slots: int) -> None:
        self._lock = context.RLock()
        self._slots = slots
        self._words = Words(slots + 2)
        self._lost, self._turns = slots, slots + 1

    def attach(self, worker: Worker | None) -> None:
        self._slot = PARENT if worker is None else worker.slot
        self._depth = 0
        self._threads = threading.RLock()  # a slot speaks for one thread at a time

    def try_lock(self) -> int:
        return not self.wait(0, 0.0)

    def wait(self, code: int, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._threads.acquire(timeout=-1 if timeout is None else timeout):
            return False
        try:
            if self._depth == 0 and not self._wait(end):
                self._threads.release()
                return False
        except BaseException:
            self._threads.release()
            raise
        self._depth += 1
        return True

    def _wait(self, end: float | None) -> bool:
        words, slot = self._words.view, self._slot
        words[slot] = _WANTS
        try:
            taken = self._lock.acquire(block=False)
            while not taken:
                turns, held = words[self._turns], self._is_held_by_the_living()
                left = _SLICE if end is None else min(_SLICE, end - time.monotonic())
                if left <= 0:
                    return False
                taken = self._lock.acquire(timeout=left)
                if taken or left < _SLICE or held or self._is_held_by_the_living():
                    continue
                if words[self._lost] and words[self._turns] == turns:
                    raise MutexLost
            words[slot] = _HOLDS
            words[self._turns] += 1
            words[self._lost] = 0  # it can be had: whoever died did not hold it
            return True
        finally:
            if words[slot] == _WANTS:
                words[slot] = _FREE

    def _is_held_by_the_living(self) -> bool:
        return _HOLDS in self._words.view[: self._slots].tolist()

    def unlock(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._lock.release()
            self._words.view[self._slot] = _FREE
        self._threads.release()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_threads"}

    def holder_died(self, slot: int) -> None:
        words = self._words.view
        if words[slot] != _FREE:
            words[slot] = _FREE
            words[self._lost] = 1
