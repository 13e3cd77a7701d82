"""The engine of one machine: its workers are processes, each with a pipe of its own.

How a chunk gets to a worker and back (`driver` has the rest of the way):

    Send ─▶ pipe ─▶ job(item, state) … ─▶ pipe ─▶ Answered
             │
             └── the process ends: its words say which item was running ─▶ Died

Each worker has one chunk at a time, so the parent knows what died with it, and no queue has a lock
that could be left held.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import select
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from ...errors import ServiceLost, SharingError, StartFailed
from ...machine import lifeline, reasons
from ...machine.children import Child, Launcher
from ...machine.memory import Words
from ...machine.parcel import Parcel, Unfit
from ...machine.primitives import EVERY_SECTION
from ...patterns.base import Pattern, travelling
from ..chunks import NO_CHUNK, UNBEGUN, Chunk, ChunkId, Place, made
from ..crew import CrewEvent, Died, Logged, Sighting
from ..desk import CHUNK, LINE, SINCE, STOP, Task, place_in
from ..driver import GRACE, Driver
from ..engine import Engine, available_cores
from ..events import Answered, GaveBack, Ready, Unreadable
from ..failure import Failure
from ..runs import Settings, Sizes
from ..setup import levels_of_loggers, unfit_field
from ..threads import Errands
from . import worker
from .channel import Channel, Frame, pack, two_pipes
from .host import ProcessHost
from .messages import Done, End, Failed, Gave, Record, Unread, Up

S = TypeVar("S")

START_METHODS = ("spawn", "forkserver", "fork")

SIZES = Sizes(items=1 << 14, seconds=0.02, least=0.05, growth=4)

LOOK = 0.2
"""Seconds between two looks at whether workers live: a process that one of them has forked may
hold all that would tell."""

MUTE = 1.0
"""Seconds that a worker has to end by itself when its pipe is closed, so that it can't answer."""


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
    count = workers or available_cores()
    return Driver(state, count, ProcessCrew(state, count, method), SIZES)


@dataclass(eq=False)
class _Worker:
    """A worker process, as the parent knows it.

    Attributes:
        slot: its slot.
        child: the process.
        channel: to it.
        line: its words.
        is_ready: whether it has said so.
        chunk: the number of the chunk that was sent to it last.
        run: the number of the map whose job it has.
        writes: whether something waits to be sent.
        mute_since: when its pipe was found closed, if it was.
    """

    slot: int
    child: Child
    channel: Channel
    line: memoryview
    is_ready: bool = False
    chunk: ChunkId = NO_CHUNK
    run: int = 0
    writes: bool = False
    mute_since: float | None = None

    def place(self) -> Place:
        """Where it is in that chunk."""
        return place_in(self.line, self.chunk)


class ProcessCrew:
    """See `Crew`."""

    def __init__(self, state: object, workers: int, method: str) -> None:
        self.workers = workers
        self.eager = min(workers, available_cores())
        self._state = state
        self._method = method
        self._patterns: list[Pattern] = []
        self._launcher: Launcher | None = None
        self._host: ProcessHost | None = None
        self._parcel: Parcel[worker.Setup] | None = None
        # By itself, and not through `selectors`, whose own books take as long as a small chunk's.
        self._poll = select.poll()
        self._watched: dict[int, _Worker | None] = {}
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)
        self._watch(self._woken, None)
        self._pid = os.getpid()
        self._words: Words | None = None
        self._team: dict[int, _Worker] = {}
        self._starting = Errands("start", self._start_failed)
        self._started: deque[_Worker | BaseException] = deque()
        self._failed_starts = 0
        self._looked = 0.0

    # Opening and closing

    def open(self, patterns: list[Pattern]) -> None:
        self._patterns = patterns
        self._launcher = Launcher(self._method)
        self._host = ProcessHost(self._launcher, self.workers + 1)
        for pattern in patterns:
            pattern.move_to(self._host)
        try:
            self._host.services.start()
        except ServiceLost as error:
            raise StartFailed(str(error)) from None
        self._watch_services()
        for pattern in patterns:
            pattern.opened()
        self._words = Words((self.workers + 1) * LINE)
        setup = worker.Setup(self._state, self._words)
        # Under fork, those that start later come from a process that is forked here, before this
        # one has threads of the engine's.
        self._parcel = self._launcher.prepare(setup)

    def end(self, *, politely: bool) -> Iterable[CrewEvent]:
        if os.getpid() != self._pid:
            return []
        self._starting.close(GRACE)
        came: list[CrewEvent] = []
        with suppress(SharingError, OSError):  # the engine ends without it
            self._take_started()
        polite = [one for one in self._team.values() if politely and one.is_ready]
        polite = [one for one in polite if one.chunk == NO_CHUNK]
        for member in polite:
            member.channel.post(pack(End()))
        until = time.monotonic() + GRACE
        for member in polite:
            while not member.child.join(0.02) and time.monotonic() < until:
                came += self._last_words(member)  # one that nobody reads could not end
            came += self._last_words(member)
        for member in self._team.values():
            member.child.kill()
        for member in self._team.values():
            member.child.join()
            if member.chunk != NO_CHUNK:
                came.append(Died(member.slot, member.place(), "by its engine"))
            member.channel.close()
            member.child.close()
        self._team.clear()
        return came

    def _last_words(self, member: _Worker) -> list[CrewEvent]:
        frames = member.channel.drain()
        return [Logged(body) for message, body in frames if isinstance(message, Record)]

    def close(self) -> None:
        for end in (self._woken, self._waker):
            if end >= 0:
                os.close(end)
        self._woken = self._waker = -1
        self._watched.clear()
        if self._host is not None:
            self._host.close()
            self._host = None
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        # What is shared is not to hang on what refers to itself, as this does.
        self._state, self._patterns, self._parcel, self._words = None, [], None, None

    def forsake(self) -> None:
        self.end(politely=False)  # or the interpreter would wait for them
        self.close()

    # Workers

    def start(self, slot: int) -> None:
        # Pickling the state is the user's code, and a start takes its time.
        self._starting.put(lambda: self._launch(slot))

    def _launch(self, slot: int) -> None:
        assert self._launcher is not None
        assert self._words is not None
        name = f"worker-{slot}"
        with self._launcher.told(name):
            ours, theirs = two_pipes()
        line = worker.line_of(self._words, slot)
        line[CHUNK] = line[STOP] = 0
        threads = max(1, available_cores() // self.workers)
        try:
            arguments = self._parcel, slot, theirs, levels_of_loggers()
            with travelling():
                child = self._launcher.start(worker.main, arguments, name, threads=threads)
        except BaseException as error:
            for end in ours:
                end.close()
            if isinstance(error, Unfit):
                raise unfit_field(self._state, self._patterns, error.error, pickle.dumps) from None
            raise
        finally:
            for end in theirs:
                end.close()
        self._started.append(_Worker(slot, child, Channel(ours, blocking=False), line))
        self.wake()

    def _start_failed(self, error: BaseException) -> None:
        self._started.append(error)
        self.wake()

    def _take_started(self) -> None:
        while self._started:
            member = self._started.popleft()
            if isinstance(member, BaseException):
                raise member
            self._team[member.slot] = member
            self._watch(member.channel.reader, member)
            self._watch(member.child.fileno(), member)

    def _watch(self, descriptor: int, member: _Worker | None, wanted: int = select.POLLIN) -> None:
        self._watched[descriptor] = member
        self._poll.register(descriptor, wanted)

    def _unwatch(self, descriptor: int) -> None:
        del self._watched[descriptor]
        self._poll.unregister(descriptor)

    def send(self, slot: int, chunk_id: ChunkId, chunk: Chunk) -> None:
        member, run = self._team.get(slot), chunk.run
        if member is None:  # it has just died, which the scheduler will hear of next
            return
        job = None if member.run == run.number else run.job
        left = chunk.left
        if chunk.ended:
            left = dict.fromkeys(range(len(self._patterns)), EVERY_SECTION)
        member.run, member.chunk = run.number, chunk_id
        member.line[STOP] = 0
        body, _, apart = chunk.packed
        timed = run.settings.timeout is not None
        where = chunk.start, chunk.stop, apart, run.careful
        task = made(Task, (chunk_id, run.number, chunk.first, timed, left, *where, job))
        writes = member.channel.post(pack(task, body))
        if writes != member.writes:
            self._wait_to_write(member, writes)

    def _wait_to_write(self, member: _Worker, writes: bool) -> None:
        member.writes = writes
        if writes:
            self._watch(member.channel.writer, member, select.POLLOUT)
        else:
            self._unwatch(member.channel.writer)

    def stop(self, slot: int) -> None:
        if (member := self._team.get(slot)) is not None:
            member.line[STOP] = 1

    def kill(self, slot: int) -> None:
        if (member := self._team.get(slot)) is not None:
            member.child.kill()

    def sight(self, slot: int, chunk_id: ChunkId) -> Sighting:
        member = self._team.get(slot)
        if member is None:
            return Sighting(UNBEGUN, 0)
        line = member.line
        return Sighting(place_in(line, chunk_id), line[SINCE])

    def adapt(self, settings: Settings) -> Settings:
        return settings

    def dumps(self, value: object) -> bytes:
        return pickle.dumps(value, protocol=5)

    # Events

    def wake(self) -> None:
        with suppress(OSError):  # it is full, or closed
            os.write(self._waker, b"!")

    def poll(self, timeout: float) -> list[CrewEvent]:
        came: list[CrewEvent] = []
        for descriptor, _ in self._poll.poll(math.ceil(min(timeout, LOOK) * 1000)):
            member = self._watched.get(descriptor)
            if member is None:
                if descriptor == self._woken:
                    os.read(self._woken, 1 << 12)
            elif self._team.get(member.slot) is not member:
                pass  # its other event has buried it
            elif descriptor == member.channel.reader:
                self._hear(member, came)
            elif descriptor == member.channel.writer:
                self._wait_to_write(member, member.channel.flush())
            else:
                self._bury(member, came)
        if self._started:
            self._take_started()
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            for member in list(self._team.values()):
                if member.child.exitcode() is not None:
                    self._bury(member, came)
                elif member.mute_since is not None and now - member.mute_since > MUTE:
                    member.child.kill()
            self._see_to_services()
        return came

    def _hear(self, member: _Worker, came: list[CrewEvent]) -> None:
        for frame in member.channel.drain():
            self._receive(member, frame, came)
        if member.channel.ended:
            # Dead, or as good as dead. One that lives finds out when it would answer; killed
            # while it does, it would look as if its answer was on its way.
            self._unwatch(member.channel.reader)
            member.mute_since = time.monotonic()

    def _receive(self, member: _Worker, frame: Frame, came: list[CrewEvent]) -> None:
        message, body = frame
        if isinstance(message, Done):
            member.chunk = NO_CHUNK
            came.append(made(Answered, (member.slot, *message, body)))
        elif isinstance(message, Gave):
            came.append(GaveBack(member.slot, *message))
        elif isinstance(message, Unread):
            member.chunk, member.run = NO_CHUNK, 0  # it may not have come as far as the job
            came.append(Unreadable(member.slot, *message))
        elif isinstance(message, Record):
            came.append(Logged(body))
        elif isinstance(message, Up):
            member.is_ready = True
            self._failed_starts = 0
            came.append(Ready(member.slot))
        elif isinstance(message, Failed):
            raise _start_failed(member.slot, message.failure)

    def _bury(self, member: _Worker, came: list[CrewEvent]) -> None:
        """A worker is gone: read what it has said, and say where it was."""
        member.child.join()
        while frames := member.channel.drain():
            for frame in frames:
                self._receive(member, frame, came)
        del self._team[member.slot]
        if member.mute_since is None:
            self._unwatch(member.channel.reader)
        if member.writes:
            self._unwatch(member.channel.writer)
        self._unwatch(member.child.fileno())
        code = member.child.exitcode()
        # Ends one that lives on, as after the death of a forkserver: from here it does no more.
        member.child.close()
        member.channel.close()
        if not member.is_ready:
            self._failed_starts += 1
            if not lifeline.worth_another_start(code, self._failed_starts):
                reason = reasons.why_not_started(code, self._method)
                raise StartFailed(f"worker {member.slot} ended while it started, {reason}")
        came.append(Died(member.slot, member.place(), reasons.death(code)))

    # Services

    def _watch_services(self) -> None:
        assert self._host is not None
        child = self._host.services.process
        if child is not None:
            self._watch(child.fileno(), None)

    def _see_to_services(self) -> None:
        """Start another server when one has died."""
        assert self._host is not None
        services = self._host.services
        if services.process is None or services.process.exitcode() is None:
            return
        self._unwatch(services.process.fileno())
        services.stop()
        with suppress(ServiceLost):  # what they offer is done without
            services.start()
            self._watch_services()


def _start_failed(slot: int, failure: Failure) -> StartFailed:
    kind, text, trace = failure
    about = reasons.about_main(text)
    said = f"worker {slot} failed while it started: {kind}: {text}"
    return StartFailed(f"{said}: {about}" if about else said, trace)
