"""What runs in a worker: chunk after chunk, each answered with results and deltas."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..pattern import Pattern, patterns_by_field
from . import lifeline
from .channel import Channel, Ends, pack
from .memory import Parcel, Words

GIVE_BACK = 0.05
"""Seconds after which a worker gives back the items of its chunk that it has not begun, be it in
the middle of one."""

TICK = 0.005
"""Seconds between two looks at the clock, and at what the parent wants, while a chunk runs."""

# The words of a worker, a cache line each. By them the parent knows, after its death, which
# item to blame, and before it, whether one is stuck.
LINE = 8
CHUNK = 0  # the chunk that it is in
ITEM = 1  # the place of the item that runs; between items ~n, where n of the chunk have ended
SINCE = 2  # when that item began, in ns of the monotonic clock, where there is a timeout
STOP = 3  # written by the parent: begin no further item

_Running = tuple[int, float, list[Any], Iterator[Any]]
"""The chunk, when it began, its items, and the iterator that goes through them."""

Failure = tuple[str, str, str]
"""An exception as its class's name, its text and its traceback: it may not stand a pickle."""


@dataclass
class Setup:
    """What a worker is started with."""

    slot: int
    state: Any
    words: Words
    ends: Ends
    levels: dict[str, int]
    patterns: list[Pattern] = field(default_factory=list)
    origin: tuple[int, int] = (0, 0)

    @property
    def running(self) -> memoryview:
        return line_of(self.words, self.slot)[ITEM : ITEM + 1]


def line_of(words: Words, slot: int) -> memoryview:
    """The words of a worker."""
    return words.view[slot * LINE : (slot + 1) * LINE]


def main(parcel: Parcel[Setup]) -> None:
    """The life of a worker."""
    setup = parcel.content
    lifeline.end_with_parent()
    lifeline.ignore_stop_signals()
    channel = Channel(setup.ends, blocking=True)
    _send_log_records(channel, setup.levels)
    setup.patterns = patterns_by_field(setup.state)
    try:
        for pattern in setup.patterns:
            pattern.attach(setup)
    except BaseException as error:
        channel.send(pack(("failed", describe(error))))
        return
    try:
        channel.send(pack(("ready",)))
        _Loop(setup, channel).run()
    except OSError:
        os._exit(1)  # the parent is gone


def _send_log_records(channel: Channel, levels: dict[str, int]) -> None:
    class Sender(logging.handlers.QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError):
                channel.send(pack(("log",), pickle.dumps(record, protocol=5)))

    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root = logging.getLogger()
    root.handlers[:] = [Sender(None)]  # type: ignore[arg-type]


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


class _Loop:
    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._setup = setup
        self._state = setup.state
        self._patterns = setup.patterns
        self._line = line_of(setup.words, setup.slot)
        self._channel = channel
        self._job: tuple[int, Callable[[Any, Any], Any]] | None = None
        self._running: _Running | None = None  # replaced whole, since a thread reads it
        self._dozes = False  # the clock, until a chunk begins
        self._wake = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self._keep_time, name="clock", daemon=True).start()
        while (frame := self._channel.receive()) is not None:
            head, body = frame
            if head is None:  # the end, in order
                for pattern in self._patterns:
                    pattern.detach()
                return
            self._answer(body, *head)

    def _answer(
        self, body: memoryview, chunk: int, run: int, first: int, timed: bool, left: dict[int, int]
    ) -> None:
        self._setup.origin = run, first
        line = self._line
        line[ITEM] = ~0
        line[CHUNK] = chunk
        try:
            job, items = pickle.loads(body)
            if job is not None:
                self._job = run, pickle.loads(job)
            assert self._job is not None
            assert self._job[0] == run
        except BaseException as error:
            self._channel.send(pack(("unreadable", chunk, describe(error))))
            return
        for place, pattern in enumerate(self._patterns):
            pattern.chunk_begins(chunk, left.get(place, 0))
        begun, waiting = time.monotonic(), iter(items)
        self._running = chunk, begun, items, waiting
        if self._dozes:
            self._wake.set()
        results, failures = self._run(self._job[1], waiting, timed)
        self._running = None
        ended = len(results)
        line[ITEM] = ~ended
        elapsed = time.monotonic() - begun
        answer = _pickled(results, failures)
        deltas, refused = {}, None
        for place, pattern in enumerate(self._patterns):
            try:
                delta = pattern.take_delta()
            except ValueError as error:
                refused = describe(error)
                continue
            if delta is not None:
                deltas[place] = delta
        self._channel.send(pack(("done", chunk, ended, elapsed, deltas, refused), answer))

    def _run(
        self, job: Callable[[Any, Any], Any], waiting: Iterator[Any], timed: bool
    ) -> tuple[list[Any], dict[int, Failure]]:
        line, state = self._line, self._state
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
                if self._line[STOP] or time.monotonic() - running[1] > GIVE_BACK:
                    self._give_back(*running)
                for pattern in self._patterns:
                    pattern.at_work()

    def _give_back(self, number: int, _begun: float, items: list[Any], waiting: Any) -> None:
        """Cut the list that the other thread goes through, and say how far it gets now."""
        kept = max(1, len(items) - waiting.__length_hint__())
        if kept >= len(items):
            return
        del items[kept:]
        # It may have gone on till then. Its iterator knows, unless that has found the end.
        _, _, *place = waiting.__reduce__()
        if place:
            with contextlib.suppress(OSError):
                self._channel.send(pack(("gave", number, max(kept, *place))))


def _pickled(results: list[Any], failures: dict[int, Failure]) -> bytes:
    try:
        return pickle.dumps((results, failures), protocol=5)
    except Exception:
        for place, result in enumerate(results):
            try:
                pickle.dumps(result, protocol=5)
            except Exception as error:
                kind, text, trace = describe(error)
                name = type(result).__name__
                failures[place] = kind, f"its result, a {name}, can't be pickled: {text}", trace
                results[place] = None
        return pickle.dumps((results, failures), protocol=5)
