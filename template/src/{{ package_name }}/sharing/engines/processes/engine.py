"""The parent's side of the engine of one machine.

How a chunk gets to a worker and back (`driver` has the rest of the way):

    Run ─ chunk ─▶ idle worker ─ pipe ─▶ job(item, state) … ─ pipe ─▶ results, deltas
     ▲                  │
     └── again ◀── sentinel: it is dead; its words say which item was running

Each worker has a pipe of its own and one chunk at a time, so the parent knows what died with
it, and no queue has a lock that could be left held.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import selectors
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from ...errors import ItemTimeout, ServiceLost, SharingError, StartFailed
from ...machine import lifeline
from ...machine.memory import Parcel, Words
from ...machine.primitives import EVERY_SECTION
from ..desk import CHUNK, ITEM, LINE, SINCE, STOP, Failure
from ..driver import GRACE, TICK, Driver, death, levels_of_loggers, log_here, unfit_field
from ..engine import Engine, available_cores
from ..runs import Chunk, Run
from . import worker
from .channel import Channel, Frame, pack
from .host import ProcessHost

S = TypeVar("S")

START_METHODS = ("spawn", "forkserver", "fork")


def open_engine(
    state: S, workers: int | None, start_method: str | None, address: str | None
) -> Engine[S]:
    """The engine; see `sharing.open_engine`."""
    if address is not None:
        raise SharingError(
            f"the engine 'processes' has no address, and was given {address!r}: leave that out, or "
            "choose an engine that runs on a cluster"
        )
    method = start_method or START_METHODS[0]
    allowed = [m for m in START_METHODS if m in multiprocessing.get_all_start_methods()]
    if method not in allowed:
        raise SharingError(
            f"unknown start method {start_method!r}: choose one of {', '.join(allowed)}"
        )
    return ProcessEngine(state, workers or available_cores(), method)


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
        if self.line[CHUNK] != self.number:
            return ~0
        item: int = self.line[ITEM]
        return item


class ProcessEngine(Driver[S]):
    """See `Engine`."""

    def __init__(self, state: S, workers: int, start_method: str) -> None:
        super().__init__(state, workers)
        self._context: Any = multiprocessing.get_context(start_method)
        self._host: ProcessHost | None = None
        self._team: dict[int, _Worker] = {}
        self._failed_starts = 0

    # Opening and closing

    def _start(self) -> None:
        self._host = ProcessHost(self._context, self._workers + 1)
        self._selector = selectors.DefaultSelector()
        for pattern in self._patterns:
            pattern.open(self._host)
            pattern._is_open = True
        self._host.services.start()
        self._watch_services()
        for pattern in self._patterns:
            pattern.opened()
        self._words = Words((self._workers + 1) * LINE)
        for slot in range(1, self._workers + 1):
            with self._critical:  # one that has started must be known, to be ended
                self._start_worker(slot)
        while not all(member.ready for member in self._team.values()):
            self._pump(TICK)
            self._raise_a_lost_interrupt()

    def _end_workers(self, *, politely: bool) -> None:
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

    def _close_host(self) -> None:
        if self._host is not None:
            self._host.close()
            self._selector.close()
            self._host = None

    def _forsaken(self) -> None:
        self._kill_all()  # or the interpreter would wait for them
        self._close_host()

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

    # Workers

    def _start_worker(self, slot: int) -> None:
        from_worker, to_parent = self._context.Pipe(duplex=False)
        from_parent, to_worker = self._context.Pipe(duplex=False)
        ours, theirs = (from_worker, to_worker), (from_parent, to_parent)
        line = worker.line_of(self._words, slot)
        line[CHUNK] = line[STOP] = 0
        setup = worker.Setup(slot, self._state, self._words, theirs, levels_of_loggers())
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
            raise unfit_field(self._state, self._patterns, error) from None
        finally:
            parcel.close()
            for end in theirs:
                end.close()
        channel = Channel(ours, blocking=False)
        member = self._team[slot] = _Worker(slot, process, channel, line)
        self._selector.register(channel.reader, selectors.EVENT_READ, member)
        self._selector.register(process.sentinel, selectors.EVENT_READ, member)

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
                item, since = member.running_item(), member.line[SINCE]
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
                since = member.line[SINCE] / 1e9 if item >= 0 else time.monotonic()
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
        elif kind == "gave":
            self._take_back(member, *head)
        elif kind == "unreadable":
            number, failure = head
            chunk = self._released(member, number)
            member.job = 0  # it may not have come as far as that
            self._take_unreadable(chunk, failure)
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
            log_here(body)

    def _take_answer(
        self,
        member: _Worker,
        body: memoryview,
        number: int,
        ended: int,
        elapsed: float,
        deltas: dict[int, Any],
        refused: Failure | None,
    ) -> None:
        chunk = self._released(member, number)
        self._take_results(chunk, member.slot, number, body, ended, elapsed, deltas, refused)

    def _take_back(self, member: _Worker, number: int, kept: int) -> None:
        """What a worker that is at a long item has not begun: others can have it now."""
        chunk = member.chunk
        if chunk is not None and member.number == number:  # else its answer was faster
            chunk.run.put_back(chunk.cut(kept))

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
            began = member.line[CHUNK] == member.number
            suspect = self._sort_out(chunk, item, began, left)
            if suspect is not None:
                self._blame(suspect, member, item, exitcode)
        if not member.ready:
            self._failed_starts += 1
            if not lifeline.worth_another_start(exitcode, self._failed_starts):
                raise StartFailed(
                    f"worker {member.slot} ended while it started, {death(exitcode)}: "
                    "does the main module open the engine under if __name__ == '__main__'?"
                )
        if not self._closing or any(run.waiting for run in self._runs):
            self._start_worker(member.slot)

    def _repair(self, member: _Worker) -> list[int]:
        """Have each pattern undo what a dead worker had not ended, and say what it had done."""
        number, item = (member.number, member.running_item()) if member.chunk else (0, ~0)
        return self._worker_died(member.slot, number, max(item, -1))

    def _blame(self, suspect: Chunk, member: _Worker, item: int, exitcode: int | None) -> None:
        """The item that was running when its worker died: see what becomes of it."""
        run = suspect.run
        if member.stuck is None or item < 0:
            self._try_again(suspect, death(exitcode))
        elif member.stuck == (member.number, item):
            reason = f"it ran for more than {run.timeout:g} s, and its worker was ended"
            self._fail(suspect, ItemTimeout(run.name, suspect.items[0], "ItemTimeout", reason))
        else:  # it had just begun, when the one before it was taken for stuck
            run.put_back(suspect)

    # Handing out

    def _idle(self) -> _Worker | None:
        for member in self._team.values():
            if member.ready and member.chunk is None:
                return member
        return None

    def _is_busy(self) -> bool:
        return any(member.chunk for member in self._team.values())

    def _dumps(self, items: list[Any]) -> bytes:
        return pickle.dumps(items, protocol=5)

    def _hand_over(self, worker: _Worker, chunk: Chunk, number: int, packed: bytes) -> None:
        run = chunk.run
        job = None if worker.job == run.number else run.job
        worker.job = run.number
        left = chunk.left
        if chunk.ended:
            left = dict.fromkeys(range(len(self._patterns)), EVERY_SECTION)
        worker.chunk, worker.number, worker.stuck = chunk, number, None
        worker.line[STOP] = 0
        timed = run.timeout is not None
        self._send(worker, pack((number, run.number, job, chunk.first, timed, left), packed))

    def _stop(self, run: Run[Any]) -> None:
        for member in self._team.values():
            if member.chunk is not None and member.chunk.run is run and not member.chunk.ended:
                member.line[STOP] = 1

    def _send(self, member: _Worker, parts: list[bytes]) -> None:
        member.channel.post(parts)
        if member.channel.is_sending != member.writes:
            member.writes = member.channel.is_sending
            if member.writes:
                self._selector.register(member.channel.writer, selectors.EVENT_WRITE, member)
            else:
                self._selector.unregister(member.channel.writer)
