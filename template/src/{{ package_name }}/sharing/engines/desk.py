"""The part of a worker that is the same for all engines: a chunk's way through a job."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..patterns.base import patterns_by_field

# The words of a worker, a cache line each. By them whoever sees them knows, after its death,
# which item to blame, and before it, whether one is stuck.
LINE = 8
CHUNK = 0  # the chunk that it is in
ITEM = 1  # the place of the item that runs; between items ~n, where n of the chunk have ended
SINCE = 2  # when that item began, in ns of the monotonic clock, where there is a timeout
STOP = 3  # written by the parent: begin no further item

TICK = 0.005
"""Seconds between two looks at the clock, and at what the parent wants, while a chunk runs."""

_Running = tuple[int, float, list[Any], Iterator[Any]]
"""The chunk, when it began, its items, and the iterator that goes through them."""

Failure = tuple[str, str, str]
"""An exception as its class's name, its text and its traceback: it may not stand a pickle."""


class Answer(NamedTuple):
    """What came of a chunk.

    Attributes:
        ended: how many of its items have ended; those behind were not begun.
        elapsed: seconds that these took, by the worker's clock.
        deltas: what rides back for the patterns, by their places in the state.
        refused: why what an item has done can't be kept, if it can't.
        body: results and failures, pickled.
    """

    ended: int
    elapsed: float
    deltas: dict[int, Any]
    refused: Failure | None
    body: bytes


class Desk:
    """Where chunks are worked on, one at a time: a state, and the words that tell how far it is.

    Args:
        state: this worker's own.
        slot: the worker's.
        line: its words.
        give_back: seconds after which the items of a chunk that are not begun are given back.
        dumps: how results are pickled.

    Attributes:
        gives_back: is told of a chunk, and how many of its items it keeps, as soon as it gives
            the others back; else the answer tells.
    """

    def __init__(
        self,
        state: Any,
        slot: int,
        line: memoryview,
        *,
        give_back: float,
        dumps: Callable[..., bytes] = pickle.dumps,
    ) -> None:
        self.slot = slot
        self.origin = 0, 0
        self.state = state
        self._line = line
        self._give_back = give_back
        self._dumps = dumps
        self.patterns = patterns_by_field(state)
        self.gives_back: Callable[[int, int], None] | None = None
        self._running: _Running | None = None  # replaced whole, since a thread reads it
        self._dozes = False  # the clock, until a chunk begins
        self._wake = threading.Event()

    @property
    def running(self) -> memoryview:
        """See `pattern.Worker`."""
        return self._line[ITEM : ITEM + 1]

    def attach(self) -> None:
        """Make the patterns ready for chunks."""
        for pattern in self.patterns:
            pattern.attach(self)
        threading.Thread(target=self._keep_time, name="clock", daemon=True).start()

    def detach(self) -> None:
        """No more chunks will come."""
        for pattern in self.patterns:
            pattern.detach()

    def begins(self, chunk: int) -> None:
        """From here on it is this chunk that is worked on, none of whose items is begun yet."""
        self._line[ITEM] = ~0
        self._line[CHUNK] = chunk

    def work(
        self,
        chunk: int,
        origin: tuple[int, int],
        timed: bool,
        left: dict[int, int],
        job: Callable[[Any, Any], Any],
        items: list[Any],
    ) -> Answer:
        """Run the job on the items of a chunk that `begins`, and collect what is to ride back."""
        self.origin = origin
        for place, pattern in enumerate(self.patterns):
            pattern.chunk_begins(chunk, left.get(place, 0))
        begun, waiting = time.monotonic(), iter(items)
        self._running = chunk, begun, items, waiting
        if self._dozes:
            self._wake.set()
        results, failures = self._run(job, waiting, timed)
        self._running = None
        ended = len(results)
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
        return Answer(ended, elapsed, deltas, refused, body)

    def _run(
        self, job: Callable[[Any, Any], Any], waiting: Iterator[Any], timed: bool
    ) -> tuple[list[Any], dict[int, Failure]]:
        line, state = self._line, self.state
        results: list[Any] = []
        failures: dict[int, Failure] = {}
        # What stands in this loop each item costs. Which one runs is written before it begins;
        # whether to go on is not asked: where not, the clock cuts the list that is gone through.
        for line[ITEM], item in self._timed(waiting) if timed else enumerate(waiting):
            try:
                results.append(job(item, state))
            except BaseException as error:
                failures[len(results)] = describe(error)
                results.append(None)
        return results, failures

    def _timed(self, waiting: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """Number the items, and write for each when it begins."""
        for numbered in enumerate(waiting):
            self._line[SINCE] = time.monotonic_ns()
            yield numbered

    def _keep_time(self) -> None:
        """End a chunk early, in a thread, which sleeps on while there is none.

        To ask for the time after each item would cost as much as a trivial one.
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

    def _cut(self, chunk: int, _begun: float, items: list[Any], waiting: Any) -> None:
        """Cut the list that the other thread goes through, and say how far it gets now."""
        kept = max(1, len(items) - waiting.__length_hint__())
        if kept >= len(items):
            return
        del items[kept:]
        # It may have gone on till then. Its iterator knows, unless that has found the end.
        _, _, *place = waiting.__reduce__()
        if place and self.gives_back is not None:
            self.gives_back(chunk, max(kept, *place))

    def _pickled(self, results: list[Any], failures: dict[int, Failure]) -> bytes:
        try:
            return self._dumps((results, failures), protocol=5)
        except Exception:
            for place, result in enumerate(results):
                try:
                    self._dumps(result, protocol=5)
                except Exception as error:
                    kind, text, trace = describe(error)
                    name = type(result).__name__
                    failures[place] = kind, f"its result, a {name}, can't be pickled: {text}", trace
                    results[place] = None
            return self._dumps((results, failures), protocol=5)


def describe(error: BaseException) -> Failure:
    """An exception in words; whatever it is, this succeeds.

    Without a traceback when no code but ours is in it, which would explain nothing: of what
    can't be pickled, above all.
    """
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be had)"
    trace = ""
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        with contextlib.suppress(Exception):
            trace = "".join(traceback.format_exception(error))
    return type(error).__name__, text, trace
