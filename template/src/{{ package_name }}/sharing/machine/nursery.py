"""The process that forks the workers of an engine: forked when it opens, before it has threads.

What workers are given is in the memory of this process, and so in theirs. The parent sends an order
for each of them over a socket, along with the descriptors that the worker needs. A pipe for each
brings back its process id first, and then its exit code.

    parent    Nursery.start ─ order, descriptors ─▶ _Nest     nursery
      ▲                                               │ fork
      └──────────── process id, exit code ────────────┴─▶ _grow ─▶ target(*args)    worker

Where the program has threads of its own by then, it is forked all the same. A lock that one of
them holds at that moment is held in each worker for ever, and who waits for it hangs: the start
method ``forkserver`` is as fast, and has no such threads.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from multiprocessing import process as processes
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.context import set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import ClassVar, NoReturn

from ..errors import StartFailed
from . import lifeline
from .children import NEWS, Child, Limits, Target, begin, ends, let_go, wait_for
from .parcel import Parcel
from .reasons import UNKNOWN

_PATIENCE = 10.0
"""Seconds that the nursery has to fork. Then it seems to be stopped, and another one is started."""

_NUMBER = struct.Struct("q")
"""A process id or an exit code on its way, and the length of an order."""

_MOST_DESCRIPTORS = 250  # the kernel sends no more than 253 at once


class _Gone(Exception):
    """The nursery was killed, or does not answer."""


class Nursery:
    """The parent's side of it. ``start`` starts the nursery itself.

    Raises:
        OSError: there can be none.
    """

    def __init__(
        self,
        contents: Parcel[object],
        start: Callable[[Target, tuple[object, ...], str, Limits], Child],
    ) -> None:
        self._contents = contents
        self._start = start
        self._open()

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._child = self._start(_tend, (theirs, ours, self._contents), "nursery", {})
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(_PATIENCE)
        self._socket = ours

    def close(self) -> None:
        """End it; those that it has forked go on."""
        self._socket.close()
        self._child.kill()
        self._child.close()

    def start(self, target: Target, args: tuple[object, ...], name: str, limits: Limits) -> Child:
        """Have it fork a process that calls ``target(*args)``; begin anew if it was killed.

        Raises:
            OSError: it can't fork.
            StartFailed: it was killed each time.
        """
        for _ in range(lifeline.STARTS):
            try:
                return self._fork(target, args, name, limits)
            except _Gone:
                self.close()
                self._open()
            except OSError:
                raise
            except BaseException:  # the nursery may have received half an order
                self.close()
                self._open()
                raise
        raise StartFailed(f"the process that is to fork {name!r} was killed, each time")

    def _fork(self, target: Target, args: tuple[object, ...], name: str, limits: Limits) -> Child:
        reader, end = multiprocessing.Pipe(duplex=False)
        status, theirs = os.pipe()
        try:
            order = _Order(self._contents)
            set_spawning_popen(order)  # type: ignore[arg-type]
            try:
                data = reduction.ForkingPickler.dumps((target, args, reader, limits))
            finally:
                set_spawning_popen(None)
            if len(order.descriptors) >= _MOST_DESCRIPTORS:
                raise ValueError(f"{len(order.descriptors)} descriptors are too many to be sent")
            ends.add(end)
            message = pickle.dumps((name, bytes(data)))
            pid = self._ask([theirs, *order.descriptors], message, status)
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
            return _Forked(pid, end, status)
        except BaseException:
            os.close(status)
            let_go(end)  # which ends it, if it was forked
            raise
        finally:
            os.close(theirs)
            reader.close()

    def _ask(self, descriptors: list[int], message: bytes, status: int) -> int:
        """Send an order, and wait for the process id, or an error's number below 0."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, lifeline.STOP_SIGNALS)
        try:
            with lifeline.broken_pipes_are_errors():
                reduction.sendfds(self._socket, descriptors)
                self._socket.sendall(_NUMBER.pack(len(message)) + message)
            end = time.monotonic() + _PATIENCE
            while not wait_for(status, 0.1):
                if self._child.exitcode() is not None or time.monotonic() > end:
                    raise _Gone
            pid = _receive(status)
        except OSError:
            raise _Gone from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid is None:
            raise _Gone
        return pid


class _Forked(Child):
    """One that the nursery has forked; ``status`` brings how it ended."""

    def __init__(self, pid: int, end: Connection, status: int) -> None:
        super().__init__(pid, end)
        self._status = status

    def _sentinel(self) -> int:
        return self._status

    def _seems_ended(self) -> bool:
        return wait_for(self._status, 0)

    def _find_code(self) -> int:
        code = _receive(self._status) if wait_for(self._status, NEWS) else None
        if code is None and self._pidfd is None:
            # The nursery is gone, and nobody else can tell whether this one is.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return UNKNOWN if code is None else code

    def _let_go(self) -> None:
        os.close(self._status)


def _receive(status: int) -> int | None:
    """Read a number from a pipe; None at its end."""
    data = os.read(status, _NUMBER.size)
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else None


class _Order:
    """Stands in for a process that is being started, and collects the descriptors of its arguments.

    `multiprocessing` asks for one while it pickles these.
    """

    def __init__(self, inherited: Parcel[object]) -> None:
        self.inherited = inherited
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return len(self.descriptors) - 1

    def DupFd(self, place: int) -> _Sent:  # noqa: N802
        return _Sent(place)


class _Sent:
    """A descriptor that comes with an order."""

    arrived: ClassVar[list[int]] = []

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        return self.arrived[self._place]


def _tend(orders: socket.socket, other_end: socket.socket, contents: Parcel[object]) -> NoReturn:
    """In the nursery: fork, and say who ended how."""
    other_end.close()
    Parcel.inherited = contents
    _Nest(orders).run()


class _Nest:
    """The nursery's side."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._main = multiprocessing.parent_process()
        self._statuses: dict[BaseProcess, int] = {}
        self._woken, self._waker = os.pipe()
        for end in self._woken, self._waker:
            os.set_blocking(end, False)
        self._handlers = {
            number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGPIPE)
        }
        # Python writes to it when a signal has come, which is then seen by `poll`.
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lifeline.do_nothing)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def run(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 1 << 16)
                    self._tell_who_has_ended()
                elif not self._take_an_order():
                    os._exit(0)  # nobody is there any more

    def _tell_who_has_ended(self) -> None:
        for process, status in list(self._statuses.items()):
            if (code := process.exitcode) is not None:
                with contextlib.suppress(OSError):  # nobody may want to know
                    os.write(status, _NUMBER.pack(code))
                os.close(status)
                del self._statuses[process]
                process.close()

    def _take_an_order(self) -> bool:
        try:
            status, *descriptors = reduction.recvfds(self._orders, _MOST_DESCRIPTORS + 1)
            (length,) = _NUMBER.unpack(self._read(_NUMBER.size))
            name, data = pickle.loads(self._read(length))
        except (EOFError, OSError):
            return False
        for descriptor in (status, *descriptors):
            os.set_inheritable(descriptor, False)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._grow, args=(data, descriptors, status), name=name)
        try:
            process.start()
        except OSError as error:
            os.write(status, _NUMBER.pack(-(error.errno or errno.EAGAIN)))
            os.close(status)
        else:
            with contextlib.suppress(OSError):
                os.write(status, _NUMBER.pack(process.pid))
            self._statuses[process] = status
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._orders.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _grow(self, data: bytes, descriptors: list[int], status: int) -> None:
        """In a process that it has forked: leave the nursery behind."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._orders.close()
        for end in (self._woken, self._waker, status, *self._statuses.values()):
            os.close(end)
        vars(processes)["_parent_process"] = self._main
        _Sent.arrived = descriptors
        target, args, reader, limits = pickle.loads(data)
        begin(target, args, reader, limits)
