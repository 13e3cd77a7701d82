"""What runs in a worker: chunk after chunk, each answered with results and deltas."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...machine import lifeline
from ...machine.memory import Parcel, Words
from ..desk import LINE, Desk, describe
from .channel import Channel, Ends, pack

GIVE_BACK = 0.05
"""Seconds after which a worker gives back the items of its chunk that it has not begun, be it in
the middle of one."""


@dataclass
class Setup:
    """What a worker is started with."""

    slot: int
    state: Any
    words: Words
    ends: Ends
    levels: dict[str, int]


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
    line = line_of(setup.words, setup.slot)
    desk = Desk(setup.state, setup.slot, line, give_back=GIVE_BACK)
    try:
        desk.attach()
    except BaseException as error:
        channel.send(pack(("failed", describe(error))))
        return
    try:
        channel.send(pack(("ready",)))
        _Loop(desk, channel).run()
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


class _Loop:
    def __init__(self, desk: Desk, channel: Channel) -> None:
        self._desk = desk
        self._channel = channel
        desk.gives_back = self._gave
        self._job: tuple[int, Callable[[Any, Any], Any]] | None = None

    def run(self) -> None:
        while (frame := self._channel.receive()) is not None:
            head, body = frame
            if head is None:  # the end, in order
                self._desk.detach()
                return
            self._answer(body, *head)

    def _gave(self, chunk: int, kept: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(pack(("gave", chunk, kept)))

    def _answer(
        self,
        body: memoryview,
        chunk: int,
        run: int,
        job: bytes | None,
        first: int,
        timed: bool,
        left: dict[int, int],
    ) -> None:
        self._desk.begins(chunk)
        try:
            items = pickle.loads(body)
            if job is not None:
                self._job = run, pickle.loads(job)
            assert self._job is not None
            assert self._job[0] == run
        except BaseException as error:
            self._channel.send(pack(("unreadable", chunk, describe(error))))
            return
        *head, answer = self._desk.work(chunk, (run, first), timed, left, self._job[1], items)
        self._channel.send(pack(("done", chunk, *head), answer))
