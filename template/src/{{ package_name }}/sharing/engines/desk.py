"""The part of a worker that is the same for all engines: a chunk's way through a job."""

from __future__ import annotations

import contextlib
import operator
import os
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, TypeVar

from ..patterns.base import patterns_by_field
from .chunks import NO_CHUNK, UNBEGUN, ChunkId, Phase, Place, made
from .failure import Failure, describe

# The words of a worker, a cache line for each worker. They tell the parent which item to blame when
# the worker has died, and whether an item is stuck while it lives.
LINE = 8
CHUNK = 0  # the chunk that it is in
ITEM = 1  # the place of the item that runs; where none does, ~n, and n of the chunk have returned
SINCE = 2  # when that began, in ns of the monotonic clock, where there is a timeout
STOP = 3  # written by the parent: begin no further item
PHASE = 4  # what it does where no item runs, as a `Phase`

T = TypeVar("T")

TICK = 0.005
"""Seconds between two looks at the clock, and at what the parent wants, while a chunk runs."""

Job = Callable[[object, object], object]
"""What is run with an item and the state."""

_Running = tuple[ChunkId, float, list[object], Iterator[object]]
"""The chunk, when it began, its items, and the iterator that goes through them."""


Ran = tuple[list[object], dict[int, Failure], bool]
"""Results or their pickles, failures by their places, and whether each result is a pickle."""

PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types whose pickling runs no code but Python's own."""


class Task(NamedTuple):
    """What is to be done with the items of a chunk.

    Attributes:
        chunk: its number.
        run: the number of its map.
        first: that of its first item in the map.
        timed: whether it is to be written when each item begins.
        left: what an attempt before has left behind, by the places of the patterns.
        start: where its items begin in the list that travels,
        stop: and where they end.
        apart: whether each of them is pickled by itself.
        careful: whether each result is to be pickled by itself, before the next item begins.
        job: the pickled job, where the worker does not have that of the map already.
    """

    chunk: ChunkId
    run: int
    first: int
    timed: bool
    left: dict[int, int]
    start: int
    stop: int
    apart: bool
    careful: bool
    job: bytes | None = None


class Answer(NamedTuple):
    """What came of a chunk.

    Attributes:
        ended: how many of its items have ended; those behind were not begun.
        elapsed: seconds that these took, by the worker's clock.
        deltas: what rides back for the patterns, by their places in the state.
        refused: why what an item has done can't be kept, if it can't.
        apart: whether each result has a pickle of its own in the body.
        body: results and failures, pickled.
    """

    ended: int
    elapsed: float
    deltas: dict[int, object]
    refused: Failure | None
    apart: bool
    body: bytes


def place_in(line: memoryview, chunk: int) -> Place:
    """Where in a chunk a worker is, or was, by its words."""
    if chunk == NO_CHUNK or line[CHUNK] != chunk:
        return UNBEGUN
    item = line[ITEM]
    if item >= 0:
        return Place(Phase.RUNNING, item)
    return Place(Phase(line[PHASE]), ~item)


class Desk:
    """Where chunks are worked on, one at a time: a state, and the words that tell how far it is.

    Args:
        state: this worker's own.
        slot: the worker's.
        line: its words.
        give_back: seconds after which the items of a chunk that are not begun are given back.
        dumps: how results are pickled.
        seen: whether somebody sees its words, who knows by them whose result was being pickled.

    Attributes:
        gives_back: is told of a chunk, and how many of its items it keeps, as soon as it gives
            the others back; else the answer tells.
    """

    def __init__(
        self,
        state: object,
        slot: int,
        line: memoryview,
        *,
        give_back: float,
        dumps: Callable[..., bytes] = pickle.dumps,
        seen: bool = True,
    ) -> None:
        self.slot = slot
        self.origin = 0, 0
        self.state = state
        self._line = line
        self._give_back = give_back
        self._dumps = dumps
        self._seen = seen
        self.patterns = patterns_by_field(state)
        self.gives_back: Callable[[ChunkId, int], None] | None = None
        self._running: _Running | None = None  # replaced whole, since a thread reads it
        self._is_fork = False
        self._dozes = False  # the clock, until a chunk begins
        self._wake = threading.Event()

    @property
    def running(self) -> memoryview:
        """See `primitives.Worker`."""
        return self._line[ITEM : ITEM + 1]

    def attach(self) -> None:
        """Make the patterns ready for chunks."""
        for pattern in self.patterns:
            pattern.attach(self)
        own = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _has_forked(own()))
        threading.Thread(target=self._keep_time, name="clock", daemon=True).start()

    def has_forked(self) -> None:
        """In a process that a job has forked: leave the words and the other items to the worker."""
        self._is_fork = True
        self._line = memoryview(bytearray(8 * LINE)).cast("q")
        if self._running is not None:
            _, _, items, waiting = self._running
            del items[len(items) - operator.length_hint(waiting) :]

    def detach(self) -> None:
        """No more chunks will come."""
        for pattern in self.patterns:
            pattern.detach()

    def begins(self, chunk: int, *, timed: bool = False) -> None:
        """Note that this chunk is worked on from here on, and that none of its items has begun."""
        line = self._line
        if timed:
            line[SINCE] = time.monotonic_ns()
        line[PHASE] = Phase.READING
        line[ITEM] = ~0
        line[CHUNK] = chunk

    def sends(self) -> None:
        """Note that the answer is on its way."""
        self._line[PHASE] = Phase.SENDING

    def could_not_send(self) -> None:
        """Note that the answer could not be sent, and is packed anew."""
        self._line[PHASE] = Phase.PACKING

    def work(self, task: Task, job: Job, items: list[object]) -> Answer:
        """Run the job on the items of a chunk that `begins`, and collect what is to ride back."""
        self.origin = task.run, task.first
        for place, pattern in enumerate(self.patterns):
            pattern.chunk_begins(task.chunk, task.left.get(place, 0))
        begun, waiting = time.monotonic(), iter(items)
        self._running = task.chunk, begun, items, waiting
        if self._dozes:
            self._wake.set()
        run = self._run_apart if task.apart else self._run
        results, failures, apart = run(job, waiting, task.timed, task.careful)
        if self._is_fork:  # its parent answers, and this was all that the job wanted of it
            _end_fork(failed=bool(failures))
        self._running = None
        ended = len(results)
        if task.timed:
            self._line[SINCE] = time.monotonic_ns()
        self._line[PHASE] = Phase.PACKING
        self._line[ITEM] = ~ended
        elapsed = time.monotonic() - begun
        body = self._pickled(results, failures)
        deltas, refused = {}, None
        for place, pattern in enumerate(self.patterns):
            try:
                delta = pattern.take_delta()
            except ValueError as error:
                refused = describe(error)
                continue
            if delta is not None:
                deltas[place] = delta
        return made(Answer, (ended, elapsed, deltas, refused, apart, body))

    def _run(self, job: Job, waiting: Iterator[object], timed: bool, careful: bool) -> Ran:
        line, state = self._line, self.state
        results: list[object] = []
        failures: dict[int, Failure] = {}
        places = self._timed(waiting) if timed else enumerate(waiting)
        for line[ITEM], item in places:
            try:
                result = job(item, state)
            except BaseException as error:
                failures[0] = describe(error)
                result = None
            runs_code = self._seen and type(result) not in PLAIN
            if careful or (runs_code and operator.length_hint(waiting)):
                # Pickling a result may run the user's code. If that ends the worker, its words have
                # to say whose result it was. What the first result is, the others will be, too.
                return self._run_and_pickle(job, places, result, failures)
            results.append(result)
            break
        # Each statement in this loop costs every item its time. Which item runs is written before
        # it begins. Whether to go on is not asked here: `_cut` shortens the list, if not.
        for line[ITEM], item in places:
            try:
                results.append(job(item, state))
            except BaseException as error:
                failures[len(results)] = describe(error)
                results.append(None)
        return results, failures, False

    def _run_and_pickle(
        self,
        job: Job,
        places: Iterator[tuple[int, object]],
        first: object,
        failures: dict[int, Failure],
    ) -> Ran:
        """Run the others, and pickle each result while it is known whose it is."""
        line, state = self._line, self.state
        results: list[object] = []
        if failures:
            results.append(None)
        else:
            self._keep(first, results, failures)
        for line[ITEM], item in places:
            try:
                result = job(item, state)
            except BaseException as error:
                failures[len(results)] = describe(error)
                results.append(None)
            else:
                self._keep(result, results, failures)
        return results, failures, True

    def _run_apart(self, job: Job, waiting: Iterator[object], timed: bool, careful: bool) -> Ran:
        """Unpickle, run and pickle one item after the other, so that each goes wrong alone."""
        line, state = self._line, self.state
        results: list[object] = []
        failures: dict[int, Failure] = {}
        for line[ITEM], body in self._timed(waiting) if timed else enumerate(waiting):
            try:
                assert isinstance(body, bytes)
                item = pickle.loads(body)
            except BaseException as error:
                kind, text, trace = describe(error)
                failures[len(results)] = kind, f"a worker could not unpickle it: {text}", trace
                results.append(None)
                continue
            try:
                result = job(item, state)
            except BaseException as error:
                failures[len(results)] = describe(error)
                results.append(None)
            else:
                self._keep(result, results, failures)
        return results, failures, True

    def _keep(self, result: object, results: list[object], failures: dict[int, Failure]) -> None:
        try:
            packed = self._dumps(result, protocol=5)
        except BaseException as error:
            failures[len(results)] = _unfit(result, error)
            results.append(None)
        else:
            results.append(packed)

    def _timed(self, waiting: Iterator[T]) -> Iterator[tuple[int, T]]:
        """Number the items, and write for each when it begins."""
        for numbered in enumerate(waiting):
            self._line[SINCE] = time.monotonic_ns()
            yield numbered

    def _keep_time(self) -> None:
        """End a chunk early when it is time, in a thread that sleeps while there is no chunk.

        To ask for the time after each item would cost as much as a trivial item.
        """
        while True:
            self._dozes = True
            if self._running is None:
                self._wake.wait()
            self._dozes = False
            self._wake.clear()
            time.sleep(TICK)
            running = self._running
            if running is not None:
                if self._line[STOP] or time.monotonic() - running[1] > self._give_back:
                    self._cut(*running)
                for pattern in self.patterns:
                    pattern.at_work()

    def _cut(
        self, chunk: ChunkId, _begun: float, items: list[object], waiting: Iterator[object]
    ) -> None:
        """Cut the list that the other thread goes through, and say how far it gets now."""
        kept = max(1, len(items) - operator.length_hint(waiting))
        if kept >= len(items):
            return
        del items[kept:]
        # The other thread may have gone on meanwhile. Its iterator knows, unless it is exhausted.
        state = waiting.__reduce__()
        assert isinstance(state, tuple)
        _, _, *place = state
        if place and self.gives_back is not None:
            self.gives_back(chunk, max(kept, *place))

    def _pickled(self, results: list[object], failures: dict[int, Failure]) -> bytes:
        try:
            return self._dumps((results, failures), protocol=5)
        except BaseException:
            for place, result in enumerate(results):
                try:
                    self._dumps(result, protocol=5)
                except BaseException as error:
                    failures[place] = _unfit(result, error)
                    results[place] = None
            return self._dumps((results, failures), protocol=5)


def _has_forked(desk: Desk | None) -> None:
    if desk is not None:
        desk.has_forked()


def _end_fork(*, failed: bool) -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(int(failed))


def _unfit(result: object, error: BaseException) -> Failure:
    kind, text, trace = describe(error)
    return kind, f"its result, a {type(result).__name__}, can't be pickled: {text}", trace
