"""Signals that end a program, while an engine is open: raised where nothing is half done.

An exception in the middle of a change would leave the engine in no state at all. So while the main
thread is inside the engine a signal only wakes it, and the handler that the program had set is
called when the engine has come to the end of what it was doing. Elsewhere that handler is called
at once, and what it raises is the program's to handle: it is raised once.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)

OTHERS = tuple(
    getattr(signal, name)
    for name in ("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
)
"""Signals that a program may have a handler for that raises, such as its own timeout."""

Handler = Callable[[int, FrameType | None], object] | int | None
"""What `signal.signal` takes and returns."""


_handler_of: Callable[[int], Handler] = getattr(
    sys.modules.get("_signal"), "getsignal", signal.getsignal
)
_handle_by: Callable[[int, Handler], Handler] = getattr(
    sys.modules.get("_signal"), "signal", signal.signal
)
"""`signal.getsignal` and `signal.signal` without the enumerations around them, which take longer
than a turn's books."""


def _nobody() -> None:
    pass


class Signals:
    """The handlers of an engine.

    Attributes:
        interrupted: whether one has raised, and nobody has gone on with a map since.
        hurried: whether another one came then: nothing is waited for any more.
    """

    def __init__(self) -> None:
        self._before: dict[int, Handler] = {}
        self._taken: list[int] = []
        self._inside = 0
        self._pending: list[tuple[int, FrameType | None]] = []
        self._wakers: list[Callable[[], None]] = []
        self._is_over = False
        self.interrupted = False
        self.hurried = False
        self._main = threading.main_thread().ident
        self._ours = self._on_signal  # one object, to be known again

    def take(self) -> None:
        """Set the handlers, if this is the thread that may; SIGTERM, too, becomes an exception."""
        if threading.get_ident() != self._main:
            return
        for number in (*NUMBERS, *OTHERS):
            handler = signal.getsignal(number)
            if callable(handler) or (number in NUMBERS and handler == signal.SIG_DFL):
                self._before[number] = signal.signal(number, self._ours)
                if number in NUMBERS:
                    self._taken.append(number)

    def borrow(self) -> list[int]:
        """Put off what was set since, too: the numbers, for `put_back`. Called after `enter`."""
        borrowed = []
        for number in OTHERS:
            handler = _handler_of(number)
            if handler is not self._ours and callable(handler):
                self._before[number] = handler
                _handle_by(number, self._ours)
                borrowed.append(number)
        return borrowed

    def put_back(self, borrowed: list[int]) -> None:
        """Undo `borrow`."""
        for number in borrowed:
            _handle_by(number, self._before[number])

    def give_back(self) -> None:
        """Set those again that were there, unless the program has set others since.

        Only the main thread can. If another one calls this, a signal that comes has it done.
        """
        self._is_over = True
        if threading.get_ident() != self._main:
            return
        for number, handler in self._before.items():
            if signal.getsignal(number) is self._ours:
                signal.signal(number, handler)

    def may_be_inside(self) -> bool:
        """Whether this thread can be inside the engine without an exception of a handler."""
        if threading.get_ident() != self._main:
            return True
        for number in self._taken:
            if _handler_of(number) is not self._ours:
                return False
        return bool(self._taken)

    def enter(self, wake: Callable[[], None]) -> bool:
        """Inside the engine: put them off, and have a thread woken that waits; for `leave`."""
        if threading.get_ident() != self._main:
            return False
        self._inside += 1  # from here on no handler raises
        self._wakers.append(wake)
        return True

    def leave(self) -> None:
        """Undo the last `enter`. What came meanwhile is due at `deliver`."""
        self._wakers.pop()
        self._inside -= 1

    @contextmanager
    def put_off(self, wake: Callable[[], None] = _nobody) -> Iterator[None]:
        """The same for a block."""
        entered = self.enter(wake)
        try:
            yield
        finally:
            if entered:
                self.leave()

    @property
    def are_due(self) -> bool:
        """Whether there is something to `deliver`, in this thread."""
        return bool(self._pending) and threading.get_ident() == self._main

    def deliver(self) -> None:
        """Call the handlers of the program for what came meanwhile."""
        if not self._inside and threading.get_ident() == self._main:
            while self._pending:
                self._call(*self._pending.pop(0))

    def raised(self) -> BaseException | None:
        """Call the handlers for what came while all of it is put off; what one raises, if any."""
        while self.are_due:
            try:
                self._call(*self._pending.pop(0))
            except BaseException as error:
                return error
        return None

    def goes_on(self) -> None:
        """A map is read on, so what was raised has been handled, if that is the main thread."""
        if threading.get_ident() == self._main:
            self.interrupted = self.hurried = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:  # another thread has closed the engine, or one that was opened later
            handler = self._before[number]
            self.give_back()
            if callable(handler):
                handler(number, frame)
            else:
                signal.signal(number, handler)
                signal.raise_signal(number)
            return
        if number in NUMBERS:
            self.hurried |= self.interrupted or bool(self._pending)
        if self._inside or _is_swallowed(frame):
            self._pending.append((number, frame))
            for wake in self._wakers:
                wake()
            return
        self._call(number, frame)

    def _call(self, number: int, frame: FrameType | None) -> None:
        handler = self._before.get(number)
        try:
            if callable(handler):
                handler(number, frame)
            else:
                raise SystemExit(128 + number)
        except BaseException:
            self.interrupted = True
            raise


def _is_swallowed(frame: FrameType | None) -> bool:
    """Whether Python would ignore an exception there: in a destructor it only prints it."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
