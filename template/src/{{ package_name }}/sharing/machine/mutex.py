"""Mutual exclusion between processes that survives the death of the one that holds it.

`RobustMutex` is a robust `pthread` mutex in shared memory (see pthread_mutexattr_setrobust(3)):
when its holder dies, the kernel gives it to the next one. `FileMutex` does the same by
`flock`, elsewhere than on Linux. `RLockMutex` behaves as `multiprocessing.RLock`: when its
holder dies, nobody can have it again. Unlike there, waiting for it then ends, with `MutexLost`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
import time
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import IO

from .memory import Words
from .primitives import PARENT, MutexLost, Worker
from .threads import ThreadMutex

_SLICE = 0.2
"""Seconds that a thread waits in C at a time: signals are handled between the slices."""

_TRIES = 100
"""How often a thread asks again before it waits: most sections are over sooner than a process is
put to sleep and woken."""

_LINE = 8  # words, a cache line
_IN_USE = 0  # the word that says which mutex is
_MADE = 1  # the word that says how many there are
_MUTEXES = 32  # the one in use, and those that were freed while a thread holds them
_WORDS = 16  # no pthread_mutex_t is larger than 128 bytes
_SHARED = 1  # PTHREAD_PROCESS_SHARED
_ROBUST = 1  # PTHREAD_MUTEX_ROBUST
_RECURSIVE = 1  # PTHREAD_MUTEX_RECURSIVE
_MONOTONIC = 1  # CLOCK_MONOTONIC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Bound(partial[int]):
    """`pthread_mutex_trylock` of one of the mutexes of a `RobustMutex`: its number and address."""

    which: int
    address: object


class RobustMutex:
    """See the module. Linux only; `supported` tells.

    Only the thread that holds a pthread mutex can unlock it. So `free`, called in another thread,
    leaves that mutex locked and takes another one into use: there are several, and a word says
    which is in use. Whoever has waited for a former one has to look at that word again.
    """

    def __init__(self) -> None:
        self._words = Words(_LINE + _MUTEXES * _WORDS)
        _make(self._address_of(0))
        self._words.view[_MADE] = 1
        self._bind(0)

    def _address_of(self, which: int) -> object:
        words = self._words.view[_LINE + which * _WORDS :]
        return ctypes.byref((ctypes.c_char * (8 * _WORDS)).from_buffer(words))

    def _bind(self, which: int) -> None:
        address = self._address_of(which)
        # Bound in C, since a method of Python's would take as long as what it calls.
        self.try_lock = _Bound(_trylock, address)
        self.try_lock.which, self.try_lock.address = which, address
        self.unlock = partial(_unlock, address)

    def __getstate__(self) -> Words:
        return self._words

    def __setstate__(self, words: Words) -> None:
        self._words = words
        self._bind(words.view[_IN_USE])

    @staticmethod
    def supported() -> bool:
        return sys.platform == "linux" and hasattr(_libc, "pthread_mutexattr_setrobust")

    def attach(self, worker: Worker | None) -> None:
        pass

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        bound = self.try_lock if asked is None else asked
        assert isinstance(bound, _Bound)
        which, address = bound.which, bound.address
        while True:
            if code == errno.EBUSY:
                code = self._wait(which, address, end)
            if which == self._words.view[_IN_USE]:
                if which != self.try_lock.which:
                    self._bind(which)
                return _is_taken(code, address)
            # This mutex is not in use any more, and this thread has got it since its holder ended.
            # It stays locked: whoever got it next might take it for the one in use. (To make it
            # unrecoverable does not help: glibc's pthread_mutex_trylock takes such a one, too.)
            _is_taken(code, address)
            which = self._words.view[_IN_USE]
            address = self._address_of(which)
            code = _trylock(address)

    def _wait(self, which: int, address: object, end: float | None) -> int:
        for _ in range(_TRIES):
            code = int(_trylock(address))
            if code != errno.EBUSY:
                return code
        while self._words.view[_IN_USE] == which:
            now = time.monotonic()
            until = now + _SLICE if end is None else min(now + _SLICE, end)
            if until <= now:
                return int(_trylock(address))
            code = _timed_lock(address, until)
            if code != errno.ETIMEDOUT:
                return code
        return errno.EBUSY

    def free(self) -> None:
        for which in range(_MUTEXES):
            if which == self._words.view[_IN_USE]:
                continue
            address = self._address_of(which)
            if (
                which == self._words.view[_MADE]
            ):  # nobody else does: it is the holder's process that frees
                _make(address)
                self._words.view[_MADE] = which + 1
            # It can be had if it is new, or if the thread that it was left to has ended or is this.
            code = _trylock(address)
            if code == errno.EOWNERDEAD:
                code = _libc.pthread_mutex_consistent(address)
            if code == 0:
                self._bind(which)
                self._words.view[_IN_USE] = which
                while _unlock(address) == 0:
                    pass
                return
        # Threads that live hold all of them. The one in use is free when its thread ends.

    def holder_died(self, slot: int) -> None:
        pass  # the kernel has seen to it


def _is_taken(code: int, address: object) -> bool:
    if code == 0:
        return True
    if code == errno.EOWNERDEAD:
        # What the mutex protects is whole at any moment, or is the user's: nothing to repair here.
        _check(_libc.pthread_mutex_consistent(address))
        return True
    if code in (errno.EBUSY, errno.ETIMEDOUT):
        return False
    raise OSError(code, os.strerror(code))


def _make(address: object) -> None:
    attributes = ctypes.create_string_buffer(64)
    _check(_libc.pthread_mutexattr_init(attributes))
    _check(_libc.pthread_mutexattr_setpshared(attributes, _SHARED))
    _check(_libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
    _check(_libc.pthread_mutexattr_settype(attributes, _RECURSIVE))
    _check(_libc.pthread_mutex_init(address, attributes))
    _libc.pthread_mutexattr_destroy(attributes)


def _check(code: int) -> None:
    if code:
        raise OSError(code, os.strerror(code))


_libc = ctypes.CDLL(None)
if RobustMutex.supported():
    # PyDLL keeps the GIL: these two never wait, and letting go of it costs more than they do.
    _trylock = ctypes.PyDLL(None).pthread_mutex_trylock
    _unlock = ctypes.PyDLL(None).pthread_mutex_unlock


def _timed_lock(address: object, until: float) -> int:
    """Take it, waiting till ``until``, in seconds of the monotonic clock; an error number, or 0.

    Where the C library can't wait by that clock, turning the system's clock changes the wait.
    """
    if hasattr(_libc, "pthread_mutex_clocklock"):
        return int(_libc.pthread_mutex_clocklock(address, _MONOTONIC, _timespec(until)))
    until += time.time() - time.monotonic()
    return int(_libc.pthread_mutex_timedlock(address, _timespec(until)))


def _timespec(seconds: float) -> object:
    whole = int(seconds)
    return ctypes.byref(_Timespec(whole, int((seconds - whole) * 1e9)))


class FileMutex:
    """See the module. The file is the caller's to remove."""

    _file: IO[bytes]  # from `attach` on

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self._open()

    def _open(self) -> None:
        self._depth = 0
        self._threads = ThreadMutex()

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
        if hasattr(self, "_file"):
            self._file.close()

    def try_lock(self) -> int:
        return not self.wait(0, 0.0)

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._threads.take(timeout):
            return False
        pause = 0.0001
        while self._depth == 0:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if end is not None and time.monotonic() >= end:
                    self._threads.unlock()
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 0.005)
            except BaseException:
                self._threads.unlock()
                raise
            else:
                break
        self._depth += 1
        return True

    def unlock(self) -> int:
        if not self._threads.is_held():
            return 1
        self._depth -= 1
        if self._depth == 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.unlock()
        return 0

    def free(self) -> None:
        self._depth = 0
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.free()

    def holder_died(self, slot: int) -> None:
        pass  # the kernel has seen to it


_FREE, _WANTS, _HOLDS = range(3)


class RLockMutex:
    """See the module.

    Each slot says whether it wants or holds the lock. When a worker dies that did either, the
    lock may be lost. It is lost if it can't be had for a whole slice of waiting in which no
    living process held it.
    """

    def __init__(self, context: BaseContext, slots: int) -> None:
        # The depth is counted here, so that any thread can free it; an RLock refuses that.
        self._lock = context.Semaphore()
        self._slots = slots
        self._words = Words(slots + 2)
        self._lost, self._turns = slots, slots + 1

    def attach(self, worker: Worker | None) -> None:
        self._slot = PARENT if worker is None else worker.slot
        self._depth = 0
        self._threads = ThreadMutex()  # a slot speaks for one thread at a time

    def try_lock(self) -> int:
        return not self.wait(0, 0.0)

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._threads.take(timeout):
            return False
        try:
            if self._depth == 0 and not self._wait(end):
                self._threads.unlock()
                return False
        except BaseException:
            self._threads.unlock()
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

    def unlock(self) -> int:
        if not self._threads.is_held():
            return 1
        self._depth -= 1
        if self._depth == 0:
            self._give_back()
        self._threads.unlock()
        return 0

    def _give_back(self) -> None:
        self._lock.release()
        self._words.view[self._slot] = _FREE

    def free(self) -> None:
        self._depth = 0
        self._give_back()
        self._threads.free()

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_threads"}

    def holder_died(self, slot: int) -> None:
        words = self._words.view
        if words[slot] != _FREE:
            words[slot] = _FREE
            words[self._lost] = 1
