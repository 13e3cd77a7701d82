"""Sections that one worker at a time may be in: `Lock`, and `Guarded`, which owns its data."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import sys
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from operator import index
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from ..errors import SharingError, StateLost
from ..machine.primitives import PARENT, Lease, Mutex, MutexLost, Words, Worker
from ..machine.threads import PlainMutex, ThreadMutex
from .base import Host, Pattern

if TYPE_CHECKING:
    from typing_extensions import Buffer

    # Their numbers are int or float, as the typecode says.
    _Numbers = memoryview[Any]
    _Copy = array[Any]

Range = tuple[int, int, int]
"""Items that have ended for good: the number of their map, the first, and the one behind them."""


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


def _hold_nothing() -> None:
    """In a forked child: a section that its parent is in is none of its own."""
    for lock in _held:
        lock._owner = 0
        lock._unlock = lambda: 1
    _held.clear()


os.register_at_fork(after_in_child=_hold_nothing)


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
        try_lock = self._try_lock
        code = try_lock()
        if code and not self._wait(code, timeout, try_lock):
            return False
        self._owner = get_ident()
        _held.append(self)
        return True

    def _wait(self, code: int, timeout: float | None, asked: Callable[[], int]) -> bool:
        try:
            taken = self._mutex.wait(code, timeout, asked)
            self._use(self._mutex)
            return taken
        except MutexLost:
            raise LockLost(
                f"the holder of {self.name!r} died, and a lock of kind 'rlock' can't be freed: "
                "open the engine anew, or use the default kind"
            ) from None

    def _drop(self) -> None:
        _held.remove(self)
        try:
            self._unlock()
        except MutexLost:
            raise self._lease_lost() from None

    def _left_elsewhere(self) -> SharingError:
        """Free the lock, a section of which another thread has entered; what is to be raised."""
        if self not in _held:
            return SharingError(
                f"a section of {self.name!r} is left, but this process is in none: it was freed, "
                "or entered before a fork"
            )
        while self in _held:
            _held.remove(self)
        self._mutex.free()
        self._use(self._mutex)
        return SharingError(
            f"a section of {self.name!r} is left in another thread than it was entered in, and so "
            "has failed: leave it where it was entered"
        )

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
        self._use(ThreadMutex())


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
        kind: "lock", or "rlock" for one like `multiprocessing.RLock`, which is never free again
            when its holder dies.

    Raises:
        ValueError: another kind.
        LockOrderError: (on taking) a lock that comes later in the state is held already.
        LockLost: (on taking) the holder of a lock of kind "rlock" died; (on leaving) the lease
            had ended.
        SharingError: (on leaving) another thread has entered the section; it is free now.
    """

    def __init__(self, kind: Literal["lock", "rlock"] = "lock") -> None:
        if kind not in ("lock", "rlock"):
            raise ValueError(f"kind must be 'lock' or 'rlock', not {kind!r}")
        self._kind = kind
        self._use(ThreadMutex())

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
        try_lock = self._try_lock
        code = try_lock()
        if code:
            self._wait(code, None, try_lock)
        self._owner = get_ident()
        _held.append(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._owner != get_ident():
            raise self._left_elsewhere()
        # First, since whoever gets the lock next may do so before this thread goes on.
        try:
            _held.remove(self)
        except ValueError:
            raise self._left_elsewhere() from None
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

_LOOKS = 10
"""How often a reader copies, where commits come in between, before it takes the lock."""

_BRIEFLY = 0.01
"""Seconds that a reader waits for the lock before it tries again without."""

_SETTLE = 64
"""How many ranges of ended items are collected before a lease is told of them."""


class Guarded(_Locking):
    """Numbers that only change in whole sections, and the lock that protects them, in one.

        with state.balances as b:       # b: a memoryview, released after
            b[source] -= amount
            b[target] += amount

    Leaving the section commits it; an exception or the death of the worker leaves the data
    as it was. There are two copies: a section changes the one that is not current, and one
    word says which is. Nobody sees half a section, and nothing has to be repaired.

    Up to 32 KiB of data, a section copies all of it. Of more, it copies what the section before
    has touched, so that its cost grows with what is written and not with the size: one number
    for ``b[place]``, and to be sure all of a slice, ``b[start:stop]``.

    A slice is a memoryview. So is b itself, but of more than 32 KiB: there it is an object that is
    used as one, and before Python 3.12 ``b[:]`` is for what wants a buffer.

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
        SharingError: (on leaving) something still refers to the memory of the section, or
            another thread has entered it; nothing is committed, and it is free now.
    """

    _own_to_process: ClassVar[frozenset[str]] = _Locking._own_to_process | {
        *("_begin", "_end", "_before")
    }
    _data: _Copies | _Leased
    _before: _Copy  # the numbers when the engine opened

    def __init__(self, typecode: str, initial: Iterable[float]) -> None:
        if typecode not in tuple("bBhHiIlLqQfd"):
            raise ValueError(f"typecode must be one of b B h H i I l L q Q f d, not {typecode!r}")
        numbers = array(typecode, initial)
        if not numbers:
            raise ValueError("a Guarded without numbers guards nothing: give at least one")
        self.typecode = typecode
        self._size = len(numbers)
        self._use(PlainMutex())
        self._keep(_Copies(numbers))

    def __len__(self) -> int:
        return self._size

    def _keep(self, data: _Copies | _Leased) -> None:
        self._data = data
        self._begin = data.begin
        self._end = data.end

    def read(self) -> _Copy:
        """A copy of the numbers as the last section to commit has left them.

        It waits for nobody who is in a section, be it this thread.

        Raises:
            StateLost: on an engine without shared memory: they are lost.
        """
        while (numbers := self._data.read()) is None:
            try_lock = self._try_lock
            code = try_lock()
            if not code or self._wait(code, _BRIEFLY, try_lock):
                try:
                    numbers = self._data.read()
                finally:
                    self._unlock()
                if numbers is not None:
                    break
        return numbers

    def __enter__(self) -> _Numbers:
        # `_take` written out, as in `Lock`.
        if _held:
            if self._is_held():
                raise LockOrderError(
                    f"{self.name!r} is entered while this thread is in a section of it: "
                    "a section of a Guarded does not nest in itself"
                )
            self._check_order()
        try_lock = self._try_lock
        code = try_lock()
        if code:
            self._wait(code, None, try_lock)
        self._owner = get_ident()
        _held.append(self)
        return self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._owner != get_ident():
            raise self._left_elsewhere()
        try:
            self._end(kind is None)
        except BufferError:
            if kind is None:
                raise SharingError(
                    f"something still refers to the memory of the section of {self.name!r} "
                    "(a slice of it, say): copy that, or delete it inside the section"
                ) from None
        finally:
            _held.remove(self)
            try:
                self._unlock()
            except MutexLost:
                raise self._lease_lost() from None

    def _left_elsewhere(self) -> SharingError:
        if self in _held:
            with contextlib.suppress(BufferError):
                self._end(False)
        return super()._left_elsewhere()

    def open(self, host: Host) -> None:
        self._before = self.read()
        lease = host.lease(self._before.tobytes())
        if lease is None:
            super().open(host)
            self._keep(_Copies(self._before, host.slots, host.words))
        else:
            self._use(lease)
            lease.attach(None)
            self._keep(_Leased(self.typecode, lease))

    def attach(self, worker: Worker) -> None:
        super().attach(worker)
        self._data.attach(worker)
        self._keep(self._data)

    def chunk_begins(self, chunk: int, left: int) -> None:
        self._data.chunk_begins(chunk, left)

    def take_delta(self) -> object | None:
        return self._data.take_delta()

    def receive_delta(self, slot: int, delta: Range) -> None:
        self._data.receive_delta(delta)

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        super().worker_died(slot, chunk, item)
        return self._data.worker_died(slot, chunk, item)

    def close(self, *, whole: bool) -> None:
        numbers = self._before
        try:
            numbers = self.read()
        finally:
            self._use(PlainMutex())
            self._keep(_Copies(numbers))


class _OwnWords:
    """The words of a process that shares none."""

    def __init__(self, count: int) -> None:
        self.view = memoryview(bytearray(8 * count)).cast("q")


_Side = tuple[memoryview, memoryview, "_Numbers", pickle.PickleBuffer]
"""What a section works with: the copy to change and the current one, in words; the numbers of the
first, and what to make a view of these from."""


class _Copies:
    """The numbers of a `Guarded` in words: two copies, and one word whose flip commits."""

    _flip: memoryview
    _copies: tuple[memoryview, memoryview]  # words: data, then a receipt a slot
    _changed: memoryview  # of large data: how many blocks may differ between the copies, and which
    _numbers: tuple[_Numbers, _Numbers]  # the data alone, as what they are
    _sides: tuple[_Side, _Side]  # by which copy is current
    _side: _Side  # that of the section
    _view: _Numbers | _LargeView
    _held: weakref.finalize[..., _Copies]

    def __init__(
        self,
        numbers: _Copy,
        slots: int = 1,
        make_words: Callable[[int], Words] = _OwnWords,
    ) -> None:
        self._typecode = numbers.typecode
        self._size = len(numbers)
        self._slots = slots
        self._data_words = -(-len(numbers) * numbers.itemsize // 8)
        nbytes = 8 * self._data_words
        self._block = _BLOCK // 8 if nbytes > _SMALL else 0  # words
        blocks = -(-self._data_words // self._block) + 1 if self._block else 0
        self._length = self._data_words + _RECEIPT * slots
        self._words = make_words(_HEADER + 2 * self._length + blocks)
        self._lay_out()
        for copy in self._numbers:
            copy[:] = memoryview(numbers)

    def __getstate__(self) -> dict[str, object]:
        names = "_typecode", "_size", "_slots", "_words", "_data_words", "_length", "_block"
        return {name: getattr(self, name) for name in names}

    def _lay_out(self, running: memoryview | None = None, slot: int = PARENT) -> None:
        words, length = self._words.view, self._length
        first, second = words[_HEADER:][:length], words[_HEADER + length :][:length]
        self._flip = words[:_HEADER]
        self._copies = first, second
        self._changed = words[_HEADER + 2 * length :]
        self._numbers = self._numbers_in(first), self._numbers_in(second)
        # A view that is made from one of these, and each slice of it, is a referrer of the numbers:
        # so `end` can see whether there still is one.
        # While there is a buffer of a memoryview, garbage collection must not clear that: Python
        # below 3.12.7 would crash (python/cpython#77894). So something else refers to both of them.
        one, other = map(pickle.PickleBuffer, self._numbers)
        self._held = weakref.finalize(self, len, (*self._numbers, one, other))
        self._sides = (
            (second, first, self._numbers[1], other),
            (first, second, self._numbers[0], one),
        )
        self._referrers = sys.getrefcount(self._numbers[0])
        self._running = running
        self._receipt = self._data_words + _RECEIPT * slot
        self._chunk = self._item = self._section = self._done = 0

    def _numbers_in(self, words: memoryview) -> _Numbers:
        return _cast(words[: self._data_words], self._typecode)[: self._size]

    def attach(self, worker: Worker) -> None:
        self._lay_out(worker.running, worker.slot)

    def read(self) -> _Copy | None:
        """The numbers as they were committed last; None where commits come in between each time.

        A copy is written to again only when another commit has made it the one that is not
        current: where there was none while it was read, it was whole.
        """
        for _ in range(_LOOKS):
            flip = self._flip[_FLIP]
            numbers: _Copy = array(self._typecode)
            numbers.frombytes(self._numbers[flip & 1].cast("B"))
            if self._is_current(flip):
                return numbers
        return None

    def _is_current(self, flip: int) -> bool:
        """Whether nobody has committed since then."""
        if _fence is not None:
            _fence()
        return self._flip[_FLIP] == flip

    def begin(self) -> _Numbers:
        """A section begins. The lock is held, from here to the end."""
        self._side = side = self._sides[self._flip[_FLIP] & 1]
        running = self._running
        if running is not None:
            if running[0] != self._item:
                self._item, self._section = running[0], 0
            self._section += 1
        fresh, current, numbers, source = side
        if self._block:
            self._catch_up(current, fresh)
            self._view = view = _LargeView(self._block * 8, self._changed)
            view._numbers = numbers
            return cast("_Numbers", view)
        fresh[:] = current
        self._view = small = memoryview(source)
        return small

    def _catch_up(self, current: memoryview, other: memoryview) -> None:
        """Make the copies the same again, where a section has touched one of them."""
        changed, size, end = self._changed, self._block, self._data_words
        for block in changed[1 : changed[0] + 1].tolist():
            start = block * size
            stop = min(start + size, end)
            other[start:stop] = current[start:stop]
        other[end:] = current[end:]  # the receipts
        changed[0] = 0

    def end(self, whole: bool) -> None:
        """It ends, and commits if it is whole and no attempt before has committed it.

        Raises:
            BufferError: something still refers to its memory. It has not committed.
        """
        view, side = self._view, self._side
        if type(view) is memoryview:
            view.release()
        else:
            view._numbers = _RELEASED
        if not whole:
            return
        # A slice outlives the view that it was made from. Only the count of referrers shows it.
        if sys.getrefcount(side[2]) > self._referrers:
            raise BufferError
        if self._running is not None:
            if self._section <= self._done:
                return
            copy, receipt = side[0], self._receipt
            copy[receipt] = self._chunk
            copy[receipt + 1] = self._item
            copy[receipt + 2] = self._section
        if _fence is not None:
            _fence()
        self._flip[_FLIP] += 1

    def chunk_begins(self, chunk: int, left: int) -> None:
        self._chunk, self._item, self._section, self._done = chunk, -1, 0, left

    def take_delta(self) -> Range | None:
        return None

    def receive_delta(self, delta: Range) -> None:
        pass

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        receipt = self._data_words + _RECEIPT * slot
        while True:
            # Without the lock, which a living worker may hold for long.
            flip = self._flip[_FLIP]
            found = self._copies[flip & 1][receipt : receipt + _RECEIPT].tolist()
            if self._is_current(flip):
                break
        return found[2] if found[:2] == [chunk, item] else 0


class _Leased:
    """The numbers of a `Guarded` on an engine without shared memory.

    They are with the store of a lease: a section fetches all of them, and leaving it sends all of
    them back, unless it raised. What was committed is known by map and item.
    """

    _working: bytearray
    _view: _Numbers | _LargeView

    def __init__(self, typecode: str, lease: Lease) -> None:
        self._typecode = typecode
        self._lease = lease
        self._worker: Worker | None = None
        self._turn: tuple[int, int] | None = None  # the item that has opened sections
        self._section = 0
        self._ranges: list[Range] = []

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_working", "_view")}

    def attach(self, worker: Worker) -> None:
        self._worker = worker

    def read(self) -> _Copy:
        """The numbers as they were committed last."""
        return array(self._typecode, self._lease.read())

    def begin(self) -> _Numbers:
        """See `_Copies`."""
        lease = self._lease
        self._working = bytearray(lease.data)
        if lease.item != self._turn:
            self._turn, self._section = lease.item, 0
        self._section += 1
        numbers = _cast(memoryview(self._working), self._typecode)
        self._view = numbers
        return numbers

    def end(self, whole: bool) -> None:
        """See `_Copies`. What is to be committed goes back with the lease."""
        self._view.release()
        self._working.append(0)  # which a slice that is left over forbids
        if whole and (self._turn is None or self._section > self._lease.done):
            self._lease.stage(self._section, bytes(memoryview(self._working)[:-1]))

    def chunk_begins(self, chunk: int, left: int) -> None:
        self._turn = None

    def take_delta(self) -> Range | None:
        assert self._worker is not None
        run, first = self._worker.origin
        return run, first, first + ~self._worker.running[0]

    def receive_delta(self, delta: Range) -> None:
        self._ranges.append(delta)
        if len(self._ranges) >= _SETTLE:
            ranges, self._ranges = self._ranges, []
            with contextlib.suppress(StateLost):  # whoever reads it next will say so
                self._lease.settle(ranges)

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        return 0


def _cast(memory: memoryview, typecode: str) -> _Numbers:
    numbers: _Numbers = memory.cast("B").cast(typecode)  # type: ignore[call-overload]
    return numbers


def _full_fence() -> None:
    """Have the accesses to memory before this call come before those after it.

    To release a lock keeps earlier accesses before it, and to take one keeps later ones behind it.
    To release one and then take another does both.
    """
    with _fences[0]:
        pass
    with _fences[1]:
        pass


_fences = threading.Lock(), threading.Lock()

_fence = None if platform.machine() in ("x86_64", "AMD64", "i686") else _full_fence
"""Between data and the word that speaks for them. These processors need none: they keep the order
of writes, and that of reads."""


_KINDS = {code: kind for kind in ("bhilq", "BHILQ", "fd") for code in kind}
"""The kind of number that a format stands for: the string of all formats of that kind."""

_RELEASED = memoryview(b"")
_RELEASED.release()


class _View:
    """The numbers in a section, used as a memoryview.

    It takes numbers of the same kind and width by whatever name, such as an int64 array, whose
    format is "l", where the typecode is "q".
    """

    __slots__ = ("_numbers",)
    _numbers: _Numbers

    def release(self) -> None:
        self._numbers = _RELEASED

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key: int | slice) -> Any:
        if type(key) is slice:
            # Whose memory, and that of what is made of it, refers to the numbers anew.
            return memoryview(pickle.PickleBuffer(self._numbers))[key]
        return self._numbers[key]

    def __setitem__(self, key: int | slice, value: Any) -> None:
        try:
            self._numbers[key] = value
        except ValueError:
            if not isinstance(key, slice):
                raise
            self._numbers[key] = _recast(value, self._numbers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._numbers)

    def __eq__(self, other: object) -> bool:
        return self._numbers == (other._numbers if isinstance(other, _View) else other)

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        """What else a memoryview has."""
        return getattr(self[:] if name in _HANDS_OUT else self._numbers, name)

    def __buffer__(self, flags: int) -> _Numbers:
        """For `memoryview(b)` and the like, from Python 3.12 on."""
        view: _Numbers = self[:]
        return view

    @property
    def __array_interface__(self) -> dict[str, object]:
        """For what makes an array of it: all of it, without a copy."""
        form = str(self._numbers.format)
        kind = "f" if form in "fd" else "i" if form.islower() else "u"
        order = "<" if sys.byteorder == "little" else ">"
        typestr = f"{order}{kind}{self._numbers.itemsize}"
        return {"version": 3, "shape": self._numbers.shape, "typestr": typestr, "data": self[:]}


_HANDS_OUT = "cast", "toreadonly", "obj"
"""Attributes of a memoryview that give its memory out, and so have to be a slice's."""


def _recast(value: Buffer, numbers: _Numbers) -> _Numbers:
    """What is to be assigned, by the name that the numbers have for it.

    Raises:
        TypeError: it is of another kind or width.
    """
    given = memoryview(value)
    native = "@=<" if sys.byteorder == "little" else "@=>"
    form, wanted = given.format.lstrip(native), str(numbers.format)
    same = form in _KINDS and _KINDS[form] == _KINDS[wanted] and given.itemsize == numbers.itemsize
    if not same or given.ndim != 1:
        raise TypeError(
            f"numbers of format {given.format!r}, {given.itemsize} bytes each, in {given.ndim} "
            f"dimensions don't fit into those of a section, which are {wanted!r}, of "
            f"{numbers.itemsize} bytes, in one: convert them first"
        )
    return _cast(given if given.c_contiguous else memoryview(given.tobytes()), wanted)


class _LargeView(_View):
    """The numbers in a section of a large `Guarded`.

    It notes each block before it can be changed: then the next section knows, whatever becomes
    of this one, where the copies may differ.
    """

    __slots__ = ("_block", "_changed", "_noted")

    def __init__(self, block: int, changed: memoryview) -> None:
        self._block = block
        self._changed = changed
        self._noted: set[int] = set()

    def _note(self, start: int, stop: int) -> None:
        """These numbers may be changed from here on."""
        size = self._numbers.itemsize
        for block in range(start * size // self._block, -(-stop * size // self._block)):
            if block not in self._noted:
                self._noted.add(block)
                changed = self._changed
                count = changed[0]
                changed[count + 1] = block
                changed[0] = count + 1

    def _note_key(self, key: int | slice) -> None:
        if isinstance(key, slice):
            places = range(len(self._numbers))[key]
            if places:
                ends = places[0], places[-1]
                self._note(min(ends), max(ends) + 1)
        else:
            place = index(key)  # which one of a fixed width might not hold
            place += len(self._numbers) if place < 0 else 0
            self._note(place, place + 1)

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            self._note_key(key)
        return super().__getitem__(key)

    def __setitem__(self, key: int | slice, value: Any) -> None:
        if not isinstance(key, slice):
            self._numbers[key]  # an IndexError before anything is noted
        self._note_key(key)
        super().__setitem__(key, value)
