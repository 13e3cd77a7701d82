"""What drives an engine: whoever waits for it, or else a thread of its own.

    threads, sources, signals ── post ──▶ inbox ─┐
                                                 ├─▶ turn: scheduler.handle ─▶ commands, done here
    workers ───────────── crew.poll ─────────────┘      │
                                                        ├─▶ a worker starts, gets a chunk, is ended
    readers ◀─ mailbox, bell ◀──────────────────────────┘

Only the thread that turns the pump changes the state of the engine, and one does at a time. A
reader that waits turns it by itself, so that a program with one reader has no switch between
threads. When nobody has turned it for a while, the keeper does: deaths are noticed, timeouts kept
and workers fed whether anybody reads or not.

Code of the user is never called by whoever turns: records of the log, and items that have to be
pickled once more, are errands for other threads.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from ..errors import SharingError
from ..patterns.base import Pattern
from . import events as e
from .chunks import NO_CHUNK, Chunk, ChunkId, Phase, Piece, Place, made
from .crew import Crew, Died, Logged
from .runs import Run
from .scheduler import Scheduler
from .signals import Signals
from .sources import ReadByItself, ReadBySomebody, repack
from .threads import Bell, Errands
from .verdict import Death

TICK = 0.5
"""Seconds that a turn waits at most when nothing happens."""

LAZY = 0.02
"""Seconds after which the keeper turns the pump when nobody else does, and after which items of a
source that lets one wait are brought."""

OVERSLEPT = 0.25
"""Seconds that a turn may wake too late before it is taken for a sign that this program, or the
machine, was stopped: then no item has taken too long for it."""

LOGS = 10_000
"""Records of the log that may wait for their handlers before the workers have to."""

FLUSH = 5.0
"""Seconds that handlers of the log have at the end, for what waits for them."""


class Waiter:
    """A thread that waits for the engine.

    Attributes:
        bell: wakes it.
        is_finished: whether what it waits for has come.
    """

    def __init__(self) -> None:
        self.bell = Bell()
        self.is_finished = False

    @property
    def has_news(self) -> bool:
        """Whether there is something to do for it."""
        return self.is_finished

    def bring(self) -> None:
        """Bring what a source of its own holds back."""

    @property
    def holds_back(self) -> bool:
        """Whether there is something to `bring` now."""
        return False

    @property
    def may_hold_back(self) -> bool:
        """Whether there may be something to `bring` soon, of which nobody tells."""
        return False


class Reader(Waiter):
    """The reader of a map.

    Attributes:
        run: the map.
        source: where its items come from.
        mailbox: results that have come for it.
        is_finished: whether nothing more will come.
        is_whole: whether all has come that there is.
        has_left: whether it wants no more, and only waits for what still runs.
    """

    def __init__(self, run: Run, source: ReadBySomebody | ReadByItself) -> None:
        super().__init__()
        self.run = run
        self.source = source
        self.mailbox: deque[Piece] = deque()
        self.is_whole = False
        self.has_left = False
        self._is_thread = isinstance(source, ReadByItself)

    @property
    def has_news(self) -> bool:
        if self.is_finished:
            return True
        return not self.has_left and (bool(self.mailbox) or self.source.has_orders)

    def bring(self) -> None:
        self.source.bring()

    @property
    def holds_back(self) -> bool:
        return self.source.is_waiting

    @property
    def may_hold_back(self) -> bool:
        return self._is_thread


class _Watch:
    """Knows when an item has taken too long, by a clock that stands still while nobody looks."""

    def __init__(self) -> None:
        self._excused: dict[int, tuple[int, Place, int]] = {}
        self._looked = self._woken_by = time.monotonic_ns()

    def sleeps(self, timeout: float) -> None:
        """Whoever has just looked sleeps for so many seconds at most."""
        self._woken_by = self._looked + int(timeout * 1e9)

    def look(self, scheduler: Scheduler, crew: Crew) -> tuple[list[e.Late], float]:
        """Who is late, and in how many seconds another one may be."""
        # One time for all of it: the program may be stopped between two.
        now = time.monotonic_ns()
        # Nobody knows when it was stopped since the last look.
        excuse = now - self._looked if now - self._woken_by > OVERSLEPT * 1e9 else 0
        self._looked = now
        self.sleeps(TICK)
        late: list[e.Late] = []
        soonest = TICK
        for member, chunk in scheduler.busy():
            timeout = chunk.run.settings.timeout
            if timeout is None or member.late is not None:
                continue
            place, since = crew.sight(member.slot, member.id)
            if place.phase in (Phase.UNBEGUN, Phase.SENDING):
                left = timeout
            else:
                number, where, excused = self._excused.get(member.slot, (0, place, 0))
                if (number, where) != (member.id, place):
                    excused = 0
                excused += min(excuse, max(0, now - since))
                if excused:
                    self._excused[member.slot] = member.id, place, excused
                left = timeout - (now - since - excused) / 1e9
                if left < 0 and crew.sight(member.slot, member.id).place == place:
                    late.append(e.Late(member.slot, member.id, place))
                    continue
            soonest = min(soonest, max(left, 0.0) + 0.001)
        return late, soonest


class Pump:
    """See the module.

    Args:
        scheduler: decides.
        crew: does.
        patterns: of the state, by their places.
        signals: says who may turn.

    Attributes:
        error: what has broken the engine.
    """

    def __init__(
        self, scheduler: Scheduler, crew: Crew, patterns: list[Pattern], signals: Signals
    ) -> None:
        self._scheduler = scheduler
        self._crew = crew
        self._patterns = patterns
        self._signals = signals
        self.error: BaseException | None = None
        self._inbox: deque[e.Event] = deque()
        self._turning = threading.Lock()
        self._turner = 0
        self._asleep = False
        self._wanted = False
        self._turned = time.monotonic()
        self._waiters: dict[Waiter, bool] = {}  # and whether they may turn
        self._readers: dict[int, Reader] = {}
        self._drained: Waiter | None = None
        self._watch = _Watch()
        self._has_timeouts = False
        self._logs = Errands("logs", self._log_failed)
        self._packing = Errands("packing", lambda error: self.post(e.Broke(error)))
        self._keeper: threading.Thread | None = None
        self._keeper_ident: int | None = None
        self._keeper_bell = Bell()
        self._stopped = False
        # Each is called with the fields of the command.
        self._do: dict[type[e.Command], Callable[..., None]] = {
            e.Start: crew.start,
            e.Send: crew.send,
            e.Stop: crew.stop,
            e.Kill: crew.kill,
            e.Apply: self._apply,
            e.Undo: self._undo,
            e.Fetch: self._fetch,
            e.Repack: self._repack,
            e.Deliver: self._deliver,
            e.Finish: self._finish,
            e.Fail: self._fail,
            e.Drained: self._is_drained,
        }

    # Opening and closing

    def open(self) -> None:
        """Have the first workers start. This and `has_opened` are called before anything else."""
        self._turn_if_free(None, lambda: self._carry_out(self._scheduler.open()))

    def has_opened(self) -> bool:
        """Wait until the first workers are ready; False if a signal is due before.

        Raises:
            StartFailed: they don't start.
        """
        self._turn_if_free(None, self._wait_for_first)
        if self.error:
            raise self.error
        if self._first_are_missing:
            return False
        self.post(e.Opened())
        self.flush()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()
        return True

    @property
    def _first_are_missing(self) -> bool:
        return self._scheduler.ready < self._crew.eager

    def _wait_for_first(self) -> None:
        while self._first_are_missing and not self._signals.are_due:
            self._turn(TICK)

    def drain(self, grace: float | None) -> bool:
        """Hand out nothing new, and wait for what runs, for so long at most; whether all ended."""
        if self._drained is None:
            self._drained = Waiter()
            self.post(e.Closing())
        self.wait(self._drained, grace)
        return self._drained.is_finished

    def hurry(self) -> None:
        """End what still runs; what had ended is kept."""
        self.post(e.Hurry())

    def stop(self) -> None:
        """Turn no more: the keeper ends, and whoever else turns just now. Once is enough."""
        if self._stopped:
            return
        self._stopped = True
        self._keeper_bell.ring()
        self._wanted = True
        self._crew.wake()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join()
        # Whoever turns it just now is a reader: from here on nobody does.
        while self._turner != threading.get_ident() and not self._turning.acquire(timeout=LAZY):
            self._crew.wake()
        self._packing.close(FLUSH)
        for reader in self._readers.values():
            reader.source.stop()
        for waiter in (*self._waiters, *self._readers.values()):
            waiter.bell.ring()

    def end_crew(self, *, politely: bool) -> None:
        """End the workers, and pass on what they had to say. Called after `stop`."""
        for event in self._crew.end(politely=politely):
            if isinstance(event, Logged):
                self._log(event)
            elif isinstance(event, Died):
                self._worker_died(event.slot, event.place)

    def let_go(self) -> None:
        """Wait until handlers of the log have had all that there was, and keep nothing."""
        self._logs.close(FLUSH)
        self._patterns = []

    # From any thread

    def post(self, event: e.Event) -> None:
        """Tell the scheduler, soon."""
        self._inbox.append(event)
        if self._asleep:
            self._crew.wake()

    def begin(self, reader: Reader) -> None:
        """A map is read from now on."""
        self._readers[reader.run.number] = reader
        self._has_timeouts |= reader.run.settings.timeout is not None
        self.post(e.Began(reader.run))

    @property
    def idle(self) -> list[int]:
        """The slots of workers that have nothing to do; it changes as they get something."""
        return self._scheduler.idle

    def passed(self, run: Run, piece: Piece) -> None:
        """The reader of a map has gone through a piece."""
        self._inbox.append(made(e.Passed, (run, len(piece.items), piece.nbytes)))
        if self._asleep and run.is_held_up:
            self._crew.wake()

    def leave(self, reader: Reader, *, wait: bool) -> None:
        """A map is read no more; if it is waited for, until nothing of it runs."""
        reader.has_left = True
        self.post(e.Left(reader.run))
        if wait and self._turner != threading.get_ident():  # a destructor may be called anywhere
            self.wait(reader)

    def flush(self) -> None:
        """Deal with what was posted, unless somebody else is about to."""
        if not self._inbox or self._turner == threading.get_ident():
            return
        if self._signals.may_be_inside() and self._turn_if_free(None, self._work_off):
            self._signals.deliver()

    def wait(self, waiter: Waiter, timeout: float | None = None) -> None:
        """Wait until there is news for somebody, or the engine is broken or has stopped.

        Turns the pump meanwhile, if nobody else does. Calls handlers of signals that come.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not (waiter.has_news or self.error or self._stopped):
            left = TICK if end is None else min(TICK, end - time.monotonic())
            if left <= 0:
                return
            turn = partial(self._turn_for, waiter, end)
            if not (self._signals.may_be_inside() and self._turn_if_free(waiter, turn)):
                self._follow(waiter, left)
            if waiter.holds_back:
                waiter.bring()
            self._signals.deliver()
            if self._signals.are_due:  # they are put off by whoever waits, and deals with them
                return

    def _turn_for(self, waiter: Waiter, end: float | None) -> None:
        left, most = TICK, LAZY if waiter.may_hold_back else TICK
        while not (waiter.holds_back or self._stopped or self._signals.are_due):
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    return
            self._turn(min(left, most))
            if waiter.has_news or self.error:
                return

    def _follow(self, waiter: Waiter, left: float) -> None:
        """Wait while somebody else turns, to take over when that one has enough."""
        may_turn = self._signals.may_be_inside()
        self._waiters[waiter] = may_turn
        try:
            if may_turn:
                self._wanted = True
                if not self._turning.locked():
                    return
                if self._asleep and self._turner == self._keeper_ident:
                    self._crew.wake()
            else:
                self._keeper_bell.ring()
            with self._signals.put_off(waiter.bell.ring):
                if not (waiter.has_news or self._signals.are_due):
                    waiter.bell.wait(min(left, LAZY) if waiter.may_hold_back else left)
        finally:
            self._waiters.pop(waiter, None)

    # Turning

    def _turn_if_free(self, mine: Waiter | None, work: Callable[[], None]) -> bool:
        """Do something as the one that has the pump, and hand it on; False if another one has it.

        Signals are put off before the lock is taken: it would stay taken for ever if a handler
        raised between that and what gives it back.
        """
        borrowed: list[int] = []
        entered = self._signals.enter(self._crew.wake)
        try:
            if entered:
                borrowed = self._signals.borrow()
            if not self._turning.acquire(blocking=False):
                return False
            self._turner = threading.get_ident()
            try:
                work()
            except BaseException as error:
                self._break(error)
            finally:
                self._turner = 0
                self._turned = time.monotonic()
                self._turning.release()
                if self._waiters:
                    self._hand_on(mine)
            return True
        finally:
            if entered:
                self._signals.leave()
            if borrowed:
                self._signals.put_back(borrowed)

    def _hand_on(self, mine: Waiter | None) -> None:
        others = [
            (waiter, may) for waiter, may in tuple(self._waiters.items()) if waiter is not mine
        ]
        for waiter, may_turn in others:
            if may_turn:
                waiter.bell.ring()
                return
        if others:
            self._keeper_bell.ring()

    def _turn(self, timeout: float) -> None:
        """Wait for something to happen, that long at most, and deal with it."""
        inbox = self._inbox
        if self._has_timeouts:
            timeout = min(timeout, self._look())
            self._watch.sleeps(timeout)
        self._asleep = True
        try:
            came = self._crew.poll(0.0 if inbox else timeout)
        finally:
            self._asleep = False
        events: list[e.Event] = []
        while inbox:
            events.append(inbox.popleft())
        for event in came:
            if isinstance(event, Died):
                self._handle(*events)
                events.clear()
                self._bury(event)
            elif isinstance(event, Logged):
                self._log(event)
            else:
                events.append(event)
        if events:
            self._handle(*events)
        if len(self._logs) > LOGS:
            time.sleep(LAZY)

    def _look(self) -> float:
        """End what takes too long; in how many seconds something else may."""
        late, soonest = self._watch.look(self._scheduler, self._crew)
        for event in late:
            self._handle(event)
        readers = tuple(self._readers.values())
        self._has_timeouts = any(one.run.settings.timeout is not None for one in readers)
        return soonest

    def _work_off(self) -> None:
        inbox = self._inbox
        events = []
        while inbox:
            events.append(inbox.popleft())
        self._handle(*events)

    def _handle(self, *events: e.Event) -> None:
        self._carry_out(self._scheduler.handle(*events))

    def _carry_out(self, commands: list[e.Command]) -> None:
        do = self._do
        for command in commands:
            do[type(command)](*command)

    def _break(self, error: BaseException) -> None:
        if not isinstance(error, SharingError):
            logging.getLogger(__name__).debug("the engine is broken", exc_info=error)
        self._fail(error)
        with suppress(Exception):  # whatever its state is, it is not used any more
            self._scheduler.handle(e.Broke(error))

    # The keeper

    def _keep(self) -> None:
        """Turn the pump when nobody does."""
        self._keeper_ident = threading.get_ident()
        while not self._stopped:
            self._keeper_bell.wait(LAZY)
            if self.error:
                break
            idle_for = time.monotonic() - self._turned
            if idle_for < LAZY and not self._waiters:
                continue
            self._turn_if_free(None, self._turn_till_wanted)

    def _turn_till_wanted(self) -> None:
        self._wanted = False
        while not (self._wanted or self._stopped or self.error):
            self._turn(TICK)

    # Commands

    def _apply(self, slot: int, deltas: Mapping[int, object]) -> None:
        for place, delta in deltas.items():
            self._patterns[place].receive_delta(slot, delta)

    def _undo(self, slot: int, chunk_id: ChunkId) -> None:
        for pattern in self._patterns:
            pattern.worker_died(slot, chunk_id, -1)

    def _fetch(self, run: Run, size: int, times: int) -> None:
        reader = self._readers.get(run.number)
        if reader is not None:
            reader.source.fetch(run, size, times)
            if self._waiters and reader.source.has_orders:
                reader.bell.ring()

    def _repack(self, chunk: Chunk) -> None:
        self._packing.put(lambda: self.post(repack(chunk, self._crew.dumps)))

    def _deliver(self, run: Run, pieces: list[Piece]) -> None:
        reader = self._readers[run.number]
        reader.mailbox.extend(pieces)
        if self._waiters:
            reader.bell.ring()

    def _finish(self, run: Run, whole: bool) -> None:
        reader = self._readers.pop(run.number)
        reader.is_whole = whole
        reader.is_finished = True
        if not whole:
            reader.source.stop()
        reader.bell.ring()

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        for waiter in (*self._waiters, *self._readers.values()):
            waiter.bell.ring()

    def _is_drained(self) -> None:
        if self._drained is not None:
            self._drained.is_finished = True
            self._drained.bell.ring()

    # Workers

    def _bury(self, event: Died) -> None:
        left = self._worker_died(event.slot, event.place)
        death = Death(event.place, event.how, in_company=event.in_company)
        self._handle(e.Gone(event.slot, death, left))

    def _worker_died(self, slot: int, place: Place) -> dict[int, int]:
        """Have each pattern undo what a worker had not ended, and say what it had done."""
        member = self._scheduler.team[slot]
        chunk_id = member.id if member.chunk is not None else NO_CHUNK
        item = place.item if place.phase is Phase.RUNNING else -1
        return {
            number: pattern.worker_died(slot, chunk_id, item)
            for number, pattern in enumerate(self._patterns)
        }

    # Records of the log

    def _log(self, event: Logged) -> None:
        self._logs.put(partial(log_here, event.record))

    def _log_failed(self, error: BaseException) -> None:
        logging.getLogger(__name__).error("a worker's record of the log is lost: %r", error)


def log_here(record: bytes | memoryview) -> None:
    """Handle a record that a worker has pickled as one of this process."""
    found: logging.LogRecord = pickle.loads(record)
    logger = logging.getLogger(found.name)
    if logger.isEnabledFor(found.levelno):
        logger.handle(found)
