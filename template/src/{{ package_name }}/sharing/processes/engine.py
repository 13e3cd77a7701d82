"""The parent's side of the engine of one machine.

How work flows:

    items ─▶ Run ─ chunks ─▶ idle worker ─ pipe ─▶ job(item, state) … ─┐
               ▲                                                       │
    values ◀───┴── in order ◀─ results, and deltas for the patterns ◀──┘
               │
               └── again: what a dead worker had begun, what a slow one gave back

Each worker has a pipe of its own and one chunk at a time, so the parent knows what died with
it, and no queue has a lock that could be left held. There is no thread here: the iterator
that `map` returns drives everything, by `_pump`, whenever its reader asks for more.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import multiprocessing
import os
import pickle
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from ..engine import Engine, Outcome, available_cores
from ..errors import (
    ItemTimeout,
    JobFailed,
    ServiceLost,
    SharingError,
    StartFailed,
    WorkerDied,
)
from ..pattern import EVERY_SECTION, Pattern, patterns_of
from . import lifeline, worker
from .channel import Channel, Frame, pack
from .host import ProcessHost
from .memory import Parcel, Words
from .runs import Chunk, Piece, Run

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

START_METHODS = ("spawn", "forkserver", "fork")

GRACE = 5.0
"""Seconds that running items have to end when the work is interrupted."""

_TICK = 0.5
"""Seconds between looks at whether workers live, when nothing happens."""


def open_engine(state: S, workers: int, start_method: str | None) -> Engine[S]:
    """The engine; see `sharing.open_engine`."""
    method = start_method or START_METHODS[0]
    allowed = [m for m in START_METHODS if m in multiprocessing.get_all_start_methods()]
    if method not in allowed:
        raise SharingError(
            f"unknown start method {start_method!r}: choose one of {', '.join(allowed)}"
        )
    return ProcessEngine(state, workers, method)


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


class _Worker:
    """A worker process, as the parent knows it."""

    def __init__(self, slot: int, process: BaseProcess, channel: Channel, line: memoryview) -> None:
        self.slot = slot
        self.process = process
        self.channel = channel
        self.line = line
        self.ready = False
        self.number = 0
        self.job = 0  # the map whose job it has
        self.chunk: Chunk | None = None
        self.stuck: tuple[int, int] | None = None
        self.writes = False

    def running_item(self) -> int:
        """The place of the item that runs, or ~n where n have ended; all of this chunk."""
        if self.line[worker.CHUNK] != self.number:
            return ~0
        item: int = self.line[worker.ITEM]
        return item


class ProcessEngine(Engine[S]):
    """See `Engine`."""

    def __init__(self, state: S, workers: int, start_method: str) -> None:
        super().__init__(state, workers)
        self._context: Any = multiprocessing.get_context(start_method)
        self._host: ProcessHost | None = None
        self._patterns: list[Pattern] = []
        self._team: dict[int, _Worker] = {}
        self._runs: list[Run[Any]] = []
        self._numbers = 0
        self._failed_starts = 0
        self._pid = os.getpid()
        self._interrupted = False
        self._interrupt: BaseException | None = None
        self._hurried = False
        self._closing = False
        self._dead = False
        self._critical = _Critical()
        self._handlers: dict[int, Any] = {}

    # Opening and closing

    def __enter__(self) -> Self:
        if self._host is not None or self._dead:
            raise SharingError("an engine opens once: make another with open_engine()")
        self._patterns = patterns_of(self._state)
        self._host = ProcessHost(self._context, self._workers + 1)
        self._selector = selectors.DefaultSelector()
        atexit.register(self._end_all)
        self._take_signals()
        try:
            for pattern in self._patterns:
                pattern.open(self._host)
                pattern._is_open = True
            self._host.services.start()
            self._watch_services()
            for pattern in self._patterns:
                pattern.opened()
            self._words = Words((self._workers + 1) * worker.LINE)
            for slot in range(1, self._workers + 1):
                with self._critical:  # one that has started must be known, to be ended
                    self._start_worker(slot)
            while not all(member.ready for member in self._team.values()):
                self._pump(_TICK)
                self._raise_a_lost_interrupt()
        except BaseException:
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
        if self._host is None:
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
            self._end_team(politely=interrupt is None and not self._dead)
            for pattern in self._patterns:
                if pattern._is_open:
                    pattern._is_open = False
                    try:
                        pattern.close(whole=whole and not self._dead)
                    except BaseException as error:
                        interrupt = interrupt or error
                        whole = False
            self._host.close()
            self._selector.close()
            self._host, self._dead = None, True
            atexit.unregister(self._end_all)
            self._return_signals()
        if interrupt is not None:
            raise interrupt

    def _drain(self, grace: float | None) -> None:
        """Wait for what runs, and run again what had ended without an answer."""
        end = None if grace is None else time.monotonic() + grace
        while any(member.chunk for member in self._team.values()) or any(
            run.waiting for run in self._runs
        ):
            self._hand_out(None)
            left = _TICK if end is None else min(_TICK, end - time.monotonic())
            if left <= 0:
                return
            self._pump(left)

    def _end_team(self, *, politely: bool) -> None:
        """End the workers: those that wait for work in order, the others at once."""
        polite = [m for m in self._team.values() if politely and m.ready and m.chunk is None]
        for member in polite:
            member.channel.post(pack(None))
        end = time.monotonic() + GRACE
        for member in polite:
            while member.process.exitcode is None and time.monotonic() < end:
                member.process.join(0.02)
                self._hear_logs(member)  # one that nobody reads could not end
            self._hear_logs(member)
        at_work = [m for m in self._team.values() if m.chunk is not None]
        self._kill_all()
        for member in at_work:
            self._repair(member)

    def _hear_logs(self, member: _Worker) -> None:
        for frame in member.channel.drain():
            self._log(frame)

    def _kill_all(self) -> None:
        if os.getpid() != self._pid:  # a forked child, which has none
            return
        for member in self._team.values():
            member.process.kill()
        for member in self._team.values():
            member.process.join()
            member.channel.close()
            member.process.close()
        self._team.clear()

    def _end_all(self) -> None:
        """For an engine that nobody has closed: the interpreter would wait for its processes."""
        self._kill_all()
        if self._host is not None and os.getpid() == self._pid:
            self._host.close()

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

    # Workers

    def _start_worker(self, slot: int) -> None:
        from_worker, to_parent = self._context.Pipe(duplex=False)
        from_parent, to_worker = self._context.Pipe(duplex=False)
        ours, theirs = (from_worker, to_worker), (from_parent, to_parent)
        line = worker.line_of(self._words, slot)
        line[worker.CHUNK] = line[worker.STOP] = 0
        levels = {
            name: logger.level
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and logger.level
        }
        setup = worker.Setup(
            slot, self._state, self._words, theirs, {"": logging.root.level, **levels}
        )
        parcel = Parcel(setup)
        process = self._context.Process(target=worker.main, args=(parcel,), name=f"worker-{slot}")
        try:
            with lifeline.thread_limits(max(1, available_cores() // self._workers)):
                lifeline.start(process)
        except OSError:
            raise
        except Exception as error:  # any: a class may raise what it likes when it is pickled
            for end in ours:
                end.close()
            raise SharingError(self._what_cannot_be_pickled(error)) from None
        finally:
            parcel.close()
            for end in theirs:
                end.close()
        channel = Channel(ours, blocking=False)
        member = self._team[slot] = _Worker(slot, process, channel, line)
        self._selector.register(channel.reader, selectors.EVENT_READ, member)
        self._selector.register(process.sentinel, selectors.EVENT_READ, member)

    def _what_cannot_be_pickled(self, error: Exception) -> str:
        reason = " ".join(str(error).split())
        patterns = {id(pattern) for pattern in self._patterns}
        for name, value in vars(self._state).items():
            if id(value) not in patterns:
                try:
                    pickle.dumps(value)
                except Exception:
                    return (
                        f"the field {name!r} of the state can't be pickled, so no worker can be "
                        f"given it ({reason}): let each worker make its own, with PerWorker"
                    )
        return f"the state can't be pickled, so no worker can be given it: {reason}"

    def _watch_services(self) -> None:
        assert self._host is not None
        process = self._host.services.process
        if process is not None:
            self._selector.register(process.sentinel, selectors.EVENT_READ, None)

    def _restart_services(self) -> None:
        assert self._host is not None
        services = self._host.services
        if services.process is None or services.process.exitcode is None:
            return
        self._selector.unregister(services.process.sentinel)
        services.stop()
        if not self._closing:
            with suppress(ServiceLost):  # what they offer is done without
                services.start()
                self._watch_services()

    # Events

    def _pump(self, timeout: float) -> None:
        """Wait for something to happen, that long at most, and deal with it."""
        deadline = self._next_deadline()
        if deadline is not None:
            timeout = max(0.0, min(timeout, deadline - time.monotonic()))
        events = self._selector.select(timeout)
        with self._critical:
            try:
                self._deal_with(events)
                if deadline is not None or (timeout and not events):
                    self._look_after_all()
            except BaseException:
                self._dead = True  # nothing here can be relied on: don't listen again
                raise

    def _deal_with(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in events:
            member: _Worker | None = key.data
            if member is None:
                self._restart_services()
            elif self._team.get(member.slot) is not member:
                continue  # its other event has buried it
            elif key.fileobj == member.channel.reader:
                self._hear(member)
            elif key.fileobj == member.channel.writer:
                self._send(member, [])
            else:
                self._bury(member)

    def _look_after_all(self) -> None:
        """End what is stuck; notice deaths that no event told of."""
        now = time.monotonic_ns()
        for member in list(self._team.values()):
            if member.process.exitcode is not None:
                self._bury(member)
            elif (chunk := member.chunk) is not None and chunk.run.timeout is not None:
                item, since = member.running_item(), member.line[worker.SINCE]
                late = item >= 0 and now - since > chunk.run.timeout * 1e9
                if late and member.running_item() == item:  # so `since` was of this one
                    member.stuck = member.number, item
                    member.process.kill()
        self._restart_services()

    def _next_deadline(self) -> float | None:
        """When the next item will have run for too long."""
        deadlines = []
        for member in self._team.values():
            if (chunk := member.chunk) is not None and chunk.run.timeout is not None:
                item = member.running_item()
                since = member.line[worker.SINCE] / 1e9 if item >= 0 else time.monotonic()
                deadlines.append(since + chunk.run.timeout + 0.001)
        return min(deadlines, default=None)

    def _hear(self, member: _Worker) -> None:
        for frame in member.channel.drain():
            self._receive(member, frame)
        if member.channel.ended and self._team.get(member.slot) is member:
            # The other end is closed: dead, or as good as dead, since it can't answer.
            member.process.kill()
            self._bury(member)

    def _receive(self, member: _Worker, frame: Frame) -> None:
        (kind, *head), body = frame
        if kind == "done":
            self._take_answer(member, body, *head)
        elif kind == "unreadable":
            self._take_unreadable(member, *head)
        elif kind == "ready":
            member.ready = True
            self._failed_starts = 0
        elif kind == "failed":
            error_type, text, trace = head[0]
            raise StartFailed(
                f"worker {member.slot} failed while it started: {error_type}: {text}", trace
            )
        else:
            self._log(frame)

    def _log(self, frame: Frame) -> None:
        (kind, *_), body = frame
        if kind == "log":
            record = pickle.loads(body)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    def _take_answer(
        self,
        member: _Worker,
        body: memoryview,
        number: int,
        ended: int,
        elapsed: float,
        deltas: dict[int, Any],
        refused: worker.Failure | None,
    ) -> None:
        chunk = self._released(member, number)
        run = chunk.run
        try:
            results, failed = pickle.loads(body)
        except Exception as error:
            text, trace = str(error), worker.describe(error)[2]
            reason = f"its result can't be unpickled: {text}"
            refused = type(error).__name__, reason, trace
        if refused is not None:
            if self._split(chunk.part(0, ended, ended=True)):
                run.put_back(chunk.part(ended, len(chunk.items)))
                # Not counted till then: take back what the worker counted.
                for pattern in self._patterns:
                    pattern.worker_died(member.slot, number, -1)
                return
            results, failed = [None], {0: refused}
        for place, delta in deltas.items():
            self._patterns[place].receive_delta(member.slot, delta)
        failures = {
            place: JobFailed(run.name, chunk.items[place], *failure)
            for place, failure in failed.items()
        }
        run.learn(ended, elapsed, len(body) + chunk.nbytes * ended // len(chunk.items))
        run.put_back(chunk.part(ended, len(chunk.items)))
        run.take(chunk.first, Piece(chunk.items[:ended], results, failures))

    def _take_unreadable(self, member: _Worker, number: int, failure: worker.Failure) -> None:
        """A chunk that the worker could not unpickle: find the item."""
        chunk = self._released(member, number)
        member.job = 0  # it came with the items
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

    def _released(self, member: _Worker, number: int) -> Chunk:
        chunk = member.chunk
        if chunk is None or member.number != number:
            raise SharingError(f"worker {member.slot} answered what it was not asked")
        member.chunk = None
        chunk.run.running -= 1
        return chunk

    # Deaths

    def _bury(self, member: _Worker) -> None:
        """A worker is gone: repair what it shared, and see to its chunk; start another."""
        member.process.join()
        while frames := member.channel.drain():
            for frame in frames:
                self._receive(member, frame)
        del self._team[member.slot]
        self._selector.unregister(member.channel.reader)
        if member.writes:
            self._selector.unregister(member.channel.writer)
        self._selector.unregister(member.process.sentinel)
        exitcode = member.process.exitcode
        # Ends one that lives on, as after the death of a forkserver: from here it does no more.
        member.process.close()
        item = member.running_item() if member.chunk is not None else ~0
        left = self._repair(member)
        chunk, member.chunk = member.chunk, None
        member.channel.close()
        if chunk is not None:
            chunk.run.running -= 1
            began = member.line[worker.CHUNK] == member.number
            self._sort_out(chunk, item, began, left, member, exitcode)
        if not member.ready:
            self._failed_starts += 1
            if not lifeline.worth_another_start(exitcode, self._failed_starts):
                raise StartFailed(
                    f"worker {member.slot} ended while it started, {_death(exitcode)}: "
                    "does the main module open the engine under if __name__ == '__main__'?"
                )
        if not self._closing or any(run.waiting for run in self._runs):
            self._start_worker(member.slot)

    def _repair(self, member: _Worker) -> list[int]:
        """Have each pattern undo what a dead worker had not ended, and say what it had done."""
        number, item = (member.number, member.running_item()) if member.chunk else (0, ~0)
        return [p.worker_died(member.slot, number, max(item, -1)) for p in self._patterns]

    def _sort_out(
        self,
        chunk: Chunk,
        item: int,
        began: bool,
        left: list[int],
        member: _Worker,
        exitcode: int | None,
    ) -> None:
        """Blame the one item that was running, and nobody else."""
        run, length = chunk.run, len(chunk.items)
        if not began:
            run.put_back(chunk)
            return
        ended = item if item >= 0 else ~item
        run.put_back(chunk.part(0, ended, ended=True))
        if item < 0:
            if ended:
                run.put_back(chunk.part(ended, length))
            elif not self._split(chunk):  # it died while it unpickled them
                self._try_again(chunk, exitcode)
            return
        run.put_back(chunk.part(item + 1, length))
        suspect = chunk.part(item, item + 1)
        suspect.died = chunk.died
        suspect.left = {place: max(n, chunk.left.get(place, 0)) for place, n in enumerate(left)}
        if member.stuck is None:
            self._try_again(suspect, exitcode)
        elif member.stuck == (member.number, item):
            reason = f"it ran for more than {run.timeout:g} s, and its worker was ended"
            self._fail(suspect, ItemTimeout(run.name, suspect.items[0], "ItemTimeout", reason))
        else:  # it had just begun, when the one before it was taken for stuck
            run.put_back(suspect)

    def _try_again(self, suspect: Chunk, exitcode: int | None) -> None:
        run = suspect.run
        suspect.died += 1
        if suspect.died <= run.retries:
            run.put_back(suspect)
            return
        times = "once" if suspect.died == 1 else f"{suspect.died} times, the last"
        reason = f"its worker died {times} {_death(exitcode)}"
        self._fail(suspect, WorkerDied(run.name, suspect.items[0], "WorkerDied", reason))

    # Handing out

    def _hand_out(self, driven: Run[Any] | None) -> None:
        """Give idle workers something to do: of the map that is being read, or what came back."""
        while self._has_idle():
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
            for member in self._team.values():
                if member.ready and member.chunk is None:
                    with self._critical:
                        self._give(member, chunk)
                    break
            else:
                chunk.run.put_back(chunk)
                return

    def _give(self, member: _Worker, chunk: Chunk) -> None:
        run = chunk.run
        known = member.job == run.number
        try:
            body = pickle.dumps((None if known else run.job, chunk.items), protocol=5)
        except Exception as error:
            if not self._split(chunk):
                error_type, text, trace = worker.describe(error)
                reason = f"it can't be pickled: {text}"
                self._fail(chunk, JobFailed(run.name, chunk.items[0], error_type, reason, trace))
            return
        member.job = run.number
        chunk.nbytes = len(body)
        self._numbers += 1
        left = chunk.left
        if chunk.ended:
            left = dict.fromkeys(range(len(self._patterns)), EVERY_SECTION)
        member.chunk, member.number, member.stuck = chunk, self._numbers, None
        member.line[worker.STOP] = 0
        run.running += 1
        timed = run.timeout is not None
        self._send(member, pack((self._numbers, run.number, chunk.first, timed, left), body))

    def _send(self, member: _Worker, parts: list[bytes]) -> None:
        member.channel.post(parts)
        if member.channel.is_sending != member.writes:
            member.writes = member.channel.is_sending
            if member.writes:
                self._selector.register(member.channel.writer, selectors.EVENT_WRITE, member)
            else:
                self._selector.unregister(member.channel.writer)

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
        return self._values(self._begin(fn, items, ordered, chunk_size, retries, timeout))

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
        if self._host is None:
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
        run = Run(self._numbers, self._workers, fn, items, ordered, chunk_size, retries, timeout)
        for pattern in self._patterns:
            pattern.map_begins(run.number)
        return run

    def _values(self, run: Run[T]) -> Iterator[Any]:
        with self._driving(run) as pieces:
            for piece in pieces:
                if not piece.failures:
                    yield from piece.results
                    continue
                for place, result in enumerate(piece.results):
                    if place in piece.failures:
                        raise piece.failures[place]
                    yield result

    def _outcomes(self, run: Run[T]) -> Iterator[Outcome[T, Any]]:
        with self._driving(run) as pieces:
            for piece in pieces:
                for place, (item, result) in enumerate(
                    zip(piece.items, piece.results, strict=True)
                ):
                    yield Outcome(item, result, piece.failures.get(place))

    @contextmanager
    def _driving(self, run: Run[T]) -> Iterator[Iterator[Piece]]:
        if self._host is None:
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
                self._pump(_TICK)
            self._runs.remove(run)

    @property
    def _can_pump(self) -> bool:
        return not (self._host is None or self._closing or self._dead or self._critical.depth)

    def _pieces(self, run: Run[T]) -> Iterator[Piece]:
        while True:
            self._raise_a_lost_interrupt()
            if run.trickles and run.running and not run.ready:
                # A slow source: give what runs a little time before waiting for the next item.
                self._pump(min(run.trickles / 4, 0.1))
            else:
                self._pump(0.0)
            if not (run.trickles and run.ready):  # a slow source waits for its reader
                self._hand_out(run)
            if run.ready:
                piece = run.ready.popleft()
                yield piece
                run.yielded += len(piece.results)
            elif run.finished:
                return
            elif run.running or not self._has_idle():
                self._pump(_TICK)

    def _has_idle(self) -> bool:
        return any(member.ready and member.chunk is None for member in self._team.values())

    def _abandon(self, run: Run[T]) -> None:
        """Hand out no more of it; what is running ends with its item."""
        run.exhausted = run.abandoned = True
        run.waiting = [chunk for chunk in run.waiting if chunk.ended]
        for member in self._team.values():
            if member.chunk is not None and member.chunk.run is run and not member.chunk.ended:
                member.line[worker.STOP] = 1


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = f"signal {-exitcode}"
        hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"by {name}{hint}"
    return f"with exit code {exitcode}"


__all__ = ["GRACE", "START_METHODS", "ProcessEngine", "open_engine"]
