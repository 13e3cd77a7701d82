"""What runs in a worker: chunk after chunk, each answered with results and deltas."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import pickle
from dataclasses import dataclass

from ...machine.memory import Words
from ...machine.parcel import Parcel
from ..chunks import ChunkId, made
from ..desk import LINE, Desk, Job, Task
from ..failure import describe
from .channel import Channel, Ends, pack
from .messages import Done, Failed, Gave, Record, Unread, Up

GIVE_BACK = 0.05
"""Seconds after which a worker gives back the items of its chunk that it has not begun, be it in
the middle of one."""


@dataclass
class Setup:
    """What all workers of an engine are started with.

    Attributes:
        state: what they share.
        words: a line of them for each slot; see `desk`.
    """

    state: object
    words: Words


def line_of(words: Words, slot: int) -> memoryview:
    """The words of a worker."""
    return words.view[slot * LINE : (slot + 1) * LINE]


def main(parcel: Parcel[Setup], slot: int, ends: Ends, levels: dict[str, int]) -> None:
    """The life of a worker. The levels are those of the parent's loggers, by their names."""
    channel = Channel(ends, blocking=True)
    _send_log_records(channel, levels)
    try:
        setup = parcel.content
        desk = Desk(setup.state, slot, line_of(setup.words, slot), give_back=GIVE_BACK)
        desk.attach()
    except BaseException as error:
        channel.send(pack(Failed(describe(error))))
        return
    try:
        channel.send(pack(Up()))
        _Loop(desk, channel).run()
    except OSError:
        os._exit(1)  # the parent is gone


class _Sender(logging.handlers.QueueHandler):
    """Sends records to the parent."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._channel = channel

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(pack(Record(), pickle.dumps(record, protocol=5)))


def _send_log_records(channel: Channel, levels: dict[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().handlers[:] = [_Sender(channel)]


class _Loop:
    def __init__(self, desk: Desk, channel: Channel) -> None:
        self._desk = desk
        self._channel = channel
        desk.gives_back = self._gave
        self._job: tuple[int, Job] | None = None

    def run(self) -> None:
        while (frame := self._channel.receive()) is not None:
            message, body = frame
            if not isinstance(message, Task):  # the end, in order
                self._desk.detach()
                return
            self._work(message, body)

    def _gave(self, chunk: ChunkId, kept: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(pack(Gave(chunk, kept)))

    def _work(self, task: Task, body: memoryview) -> None:
        desk = self._desk
        desk.begins(task.chunk, timed=task.timed)
        try:
            items = pickle.loads(body)
            if len(items) > task.stop - task.start:
                items = items[task.start : task.stop]
            if task.job is not None:
                self._job = task.run, pickle.loads(task.job)
            assert self._job is not None
            assert self._job[0] == task.run
        except BaseException as error:
            self._channel.send(pack(Unread(task.chunk, describe(error))))
            return
        answer = desk.work(task, self._job[1], items)
        *about, answer_body = answer
        parts = pack(made(Done, (task.chunk, *about)), answer_body)
        desk.sends()
        try:
            self._channel.send(parts)
        except OSError:
            desk.could_not_send()
            raise
