"""The part of an engine that is the same for all of them: from items to values.

How work flows, whoever the workers are:

    items ─▶ Run ─ chunks ─▶ an idle worker ─▶ job(item, state) … ─┐
               ▲                                                    │
    values ◀───┴── in order ◀─ results, and deltas for patterns ◀───┘
               │
               └── again: what a dead worker had begun, what a slow one gave back

There is no thread here: the iterator that `map` returns drives everything, by `_pump`, whenever
its reader asks for more. An engine says who is idle, how a chunk gets to a worker, and what has
come back.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import os
import pickle
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self, TypeVar

from ..errors import JobFailed, SharingError, WorkerDied
from ..patterns.base import Pattern, patterns_of
from .desk import Failure, describe
from .engine import Engine, Outcome
from .runs import Chunk, Piece, Run, Sizes

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

GRACE = 5.0
"""Seconds that running items have to end when the work is interrupted."""

TICK = 0.5
"""Seconds between looks at whether workers live, when nothing happens."""


class _Critical:
    """Puts off signals, so that what is done in it is done whole."""

    def __init__(self) -> None:
        self.depth = 0
        self.signalled: int | None = None

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth and self.signalled is not None:
            number, self.signalled = self.signalled, None
            signal.raise_signal(number)


class Driver(Engine[S]):
    """See `Engine`. A subclass says what is abstract here."""

    _sizes: ClassVar[Sizes] = Sizes(items=1 << 14, seconds=0.02, least=0.05, growth=4)

    def __init__(self, state: S, workers: int) -> None:
        super().__init__(state, workers)
        self._patterns: list[Pattern] = []
        self._runs: list[Run[Any]] = []
        self._driven: Run[Any] | None = None  # the map that is being read
        self._numbers = 0
        self._pid = os.getpid()
        self._is_open = False
        self._interrupted = False
        self._interrupt: BaseException | None = None
        self._hurried = False
        self._closing = False
        self._dead = False
        self._critical = _Critical()
        self._handlers: dict[int, Any] = {}

    # What an engine says

    @abstractmethod
    def _start(self) -> None:
        """Open the patterns on a host, and start the workers. Called once."""

    @abstractmethod
    def _end_workers(self, *, politely: bool) -> None:
        """End the workers: politely those that wait for work, the others at once."""

    @abstractmethod
    def _close_host(self) -> None:
        """Clean up all that is left of what `_start` has made, however far it came."""

    def _forsaken(self) -> None:
        """Called when the interpreter ends and nobody has closed the engine."""
        self._close_host()

    @abstractmethod
    def _pump(self, timeout: float) -> None:
        """Wait for something to happen, that long at most, and deal with it."""

    @abstractmethod
    def _idle(self) -> Any:
        """A worker that may be given a chunk, or None."""

    @abstractmethod
    def _dumps(self, items: list[Any]) -> bytes:
        """Pickle items for a worker."""

    @abstractmethod
    def _hand_over(self, worker: Any, chunk: Chunk, number: int, packed: bytes) -> None:
        """Send a chunk, its items pickled, to an idle worker, whose number is then this one."""

    @abstractmethod
    def _is_busy(self) -> bool:
        """Whether any worker has a chunk."""

    def _stop(self, run: Run[Any]) -> None:
        """Have those that work on this map begin no further item, where that can be said."""

    # Opening and closing

    def __enter__(self) -> Self:
        if self._is_open or self._dead:
            raise SharingError("an engine opens once: make another with open_engine()")
        self._patterns = patterns_of(self._state)
        self._is_open = True
        atexit.register(self._on_exit)
        self._take_signals()
        try:
            self._start()
        except BaseException:
            with suppress(SharingError):  # which would only hide why it does not open
                self._shut(whole=False, grace=0.0)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shut(whole=kind is None, grace=None if kind is None else GRACE)

    def _shut(self, *, whole: bool, grace: float | None) -> None:
        """Hand out no more, let what runs end within a grace, and clean up, whatever happens."""
        if not self._is_open:
            return
        self._closing = True
        interrupt: BaseException | None = None
        try:
            for run in self._runs:
                self._abandon(run)
            if not self._dead and not self._hurried:
                self._drain(grace)
        except BaseException as error:  # a second Ctrl-C: end it now
            interrupt, whole = error, False
        with self._critical:
            self._end_workers(politely=interrupt is None and not self._dead)
            for pattern in self._patterns:
                if pattern._is_open:
                    pattern._is_open = False
                    try:
                        pattern.close(whole=whole and not self._dead)
                    except BaseException as error:
                        interrupt = interrupt or error
                        whole = False
            self._close_host()
            self._is_open, self._dead = False, True
            atexit.unregister(self._on_exit)
            self._return_signals()
        if interrupt is not None:
            raise interrupt

    def _drain(self, grace: float | None) -> None:
        """Wait for what runs, and run again what had ended without an answer."""
        end = None if grace is None else time.monotonic() + grace
        while self._is_busy() or any(run.waiting for run in self._runs):
            self._hand_out(None)
            left = TICK if end is None else min(TICK, end - time.monotonic())
            if left <= 0:
                return
            self._pump(left)

    def _on_exit(self) -> None:
        if self._is_open and os.getpid() == self._pid:  # a forked child has nothing to end
            self._forsaken()

    # Signals

    def _take_signals(self) -> None:
        """Have neither hit the engine's own state; SIGTERM, too, becomes an exception."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler == signal.SIG_DFL or callable(handler):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _return_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._critical.depth:
            self._critical.signalled = number
            return
        self._hurried = self._interrupted  # the second: nothing is waited for any more
        handler = self._handlers.get(number)
        try:
            if callable(handler):
                handler(number, frame)
            else:
                raise SystemExit(128 + number)
        except BaseException as error:
            self._interrupted, self._interrupt = True, error
            raise

    def _raise_a_lost_interrupt(self) -> None:
        """Whoever goes on after it has not seen it: a destructor or the like swallows any."""
        if self._interrupt is not None:
            interrupt, self._interrupt = self._interrupt, None
            raise interrupt

    # Answers

    def _take_results(
        self,
        chunk: Chunk,
        slot: int,
        number: int,
        body: bytes | memoryview,
        ended: int,
        elapsed: float,
        deltas: dict[int, Any],
        refused: Failure | None,
    ) -> None:
        """What a worker answered: keep it, and put back what it has not begun."""
        run = chunk.run
        try:
            results, failed = pickle.loads(body)
        except Exception as error:
            text, trace = str(error), describe(error)[2]
            reason = f"its result can't be unpickled: {text}"
            refused = type(error).__name__, reason, trace
        if refused is not None:
            if self._split(chunk.part(0, ended, ended=True)):
                run.put_back(chunk.part(ended, len(chunk.items)))
                # Not counted till then: take back what the worker counted.
                self._worker_died(slot, number)
                return
            results, failed = [None], {0: refused}
        for place, delta in deltas.items():
            self._patterns[place].receive_delta(slot, delta)
        self._hand_ahead()  # not before: till here, all may have to be taken back
        failures = {
            place: JobFailed(run.name, chunk.items[place], *failure)
            for place, failure in failed.items()
        }
        run.learn(ended, elapsed, len(body) + chunk.nbytes * ended // len(chunk.items))
        run.put_back(chunk.part(ended, len(chunk.items)))
        run.take(chunk.first, Piece(chunk.items[:ended], results, failures))

    def _worker_died(self, slot: int, number: int, item: int = -1) -> list[int]:
        """Have each pattern undo what a worker had not ended, and say what it had done."""
        return [pattern.worker_died(slot, number, item) for pattern in self._patterns]

    def _take_unreadable(self, chunk: Chunk, failure: Failure) -> None:
        """A chunk that a worker could not unpickle: find the item."""
        if not self._split(chunk):
            error_type, text, trace = failure
            reason = f"a worker could not unpickle it: {text}"
            self._fail(chunk, JobFailed(chunk.run.name, chunk.items[0], error_type, reason, trace))

    def _split(self, chunk: Chunk) -> bool:
        """Put it back in halves, to find the item with which something is wrong; if it can be."""
        length = len(chunk.items)
        if length == 1:
            return False
        chunk.run.put_back(chunk.part(0, length // 2))
        chunk.run.put_back(chunk.part(length // 2, length))
        return True

    def _fail(self, chunk: Chunk, error: JobFailed) -> None:
        chunk.run.take(chunk.first, Piece(chunk.items, [None], {0: error}))

    def _sort_out(self, chunk: Chunk, item: int, began: bool, left: list[int]) -> Chunk | None:
        """Put back what a dead worker had, but for the one item that is to blame, if any is.

        Args:
            chunk: what it had.
            item: the place of the item that was running, or ~n where n had ended.
            began: whether it had come as far as to say so.
            left: what the patterns say of that item.
        """
        run, length = chunk.run, len(chunk.items)
        if not began:
            run.put_back(chunk)
            return None
        ended = item if item >= 0 else ~item
        run.put_back(chunk.part(0, ended, ended=True))
        if item < 0:
            if ended:
                run.put_back(chunk.part(ended, length))
            elif not self._split(chunk):  # it died while it unpickled them
                return chunk
            return None
        run.put_back(chunk.part(item + 1, length))
        suspect = chunk.part(item, item + 1)
        suspect.died = chunk.died
        suspect.left = {place: max(n, chunk.left.get(place, 0)) for place, n in enumerate(left)}
        return suspect

    def _try_again(self, suspect: Chunk, how: str) -> None:
        """Run an item again whose worker died, unless it had its tries."""
        run = suspect.run
        suspect.died += 1
        if suspect.died <= run.retries:
            run.put_back(suspect)
            return
        times = "once" if suspect.died == 1 else f"{suspect.died} times, the last"
        reason = f"its worker died {times} {how}"
        self._fail(suspect, WorkerDied(run.name, suspect.items[0], "WorkerDied", reason))

    # Handing out

    def _hand_out(self, driven: Run[Any] | None) -> None:
        """Give idle workers something to do: of the map that is being read, or what came back."""
        while self._idle() is not None:
            chunk = None
            if driven is not None:
                chunk = driven.next_chunk()
            if chunk is None:
                for run in self._runs:
                    if run.waiting:
                        chunk = heapq.heappop(run.waiting)
                        break
            if chunk is None:
                return
            # Reading the source may have run other maps: look who is idle now.
            worker = self._idle()
            if worker is None:
                chunk.run.put_back(chunk)
                return
            with self._critical:
                self._give(worker, chunk)

    def _give(self, worker: Any, chunk: Chunk) -> None:
        packed = self._pack(chunk)
        if packed is not None:
            chunk.packed = None
            self._numbers += 1
            self._hand_over(worker, chunk, self._numbers, packed)
            chunk.run.running += 1

    def _pack(self, chunk: Chunk) -> bytes | None:
        """Its items, pickled; None if they can't be: then see what becomes of them."""
        if chunk.packed is None:
            try:
                chunk.packed = self._dumps(chunk.items)
            except Exception as error:
                if not self._split(chunk):
                    error_type, text, trace = describe(error)
                    reason = f"it can't be pickled: {text}"
                    failure = JobFailed(chunk.run.name, chunk.items[0], error_type, reason, trace)
                    self._fail(chunk, failure)
                return None
            chunk.nbytes = len(chunk.packed)
        return chunk.packed

    def _look_ahead(self, run: Run[Any]) -> None:
        """While all are at work, make ready what the first one gets who has ended."""
        if self._idle() is None and (chunk := run.look_ahead()) is not None:
            with self._critical:
                if self._pack(chunk) is None:
                    run.ahead = None

    def _hand_ahead(self) -> None:
        """Have somebody who has ended at work again, before what has come is passed on."""
        run = self._driven
        if run is None or run.ahead is None or any(one.waiting for one in self._runs):
            return
        worker = self._idle()
        if worker is not None:
            chunk, run.ahead = run.ahead, None
            self._give(worker, chunk)

    # Maps

    def map(
        self,
        fn: Callable[[T, S], R],
        items: Iterable[T],
        *,
        ordered: bool = True,
        chunk_size: int | None = None,
        retries: int = 2,
        timeout: float | None = None,
    ) -> Iterator[R]:
        return Values(self._values(self._begin(fn, items, ordered, chunk_size, retries, timeout)))

    def outcomes(
        self,
        fn: Callable[[T, S], R],
        items: Iterable[T],
        *,
        ordered: bool = True,
        chunk_size: int | None = None,
        retries: int = 2,
        timeout: float | None = None,
    ) -> Iterator[Outcome[T, R]]:
        return self._outcomes(self._begin(fn, items, ordered, chunk_size, retries, timeout))

    def _begin(
        self,
        fn: Callable[[T, S], R],
        items: Iterable[T],
        ordered: bool,
        chunk_size: int | None,
        retries: int,
        timeout: float | None,
    ) -> Run[T]:
        if not self._is_open:
            raise SharingError("the engine is not open: use it inside its with statement")
        if chunk_size is not None and chunk_size < 1:
            raise SharingError(f"chunk_size must be above 0, not {chunk_size!r}")
        if retries < 0:
            raise SharingError(f"retries must be 0 or more, not {retries!r}")
        if timeout is not None and not timeout > 0:
            raise SharingError(f"timeout must be above 0 seconds, not {timeout!r}")
        self._interrupted = self._hurried = False  # whoever begins another map goes on
        self._interrupt = None
        self._numbers += 1
        settings = ordered, chunk_size, retries, timeout, self._sizes
        run = Run(self._numbers, self._workers, fn, items, *settings)
        for pattern in self._patterns:
            pattern.map_begins(run.number)
        return run

    def _values(self, run: Run[T]) -> Generator[list[Any]]:
        with self._driving(run) as pieces:
            for piece in pieces:
                if not piece.failures:
                    yield piece.results
                    continue
                first = min(piece.failures)
                yield piece.results[:first]
                raise piece.failures[first]

    def _outcomes(self, run: Run[T]) -> Iterator[Outcome[T, Any]]:
        with self._driving(run) as pieces:
            for piece in pieces:
                for place, (item, result) in enumerate(
                    zip(piece.items, piece.results, strict=True)
                ):
                    yield Outcome(item, result, piece.failures.get(place))

    @contextmanager
    def _driving(self, run: Run[T]) -> Iterator[Iterator[Piece]]:
        if not self._is_open:
            raise SharingError("the engine has closed: read a map inside its with statement")
        self._runs.append(run)
        try:
            yield self._pieces(run)
        except (KeyboardInterrupt, SystemExit):
            self._interrupted = True
            raise
        finally:
            self._abandon(run)
            # When interrupted it is for the engine to wait, and not for long.
            while (run.running or run.waiting) and not self._interrupted and self._can_pump:
                self._hand_out(None)
                self._pump(TICK)
            self._runs.remove(run)
            self._driven = None  # or its source would stay open till another map is read

    @property
    def _can_pump(self) -> bool:
        return self._is_open and not (self._closing or self._dead or self._critical.depth)

    def _pieces(self, run: Run[T]) -> Iterator[Piece]:
        while True:
            self._raise_a_lost_interrupt()
            self._driven = run
            if run.trickles and run.running and not run.ready:
                # A slow source: give what runs a little time before waiting for the next item.
                self._pump(min(run.trickles / 4, 0.1))
            else:
                self._pump(0.0)
            if not (run.trickles and run.ready):  # a slow source waits for its reader
                self._hand_out(run)
                self._look_ahead(run)
            if run.ready:
                piece = run.ready.popleft()
                yield piece
                run.yielded += len(piece.results)
            elif run.finished:
                return
            elif run.running or self._idle() is None:
                self._pump(TICK)

    def _abandon(self, run: Run[T]) -> None:
        """Hand out no more of it; what is running ends with its item."""
        run.exhausted = run.abandoned = True
        run.ahead = None
        run.waiting = [chunk for chunk in run.waiting if chunk.ended]
        self._stop(run)


class Values(Iterator[R]):
    """The values of lists, one by one, at the cost of going through a list.

    A generator would have a frame to go back to for each of them. What a loop gets is no object
    of this class, which stands for those who ask with ``next`` or ``close``.
    """

    def __init__(self, lists: Generator[list[R]]) -> None:
        self._lists = lists
        self._values = chain.from_iterable(lists)

    def __iter__(self) -> Iterator[R]:
        return self._values

    def __next__(self) -> R:
        return next(self._values)

    def close(self) -> None:
        """End the map; see `Engine.map`."""
        self._lists.close()


def levels_of_loggers() -> dict[str, int]:
    """What the loggers of this process let through, where they say so themselves, by name."""
    levels = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {"": logging.root.level, **levels}


def log_here(record: bytes | memoryview) -> None:
    """Handle a record that a worker has pickled as one of this process."""
    found: logging.LogRecord = pickle.loads(record)
    logger = logging.getLogger(found.name)
    if logger.isEnabledFor(found.levelno):
        logger.handle(found)


def death(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = f"signal {-exitcode}"
        hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"by {name}{hint}"
    return f"with exit code {exitcode}"


def unfit_field(state: object, patterns: list[Pattern], error: Exception) -> SharingError:
    """Say which field of a state can't be pickled."""
    reason = " ".join(str(error).split())
    known = {id(pattern) for pattern in patterns}
    for name, value in vars(state).items():
        if id(value) not in known:
            try:
                pickle.dumps(value)
            except Exception:
                return SharingError(
                    f"the field {name!r} of the state can't be pickled, so no worker can be "
                    f"given it ({reason}): let each worker make its own, with PerWorker"
                )
    return SharingError(f"the state can't be pickled, so no worker can be given it: {reason}")
