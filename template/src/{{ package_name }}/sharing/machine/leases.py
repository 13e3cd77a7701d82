"""Mutexes where no memory is shared: one plain object keeps them, and what they protect, by leases.

A holder is named by its worker. Its lease ends when the holder gives it back, when the engine
learns that the worker is gone, or when it is not renewed: a worker that can't be reached any more
must not keep all others waiting. Each lease has a token, greater than any before; what comes
with an older one changes nothing any more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from ..errors import ServiceLost, SharingError, StateLost
from .primitives import MutexLost, Service, Worker
from .threads import ThreadMutex

LEASE = 15.0
"""Seconds that a lease lasts when it is not renewed; it is, three times as often."""

_WAIT = 1.0
"""Seconds that a call waits for a lease before it asks again."""

Item = tuple[int, int]
"""The number of a map, and that of an item in it."""

Range = tuple[int, int, int]
"""Items that have ended for good: the number of their map, the first, and the one behind them."""


class _Asking:
    """A call that waits for the lease."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.has_left = False


class LeaseStore:
    """Who holds the lease, and the bytes that it protects. Called from several threads.

    Args:
        data: what is protected; with a bare lock, nothing.
        seconds: that a lease lasts.
    """

    def __init__(self, data: bytes = b"", seconds: float = LEASE) -> None:
        self._data = data
        self._seconds = seconds
        self._tokens = 0
        self._holder = ""
        self._ends = 0.0
        self._sections: dict[Item, int] = {}
        self._asking: list[_Asking] = []
        self._changed = threading.Condition()

    def take(self, holder: str, item: Item | None, wait: float) -> tuple[int, bytes, int] | None:
        """The lease, after ``wait`` seconds at most; None if others have it all the time.

        Returns:
            Its token, the data, and how many sections of the item have been committed.
        """
        end = time.monotonic() + wait
        asking = _Asking(holder)
        with self._changed:
            self._asking.append(asking)
            try:
                if not self._is_free_for(asking, end):
                    return None
            finally:
                self._asking.remove(asking)
            self._tokens += 1
            self._holder = holder
            self._ends = time.monotonic() + self._seconds
            done = self._sections.get(item, 0) if item is not None else 0
            return self._tokens, self._data, done

    def _is_free_for(self, asking: _Asking, end: float) -> bool:
        """Wait until that call can have the lease, or till ``end``; whether it can."""
        # A holder that asks for its own lease has died and was started anew, before that was known.
        while self._holder not in ("", asking.holder) and (now := time.monotonic()) < self._ends:
            left = min(end, self._ends) - now
            if left <= 0:
                return False
            self._changed.wait(left)
            if asking.has_left:
                # Its worker has died waiting: nobody would give the lease back.
                self._changed.notify()
                return False
        return True

    def renew(self, token: int) -> bool:
        """Have the lease last longer; whether it still does."""
        with self._changed:
            if not self._is_valid(token):
                return False
            self._ends = time.monotonic() + self._seconds
            return True

    def release(self, token: int) -> bool:
        """Give the lease back; whether it had lasted till now."""
        with self._changed:
            if not self._is_valid(token):
                return False
            self._free()
            return True

    def commit(self, token: int, item: Item | None, section: int, data: bytes) -> bool:
        """Put new data in place of the old, and give the lease back; False: it had ended."""
        with self._changed:
            if not self._is_valid(token):
                return False
            self._data = data
            if item is not None:
                self._sections[item] = section
            self._free()
            return True

    def read(self) -> bytes:
        """The data as they were committed last."""
        with self._changed:
            return self._data

    def settle(self, ranges: list[Range]) -> None:
        """Forget what was committed for items that will not run again."""
        with self._changed:
            for run, start, stop in ranges:
                for number in range(start, stop):
                    self._sections.pop((run, number), None)

    def holder_left(self, holder: str) -> None:
        """Free what a holder had; ``holder`` may be the beginning of several."""
        with self._changed:
            for asking in self._asking:
                asking.has_left |= asking.holder.startswith(holder)
            if self._holder.startswith(holder):
                self._free()

    def _is_valid(self, token: int) -> bool:
        return bool(self._holder) and token == self._tokens and time.monotonic() < self._ends

    def _free(self) -> None:
        self._holder = ""
        self._changed.notify()


class LeaseMutex:
    """A `Lease` of a store: it protects what its holder does as long as that can renew it.

    Attributes:
        token: of the lease that this process has, or had last. What is protected elsewhere can
            refuse one that is smaller than one it has seen.
        data: what came with it.
        done: how many sections of the running item had been committed before.
    """

    def __init__(self, store: Service) -> None:
        self._store = store
        self.attach(None)

    def __getstate__(self) -> Service:
        return self._store

    def __setstate__(self, store: Service) -> None:
        self._store = store
        self.attach(None)

    def attach(self, worker: Worker | None) -> None:
        self._worker = worker
        if worker is not None:
            self._store.attach()
        self._threads = ThreadMutex()  # one thread at a time asks for the lease
        self._depth = 0
        self._staged: tuple[int, bytes] | None = None
        self.token = self.done = 0
        self.data = b""

    @property
    def item(self) -> Item | None:
        """The item that runs in this worker; None in the parent."""
        if self._worker is None:
            return None
        run, first = self._worker.origin
        place = self._worker.running[0]
        return run, first + (place if place >= 0 else ~place)

    def try_lock(self) -> int:
        return 1  # asking takes a round trip, which may as well wait

    def wait(self, code: int, timeout: float | None = None, asked: object = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._threads.take(timeout):
            return False
        try:
            taken = self._depth > 0 or self._take(end)
        except BaseException:
            self._threads.unlock()
            raise
        if not taken:
            self._threads.unlock()
            return False
        self._depth += 1
        return True

    def _take(self, end: float | None) -> bool:
        slot = 0 if self._worker is None else self._worker.slot
        while True:
            left = _WAIT if end is None else max(0.0, min(_WAIT, end - time.monotonic()))
            answer = self._call("take", f"{slot} ", self.item, left)
            if answer is not None:
                self.token, self.data, self.done = answer
                _renewer.add(self)
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def stage(self, section: int, data: bytes) -> None:
        self._staged = section, data

    def unlock(self) -> int:
        """Give it back, together with what was staged.

        Raises:
            MutexLost: it had ended, and nothing was changed.
        """
        if not self._threads.is_held():
            return 1
        self._depth -= 1
        try:
            if self._depth == 0:
                self._give_back()
        finally:
            self._threads.unlock()
        return 0

    def free(self) -> None:
        self._depth, self._staged = 0, None
        try:
            with contextlib.suppress(MutexLost):
                self._give_back()
        finally:
            self._threads.free()

    def _give_back(self) -> None:
        staged, self._staged = self._staged, None
        _renewer.remove(self)
        if staged is None:
            lasted = self._call("release", self.token)
        else:
            lasted = self._call("commit", self.token, self.item, *staged)
        if not lasted:
            raise MutexLost

    def read(self) -> bytes:
        """What was committed last.

        Raises:
            StateLost: it is gone with the store.
        """
        data: bytes = self._call("read")
        return data

    def settle(self, ranges: list[Range]) -> None:
        self._call("settle", ranges)

    def renew(self) -> None:
        """Have it last longer."""
        self._call("renew", self.token)

    def _call(self, method: str, *args: object) -> Any:
        """Call the store.

        Raises:
            StateLost: it is gone.
        """
        try:
            return self._store.call(method, *args)
        except ServiceLost as error:
            raise StateLost(
                f"what locks protect is lost with the process that kept it ({error}): "
                "run all of it again"
            ) from None

    def holder_died(self, slot: int) -> None:
        with contextlib.suppress(ServiceLost):  # whoever asks for it next will say so
            self._store.call("holder_left", f"{slot} ")


class _Renewer:
    """A thread that renews the leases of this process while they are held."""

    def __init__(self) -> None:
        self._held: set[LeaseMutex] = set()
        self._changed = threading.Condition()
        self._runs = False

    def add(self, mutex: LeaseMutex) -> None:
        with self._changed:
            self._held.add(mutex)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._renew, name="leases", daemon=True).start()

    def remove(self, mutex: LeaseMutex) -> None:
        with self._changed:
            self._held.discard(mutex)

    def _renew(self) -> None:
        while True:
            time.sleep(LEASE / 3)
            with self._changed:
                held = list(self._held)
            for mutex in held:
                with contextlib.suppress(SharingError):  # found out when it is given back
                    mutex.renew()


_renewer = _Renewer()
