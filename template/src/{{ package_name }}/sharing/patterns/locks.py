"""Sections that one worker at a time may be in: `Lock`, and `Guarded`, which owns its data."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
from array import array
from collections.abc import Iterable, Iterator
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, Literal, cast

from ..errors import SharingError
from ..machine.primitives import PARENT, Mutex, MutexLost, Words, Worker
from .base import Host, Pattern


class LockOrderError(SharingError):
    """Locks were taken in an order that can end in two workers waiting for each other."""


class LockLost(SharingError):
    """A lock was lost: what stood in its section may have been somebody else's turn.

    The holder of a ``Lock(kind="rlock")`` died, so that nobody can ever have it again. Or, on an
    engine whose locks are leases, this one ended before the section did.
    """


_held: list[_Locking] = []
"""The locks that this process holds, in the order in which it took them.

Who of its threads holds a lock is written in the lock: one list a thread, in a
`threading.local`, would make a section half as slow again.
"""

os.register_at_fork(after_in_child=_held.clear)


class _LocalMutex:
    """The mutex of an object outside an engine: between the threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def attach(self, worker: Worker | None) -> None:
        pass

    def try_lock(self) -> int:
        return not self._lock.acquire(blocking=False)

    def wait(self, code: int, timeout: float | None = None) -> bool:
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)

    def unlock(self) -> None:
        self._lock.release()

    def holder_died(self, slot: int) -> None:
        pass


class _Locking(Pattern):
    """What `Lock` and `Guarded` have in common: a mutex, and its place in the order."""

    _own_to_process: ClassVar[frozenset[str]] = frozenset({"_owner", "_try_lock", "_unlock"})
    _kind = "lock"
    _mutex: Mutex
    _owner = 0  # the thread that has it, while it is in _held

    def _use(self, mutex: Mutex) -> None:
        self._mutex = mutex
        self._try_lock = mutex.try_lock
        self._unlock = mutex.unlock

    def _is_held(self) -> bool:
        """Whether this thread has it."""
        return self in _held and self._owner == get_ident()

    def _check_order(self) -> None:
        """Refuse what could deadlock, before waiting for it.

        Two locks at once are taken in the order of the fields of the state. Outside an engine
        there is no order, and nothing is refused.
        """
        thread = get_ident()
        held = [other for other in _held.copy() if other._owner == thread]
        if not held or self in held:
            return
        last = max(held, key=lambda other: other.order)
        if last.order > self.order >= 0:
            raise LockOrderError(
                f"{self.name!r} was asked for while {last.name!r} is held, but its field comes "
                f"first in the state: take {self.name!r} first, or swap the fields"
            )

    def _take(self, timeout: float | None = None) -> bool:
        if _held:
            self._check_order()
        code = self._try_lock()
        if code and not self._wait(code, timeout):
            return False
        self._owner = get_ident()
        _held.append(self)
        return True

    def _wait(self, code: int, timeout: float | None = None) -> bool:
        try:
            return self._mutex.wait(code, timeout)
        except MutexLost:
            raise LockLost(
                f"the holder of {self.name!r} died, and a lock of kind 'rlock' can't be freed: "
                "open the engine anew, or use the default kind"
            ) from None

    def _leave(self) -> None:
        """Not among those that are held any more, but for its mutex."""
        _held.remove(self)

    def _drop(self) -> None:
        self._leave()
        try:
            self._unlock()
        except MutexLost:
            raise self._lease_lost() from None

    def _lease_lost(self) -> LockLost:
        return LockLost(
            f"the lease on {self.name!r} ended before its section did: this worker could not renew "
            "it in time, and others may have had it since"
        )

    def open(self, host: Host) -> None:
        self._use(host.mutex(self._kind))
        self._mutex.attach(None)

    def attach(self, worker: Worker) -> None:
        self._mutex.attach(worker)
        self._use(self._mutex)

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        self._mutex.holder_died(slot)
        return 0

    def close(self, *, whole: bool) -> None:
        self._use(_LocalMutex())


class Lock(_Locking):
    """One worker at a time, for what lies outside shared memory: a file, a device, an API.

    Use it with ``with``. The thread that holds it may take it again. Two locks at once are
    taken in the order of the fields of the state.

    The default kind is freed by the kernel at once when its holder dies. What the holder had
    done by then stays done, and its item runs again: a section should stand being begun twice
    (write beside, then rename). Numbers in shared memory are better kept in a `Guarded`.

    On an engine without shared memory it is a lease, which ends too when the worker can't renew
    it: then somebody else may be in the section at the same time, and leaving it raises. `token`
    helps what can look at it.

    Args:
        kind: "lock", or "rlock" for a `multiprocessing.RLock`, which is never free again when
            its holder dies.

    Raises:
        ValueError: another kind.
        LockOrderError: (on taking) a lock that comes later in the state is held already.
        LockLost: (on taking) the holder of a lock of kind "rlock" died; (on leaving) the lease
            had ended.
    """

    def __init__(self, kind: Literal["lock", "rlock"] = "lock") -> None:
        if kind not in ("lock", "rlock"):
            raise ValueError(f"kind must be 'lock' or 'rlock', not {kind!r}")
        self._kind = kind
        self._use(_LocalMutex())

    def acquire(self, timeout: float | None = None) -> bool:
        """Take it, waiting ``timeout`` seconds at most (for ever, where left out).

        Returns:
            Whether it is held now.
        """
        return self._take(timeout)

    def release(self) -> None:
        """Give it back.

        Raises:
            SharingError: this thread does not hold it.
        """
        if not self._is_held():
            raise SharingError(f"{self.name!r} is released, but this thread does not hold it")
        self._drop()

    @property
    def token(self) -> int:
        """Of the lease, where it is one; else 0. Each is greater than any before.

        Hand it to what is protected: that can refuse a token smaller than one it has seen.
        """
        token: int = getattr(self._mutex, "token", 0)
        return token

    # `_take` and `_drop` written out: to call them would make a section a third slower.

    def __enter__(self) -> None:
        if _held:
            self._check_order()
        code = self._try_lock()
        if code:
            self._wait(code)
        self._owner = get_ident()
        _held.append(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _held.remove(self)
        try:
            self._unlock()
        except MutexLost:
            raise self._lease_lost() from None


_FLIP = 0  # a word that counts commits; whether it is odd says which copy is the current one
_HEADER = 8  # words, a cache line
_RECEIPT = 3  # words a slot: chunk, item, sections of that item committed so far

_SMALL = 1 << 15
"""Bytes up to which a section copies all of the data: less than keeping books would cost."""

_BLOCK = 1 << 12
"""Bytes that larger data are copied in."""


class Guarded(_Locking):
    """Numbers that only change in whole sections, and the lock that protects them, in one.

        with state.balances as b:       # b: a memoryview, released after
            b[source] -= amount
            b[target] += amount

    Leaving the section commits it; an exception or the death of the worker leaves the data
    as it was. There are two copies: a section changes the one that is not current, and one
    word says which is. Nobody sees half a section, and nothing has to be repaired.

    Up to 32 KiB of data, a section copies all of it, and b is a memoryview. Of more, it copies
    what the section before has touched, so that its cost grows with what is written and not
    with the size: b then is an object that is used as one. It copies one number for
    ``b[place]``, and to be sure all of a slice, ``b[start:stop]``, which is a memoryview.

    Each section of an item commits once, whatever was killed: the sections of an item that
    runs again work on a copy that is thrown away, as far as they had committed before. For
    that, a job opens the same sections in the same order each time (in one thread), and what
    it returns must not depend on what it read in one.

    Two locks at once are taken in the order of the fields of the state. A `Guarded` does not
    nest in itself.

    Args:
        typecode: of the numbers, as in `array.array`.
        initial: the numbers; their count stays.

    Raises:
        ValueError: a typecode without a fixed meaning in memory, or no numbers.
        LockOrderError: (on entering) a lock that comes later in the state is held already, or
            this one.
        SharingError: (on leaving) something still refers to the memory of the section.
    """

    _own_to_process: ClassVar[frozenset[str]] = _Locking._own_to_process | {
        *("_flip", "_copies", "_changed", "_data", "_sources", "_view", "_running")
    }
    _flip: memoryview
    _copies: tuple[memoryview, memoryview]  # words: data, then a receipt a slot
    _changed: memoryview  # of large data: how many blocks may differ between the copies, and which
    _data: tuple[memoryview[Any], memoryview[Any]]  # the data alone, as numbers of the typecode
    _sources: tuple[Any, Any]  # of these: a view of one, and its slices, refer to its data anew
    _view: memoryview[Any]
    _running: memoryview | None

    def __init__(self, typecode: str, initial: Iterable[float]) -> None:
        if typecode not in tuple("bBhHiIlLqQfd"):
            raise ValueError(f"typecode must be one of b B h H i I l L q Q f d, not {typecode!r}")
        numbers = array(typecode, initial)
        if not numbers:
            raise ValueError("a Guarded without numbers guards nothing: give at least one")
        self.typecode = typecode
        self._size = len(numbers)
        self._data_words = -(-len(numbers) * numbers.itemsize // 8)
        nbytes = 8 * self._data_words
        self._block = _BLOCK // 8 if nbytes > _SMALL else 0  # words
        self._use(_LocalMutex())
        self._shared: Words | None = None
        self._settle(numbers)

    def __len__(self) -> int:
        return self._size

    def _settle(self, numbers: array[Any]) -> None:
        """Live in this process's own memory, with these numbers."""
        self._shared = None
        self._lay_out(memoryview(bytearray(8 * self._words_needed(1))).cast("q"), slots=1)
        for data in self._data:
            data[:] = memoryview(numbers)
        self._slot, self._running = PARENT, None

    def _words_needed(self, slots: int) -> int:
        blocks = -(-self._data_words // self._block) + 1 if self._block else 0
        return _HEADER + 2 * (self._data_words + _RECEIPT * slots) + blocks

    def _lay_out(self, words: memoryview, slots: int) -> None:
        length = self._data_words + _RECEIPT * slots
        first, second = words[_HEADER:][:length], words[_HEADER + length :][:length]
        self._flip = words[:_HEADER]
        self._copies = first, second
        self._changed = words[_HEADER + 2 * length :]
        self._data = self._numbers_in(first), self._numbers_in(second)
        one, other = (pickle.PickleBuffer(data) for data in self._data)
        self._sources = one, other
        self._referrers = sys.getrefcount(self._data[0])
        self._chunk = self._item = self._section = self._done = 0

    def _numbers_in(self, words: memoryview) -> memoryview[Any]:
        numbers: memoryview[Any] = words[: self._data_words].cast("B").cast(self.typecode)  # type: ignore[call-overload]
        return numbers[: self._size]

    def read(self) -> array[Any]:
        """A copy of the numbers as the last section to commit has left them."""
        self._take()
        try:
            return self._current()
        finally:
            self._drop()

    def __enter__(self) -> memoryview[Any]:
        if _held and self._is_held():
            raise LockOrderError(self._nested())
        # `_take` written out, as in `Lock`.
        if _held:
            self._check_order()
        code = self._try_lock()
        if code:
            self._wait(code)
        self._owner = get_ident()
        _held.append(self)
        copies = self._copies
        self._fresh = fresh = 1 - (self._flip[_FLIP] & 1)
        if self._block:
            self._catch_up(copies[1 - fresh], copies[fresh])
        else:
            copies[fresh][:] = copies[1 - fresh]
        self._commits = self._running is None or self._is_new_section(self._running[0])
        self._view = view = memoryview(self._sources[fresh])
        if self._block:
            return cast("memoryview[Any]", _LargeView(view, self._block * 8, self._changed))
        return view

    def _catch_up(self, current: memoryview, other: memoryview) -> None:
        """Make the copies the same again, where a section has touched one of them."""
        changed, size, end = self._changed, self._block, self._data_words
        for block in changed[1 : changed[0] + 1].tolist():
            start = block * size
            stop = min(start + size, end)
            other[start:stop] = current[start:stop]
        other[end:] = current[end:]  # the receipts
        changed[0] = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._view.release()
            if kind is None:
                # A slice has a life of its own, which only the memory's referrers show.
                if sys.getrefcount(self._data[self._fresh]) > self._referrers:
                    raise BufferError
                if self._commits:
                    self._commit()
        except BufferError:
            if kind is None:
                raise self._escapes() from None
        finally:
            self._drop()

    def _nested(self) -> str:
        return (
            f"{self.name!r} is entered while this thread is in a section of it: "
            "a section of a Guarded does not nest in itself"
        )

    def _escapes(self) -> SharingError:
        return SharingError(
            f"something still refers to the memory of the section of {self.name!r} "
            "(a slice of it, say): copy that, or delete it inside the section"
        )

    def _is_new_section(self, item: int) -> bool:
        """Count this section; whether an attempt before this one did not commit it."""
        if item != self._item:
            self._item, self._section = item, 0
        self._section += 1
        return self._section > self._done

    def _commit(self) -> None:
        if self._running is not None:
            fresh, receipt = self._copies[self._fresh], self._receipt
            fresh[receipt] = self._chunk
            fresh[receipt + 1] = self._item
            fresh[receipt + 2] = self._section
        self._flip[_FLIP] += 1

    def open(self, host: Host) -> None:
        if not host.is_shared:
            # Not there in a project whose only engine is `processes`.
            leases = importlib.import_module(".leases", __package__)
            self.__class__ = leases.LeasedGuarded  # till it closes: nothing below fits
            self.open(host)
            return
        super().open(host)
        numbers = self._current()
        self._shared = host.words(self._words_needed(host.slots))
        self._slots = host.slots
        self._lay_out(self._shared.view, self._slots)
        for data in self._data:
            data[:] = memoryview(numbers)

    def attach(self, worker: Worker) -> None:
        super().attach(worker)
        assert self._shared is not None
        self._lay_out(self._shared.view, self._slots)
        self._running = worker.running
        self._receipt = self._data_words + _RECEIPT * worker.slot

    def chunk_begins(self, chunk: int, left: int) -> None:
        self._chunk, self._item, self._section, self._done = chunk, -1, 0, left

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        super().worker_died(slot, chunk, item)
        receipt = self._data_words + _RECEIPT * slot
        while True:
            # Without the lock, which a living worker may hold for long. A copy is written to
            # again only after one more commit: if there was none meanwhile, it was whole.
            flip = self._flip[_FLIP]
            found = self._copies[flip & 1][receipt : receipt + _RECEIPT].tolist()
            if self._flip[_FLIP] == flip:
                break
        return found[2] if found[:2] == [chunk, item] else 0

    def _current(self) -> array[Any]:
        """The numbers, where nobody else can be in a section."""
        numbers: array[Any] = array(self.typecode)
        numbers.frombytes(self._data[self._flip[_FLIP] & 1].cast("B"))
        return numbers

    def close(self, *, whole: bool) -> None:
        super().close(whole=whole)
        self._settle(self._current())


class _LargeView:
    """The numbers in a section of a large `Guarded`, used as a memoryview.

    It notes each block before it can be changed: then the next section knows, whatever becomes
    of this one, where the copies may differ.
    """

    __slots__ = ("_block", "_changed", "_noted", "_view")

    def __init__(self, view: memoryview[Any], block: int, changed: memoryview) -> None:
        self._view = view
        self._block = block
        self._changed = changed
        self._noted: set[int] = set()

    def _note(self, start: int, stop: int) -> None:
        """These numbers may be changed from here on."""
        size = self._view.itemsize
        for block in range(start * size // self._block, -(-stop * size // self._block)):
            if block not in self._noted:
                self._noted.add(block)
                changed = self._changed
                count = changed[0]
                changed[count + 1] = block
                changed[0] = count + 1

    def _note_key(self, key: int | slice) -> None:
        if isinstance(key, slice):
            places = range(len(self._view))[key]
            if places:
                ends = places[0], places[-1]
                self._note(min(ends), max(ends) + 1)
        else:
            place = key + len(self._view) if key < 0 else key
            self._note(place, place + 1)

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            self._note_key(key)
        return self._view[key]

    def __setitem__(self, key: int | slice, value: Any) -> None:
        numbers = self._view
        if not isinstance(key, slice):
            numbers[key]  # an IndexError before anything is noted
        self._note_key(key)
        numbers[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._view)

    def __eq__(self, other: object) -> bool:
        return self._view == other

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        """What else a memoryview has; what gives memory out may change all of it."""
        if name in ("cast", "toreadonly", "obj"):
            self._note(0, len(self._view))
        return getattr(self._view, name)

    def __buffer__(self, flags: int) -> memoryview[Any]:
        """For `memoryview(b)` and the like, from Python 3.12 on."""
        view: memoryview[Any] = self[:]
        return view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """For what makes an array of it: all of it, without a copy."""
        kind = "f" if self._view.format in "fd" else "i" if self._view.format.islower() else "u"
        order = "<" if sys.byteorder == "little" else ">"
        typestr = f"{order}{kind}{self._view.itemsize}"
        return {"version": 3, "shape": self._view.shape, "typestr": typestr, "data": self[:]}
