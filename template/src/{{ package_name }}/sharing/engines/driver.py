"""An engine that drives itself: from items to values, whoever the workers are.

How work flows:

    items ─▶ source ─▶ chunks ─▶ worker ─▶ job(item, state) … ─┐
                         ▲                                      │
    values ◀─ reader ◀───┴── in order ◀─ results, and deltas ◀──┘
                         │
                         └── again: what a dead worker had begun, what a slow one gave back

`scheduler` decides all of it, `pump` has it done by whoever waits, and a `Crew` reaches the
workers. Here is what a program calls: maps, each of which has a reader, and the way from opening
to closing. Every method may be called from any thread.
"""

from __future__ import annotations

import atexit
import itertools
import math
import operator
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Self, SupportsIndex, TypeVar, Unpack

from .. import errors
from ..errors import JobFailed, SharingError, brief
from ..options import MapOptions
from ..patterns.base import Pattern, patterns_of
from .chunks import Piece, Why
from .crew import Crew
from .engine import Engine, Outcome
from .failure import Failure, describe
from .pump import Pump, Reader
from .runs import Run, Settings, Shelf, Sizer, Sizes
from .salvage import UNFIT, salvage
from .scheduler import Scheduler
from .signals import Signals
from .sources import ReadByItself, ReadBySomebody, length_of, never_blocks

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

OPTIONS = MapOptions.__optional_keys__

TICK = 0.1
"""Seconds between two looks at whether a signal has come, while another thread closes."""

GRACE = 5.0
"""Seconds that running items have to end when the work is interrupted."""


_forks = 0  # between this process and the one that has started the program


def _is_a_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_is_a_fork)


Results = tuple[Sequence[object], list[object], dict[int, JobFailed]]
"""Consecutive items, their results, and the exceptions of those that have none, by their places."""


class Driver(Engine[S]):
    """See `Engine`.

    Args:
        state: what the workers share.
        workers: how many there are to be, as far as that is known before it opens.
        crew: the workers.
        sizes: of chunks, where nobody says so.
    """

    def __init__(self, state: S, workers: int, crew: Crew, sizes: Sizes) -> None:
        super().__init__(state, workers)
        self._crew = crew
        self._sizes = sizes
        self._patterns: list[Pattern] = []
        self._pump: Pump | None = None
        self._signals = Signals()
        self._numbers = itertools.count(1)
        self._beginning = threading.Lock()
        self._closing = threading.Lock()
        self._closer: int | None = None
        self._has_shut = threading.Event()
        self._is_open = False
        self._has_opened = False
        self._pid, self._forks = os.getpid(), _forks

    # Opening and closing

    def __enter__(self) -> Self:
        if self._has_opened:
            raise SharingError("an engine opens once: make another with open_engine()")
        self._patterns = patterns_of(self._state)
        try:
            with self._signals.put_off():
                self._open()
            self._signals.deliver()
            return self
        except BaseException:
            with suppress(SharingError):  # which would only hide why it does not open
                self._shut(whole=False, politely=False)
            raise

    def _open(self) -> None:
        """Open, while signals are put off; what a handler raises meanwhile ends it early."""
        self._has_opened = True
        self._pid, self._forks = os.getpid(), _forks
        self._signals.take()
        atexit.register(self._on_exit)
        self._crew.open(self._patterns)
        self._workers = self._crew.workers
        scheduler = Scheduler(self._workers, self._crew.eager)
        self._pump = Pump(scheduler, self._crew, self._patterns, self._signals)
        self._pump.open()
        while not self._pump.has_opened():
            raised = self._signals.raised()
            if raised is not None:
                raise raised
        self._is_open = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What a handler raised between two steps would leave the others undone.
        with self._signals.put_off():
            if os.getpid() != self._pid:  # a fork of the program has nothing to close
                return
            with self._closing:
                was_open, self._is_open = self._is_open, False
                if was_open:
                    self._closer = threading.get_ident()
            pump = self._pump
            if pump is None:  # it has never opened
                return
            interrupt = self._close(pump, kind) if was_open else self._wait_for_closer(pump)
        if interrupt is not None:
            raise interrupt
        self._signals.deliver()

    def _close(self, pump: Pump, kind: type[BaseException] | None) -> BaseException | None:
        """Close it; what has interrupted that, if anything."""
        interrupt = None
        try:
            if pump.error is None:
                interrupt = self._drain(pump, None if kind is None else GRACE)
            self._shut(
                whole=kind is None and interrupt is None and pump.error is None,
                politely=interrupt is None and pump.error is None,
            )
        finally:
            self._has_shut.set()
        return interrupt

    def _wait_for_closer(self, pump: Pump) -> BaseException | None:
        """Wait until another thread has closed it; what has interrupted that, if anything."""
        interrupt, end = None, math.inf
        if self._closer not in (None, threading.get_ident()):
            while not self._has_shut.wait(TICK):
                raised = self._signals.raised()
                if raised is not None:
                    grace = GRACE if interrupt is None else 0.0
                    interrupt, end = raised, time.monotonic() + grace
                if time.monotonic() >= end:
                    pump.hurry()
                    end = math.inf
        self._signals.give_back()  # which the other thread could not
        return interrupt

    def _drain(self, pump: Pump, grace: float | None) -> BaseException | None:
        """Let what runs end, within a grace if there is one; what has interrupted that, if any.

        Of what does not end in time, at least the items that had ended count: they run again.
        """
        interrupt: BaseException | None = None
        end = None if grace is None else time.monotonic() + grace
        has_hurried = False
        while pump.error is None:
            raised = self._signals.raised()
            if raised is not None:
                if has_hurried:
                    return raised
                interrupt, end = raised, time.monotonic() + GRACE
            if self._signals.hurried and not has_hurried:
                end = 0.0
            if end is not None and time.monotonic() >= end:
                if has_hurried:
                    break
                has_hurried, end = True, time.monotonic() + GRACE
                pump.hurry()
            if pump.drain(None if end is None else max(0.0, end - time.monotonic())):
                break
        return interrupt

    def _shut(self, *, whole: bool, politely: bool) -> None:
        """End the workers and clean up, whatever happens; values come back to this process."""
        self._is_open = False
        raised: BaseException | None = None
        with self._signals.put_off():
            if self._pump is not None:
                self._pump.stop()
                self._pump.end_crew(politely=politely)
                self._pump.let_go()
            for pattern in self._patterns:
                if pattern.is_open:
                    try:
                        pattern.shut(whole=whole)
                    except BaseException as error:
                        raised, whole = raised or error, False
            self._crew.close()
            atexit.unregister(self._on_exit)
            self._signals.give_back()
        if raised is not None:
            raise raised
        self._signals.deliver()

    def _on_exit(self) -> None:
        if os.getpid() != self._pid:  # a forked child has nothing to end
            return
        self._is_open = False
        with self._signals.put_off():
            if self._pump is not None:
                self._pump.stop()  # or it would start workers in place of those that end
            self._crew.forsake()

    # Maps

    def map(
        self, fn: Callable[[T, S], R], items: Iterable[T], **options: Unpack[MapOptions]
    ) -> Iterator[R]:
        reader = self._begin(fn, items, options)
        return Values(self._values(reader), *self._ends(reader))

    def outcomes(
        self, fn: Callable[[T, S], R], items: Iterable[T], **options: Unpack[MapOptions]
    ) -> Iterator[Outcome[T, R]]:
        reader = self._begin(fn, items, options)
        return Values(self._outcomes(reader), *self._ends(reader))

    def _begin(
        self, fn: Callable[..., object], items: Iterable[object], options: MapOptions
    ) -> Reader:
        pump = self._pump
        if not self._is_open or pump is None:
            raise SharingError("the engine is not open: use it inside its with statement")
        if os.getpid() != self._pid:
            raise SharingError("the engine was opened by another process: open one in this one")
        settings = _settings(fn, items, options)
        settings = self._crew.adapt(settings)
        job = self._pickled(fn)
        source = self._source(pump, items, options.get("source_thread", True))
        with self._beginning:
            run = Run(
                next(self._numbers),
                settings,
                job,
                Sizer(settings, self._workers, self._sizes),
                Shelf(ordered=settings.ordered),
                getattr(fn, "unread", frozenset()),
            )
            for pattern in self._patterns:
                pattern.map_begins(run.number)
        return Reader(run, source)

    def _source(
        self, pump: Pump, items: Iterable[object], own_thread: bool
    ) -> ReadBySomebody | ReadByItself:
        try:
            iter(items) if never_blocks(items) or not own_thread else items.__iter__
        except (TypeError, AttributeError):
            if not hasattr(items, "__getitem__"):
                raise SharingError(f"items must be an iterable, not {brief(items)}") from None
        kind = ReadBySomebody if never_blocks(items) or not own_thread else ReadByItself
        return kind(items, self._crew.dumps, pump.post)

    def _pickled(self, fn: Callable[..., object]) -> bytes:
        if not callable(fn):
            raise SharingError(f"a job must be a function, not {brief(fn)}")
        try:
            return self._crew.dumps(fn)
        except Exception as error:
            name = getattr(fn, "__qualname__", brief(fn))
            raise SharingError(
                f"the job {name} can't be pickled, so no worker can be given it: define it with "
                f"def at the top level of a module ({' '.join(str(error).split())})"
            ) from None

    def _values(self, reader: Reader) -> Generator[list[Any]]:
        for _, values, failures in self._results(reader):
            if not failures:
                yield values
                continue
            first = min(failures)
            yield values[:first]
            raise failures[first]

    def _outcomes(self, reader: Reader) -> Generator[list[Outcome[Any, Any]]]:
        for items, values, failures in self._results(reader):
            yield [
                Outcome(item, value, failures.get(place))
                for place, (item, value) in enumerate(zip(items, values, strict=True))
            ]

    def _results(self, reader: Reader) -> Generator[Results]:
        """What comes for a reader, until all has come; when it is left, what runs is waited for."""
        pump = self._pump
        assert pump is not None
        self._see_that_it_is_open(pump)
        reader.source.start()
        pump.begin(reader)
        mailbox, source, run, idle = reader.mailbox, reader.source, reader.run, pump.idle
        is_interrupted = False
        try:
            while True:
                if pump.error is not None or not self._is_open or self._forks != _forks:
                    self._see_that_it_is_open(pump)
                if self._signals.interrupted:
                    self._signals.goes_on()
                if source.has_orders:
                    source.bring()
                if mailbox:
                    if idle:
                        pump.flush()  # workers have something to do while the reader is away
                    piece = mailbox.popleft()
                    yield _unpacked(run, piece, self._signals)
                    pump.passed(run, piece)
                elif reader.is_finished:
                    break
                else:
                    pump.wait(reader)
            if not reader.is_whole:
                if reader.has_left:
                    raise SharingError("the map was closed while it was read")
                raise _has_closed()
            if reader.run.error is not None:
                raise reader.run.error
        except (KeyboardInterrupt, SystemExit):
            is_interrupted = True
            raise
        finally:
            reader.source.give_up()
            if not reader.is_finished and os.getpid() == self._pid:
                # When it is interrupted it is for the engine to wait, and not for long.
                pump.leave(reader, wait=not (is_interrupted or self._signals.interrupted))

    def _see_that_it_is_open(self, pump: Pump) -> None:
        if pump.error is not None:
            raise pump.error
        if not self._is_open:
            raise _has_closed()
        if self._forks != _forks:
            raise SharingError("a fork of the program reads a map: only the program itself can")

    def _ends(self, reader: Reader) -> tuple[Callable[[], bool], Callable[[], None]]:
        return partial(self._is_cut_off, reader), partial(self._leave, reader)

    def _is_cut_off(self, reader: Reader) -> bool:
        return not (self._is_open or reader.has_left or reader.is_whole)

    def _leave(self, reader: Reader) -> None:
        """Have a map end that another thread reads just now."""
        if self._pump is not None and not reader.is_finished:
            self._pump.leave(reader, wait=False)


class _Lists(Iterator[Iterator[R]]):
    """Lists that a generator yields, for several threads: each value is had by one of them.

    The iterator of a list is given out till it is exhausted, so that nobody who has another one
    meanwhile takes values along that are left in this one.
    """

    def __init__(self, lists: Generator[list[R]], leave: Callable[[], None]) -> None:
        self._lists = lists
        self._leave = leave
        self._asking = threading.RLock()
        self._is_asked = False
        self._was_asked_inside = False
        self._current: Iterator[R] = iter(())

    def __next__(self) -> Iterator[R]:
        with self._asking:
            if not operator.length_hint(self._current):
                self._current = iter(self._next_list())
            return self._current

    def _next_list(self) -> list[R]:
        if self._is_asked:
            # This ends the iteration that is under way as well, which must not look complete.
            self._was_asked_inside = True
            raise _asked_inside()
        self._is_asked = True
        try:
            found = next(self._lists)
        finally:
            self._is_asked = False
        if self._was_asked_inside:
            self._lists.close()
            raise _asked_inside()
        return found

    def close(self) -> None:
        if self._is_asked:
            self._leave()  # whoever reads it just now is told
        else:
            with self._asking:
                self._current = iter(())
                self._lists.close()


class Values(Iterator[R]):
    """The values of lists, one by one, at the cost of going through a list.

    A generator would have a frame to go back to for each of them. What a loop gets is no object
    of this class, which stands for those who ask with ``next`` or ``close``.

    Args:
        lists: brings them.
        is_cut_off: whether there are more, which will not come any more.
        leave: has it end when it is closed while another thread reads it.
    """

    def __init__(
        self,
        lists: Generator[list[R]],
        is_cut_off: Callable[[], bool],
        leave: Callable[[], None],
    ) -> None:
        self._lists = _Lists(lists, leave)
        self._values: Iterator[R] = chain.from_iterable(self._lists)
        self._is_cut_off = is_cut_off

    def __iter__(self) -> Iterator[R]:
        return self if self._is_cut_off() else self._values

    def __next__(self) -> R:
        try:
            return next(self._values)
        except StopIteration:
            if self._is_cut_off():
                raise _has_closed() from None
            raise

    def close(self) -> None:
        """End the map; see `Engine.map`."""
        self._lists.close()
        self._values = iter(())
        self._is_cut_off = _never


def _never() -> bool:
    return False


def _asked_inside() -> SharingError:
    return SharingError(
        "a map is read by what runs while it is read: its own source, or a handler of a signal"
    )


def _has_closed() -> SharingError:
    return SharingError("the engine has closed: read a map inside its with statement")


def _settings(fn: Callable[..., object], items: Iterable[object], options: MapOptions) -> Settings:
    """The options of a map, looked at.

    Raises:
        SharingError: one of them makes no sense.
    """
    chunk_size = options.get("chunk_size")
    retries = _whole(options.get("retries", 2))
    timeout = options.get("timeout")
    if chunk_size is not None and (_whole(chunk_size) or 0) < 1:
        raise SharingError(f"chunk_size must be a whole number above 0, not {chunk_size!r}")
    if retries is None or retries < 0:
        raise SharingError(f"retries must be a whole number, 0 or more, not {options['retries']!r}")
    try:
        timeout = None if timeout is None else float(timeout)
        fits = timeout is None or timeout > 0
    except OverflowError:  # longer than any float can say
        timeout, fits = math.inf, True
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise SharingError(f"timeout must be above 0 seconds, not {options['timeout']!r}")
    unknown = options.keys() - OPTIONS
    if unknown:
        raise TypeError(f"a map has no option {min(unknown)!r}")
    ordered = options.get("ordered", True)
    size = None if chunk_size is None else min(operator.index(chunk_size), sys.maxsize)
    return Settings(_name_of(fn), bool(ordered), size, retries, timeout, length_of(items))


def _whole(value: SupportsIndex | None) -> int | None:
    """The number, if it is a whole one, of whatever type."""
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        return None


def _name_of(fn: Callable[..., object]) -> str:
    """What to call a job in messages."""
    if isinstance(fn, partial):
        return _name_of(fn.func)
    return str(getattr(fn, "__name__", brief(fn)))


def _unpacked(run: Run, piece: Piece, signals: Signals) -> Results:
    """Results and exceptions, from what has come. This is where the user's code unpickles.

    What that raises is the item's, and does not end this program, nor the map as if it were whole;
    what a handler of a signal raises meanwhile does.
    """
    values: list[object] = []
    told: dict[int, Failure] = {}
    why = piece.failures
    if piece.body is None:
        values = [None] * len(piece.items)
    else:
        if piece.apart:
            packed, told = pickle.loads(piece.body)
            values = [None] * len(packed)
            for place, body in enumerate(packed):
                if body is not None:
                    try:
                        values[place] = pickle.loads(body)
                    except UNFIT as error:
                        if signals.interrupted:
                            raise
                        why[place] = Why("JobFailed", _unreadable(describe(error)))
        else:
            try:
                values, told = pickle.loads(piece.body)
            except UNFIT:
                if signals.interrupted:
                    raise
                values, told, broken = salvage(piece.body)
                why = {n: Why("JobFailed", _unreadable(one)) for n, one in broken.items()}
    if not (why or told):
        return piece.items, values, {}
    why = why | {place: Why("JobFailed", failure) for place, failure in told.items()}
    return piece.items, values, {n: _error(run.name, piece.items[n], w) for n, w in why.items()}


def _unreadable(failure: Failure) -> Failure:
    kind, text, trace = failure
    return kind, f"its result can't be unpickled: {text}", trace


def _error(job: str, item: object, why: Why) -> JobFailed:
    kind: type[JobFailed] = getattr(errors, why.kind)
    return kind(job, item, *why.failure)
