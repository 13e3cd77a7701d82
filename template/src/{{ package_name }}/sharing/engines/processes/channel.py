"""Frames over two pipes between the parent and one worker, one each way: faster than a socket.

A frame is its length, the length of its head, and head and body: two pickles, so that a body
that can't be read doesn't hide what the frame is about.

The parent's side never blocks: a worker may be stopped, or die, in the middle of a frame, and
may be too busy sending to read. The worker's side blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import struct
import threading
from multiprocessing.connection import Connection

from ...machine import lifeline
from .messages import Message, from_wire, to_wire

_LENGTHS = struct.Struct("<QI")
_START = _LENGTHS.size
_PIPE = 1 << 20
"""Bytes that a pipe is to hold, where the system lets it: what fits in is written without waiting
for the other side. A pipe of Linux holds 64 KiB by itself, and a large chunk takes many turns."""

_READ = 1 << 16
"""Bytes asked for at once. More than 128 KiB, and malloc would map and unmap them each time,
which takes ten times as long as a small frame."""

Ends = tuple["Connection[object, object]", "Connection[object, object]"]
"""What one side reads from, and what it writes to."""

Frame = tuple[Message, memoryview]
"""What is said, and the body, which is not unpickled."""


def two_pipes() -> tuple[Ends, Ends]:
    """The ends of the parent and those of a worker."""
    from_worker, to_parent = multiprocessing.Pipe(duplex=False)
    try:
        from_parent, to_worker = multiprocessing.Pipe(duplex=False)
    except OSError:
        from_worker.close()
        to_parent.close()
        raise
    return (from_worker, to_worker), (from_parent, to_parent)


def pack(message: Message, body: bytes = b"") -> list[bytes]:
    """The parts of a frame."""
    packed = pickle.dumps(to_wire(message), protocol=5)
    head, length = len(packed), len(body)
    lengths = _LENGTHS.pack(head + length, head)
    return [lengths + packed, body] if length > _READ else [lengths + packed + body]


def _write(end: int, data: bytes | memoryview) -> int:
    if lifeline.ignores_broken_pipes():
        return os.write(end, data)
    with lifeline.broken_pipes_are_errors():
        return os.write(end, data)


def _whole(data: bytes) -> Frame | None:
    """The frame, if the data are exactly one; else None."""
    if len(data) < _START:
        return None
    length, head = _LENGTHS.unpack_from(data)
    if len(data) != _START + length:
        return None
    whole = memoryview(data)
    head += _START
    return from_wire(*pickle.loads(whole[_START:head])), whole[head:]


class Channel:
    """One side of the two pipes: a method is for the worker's or the parent's, as it says."""

    def __init__(self, ends: Ends, *, blocking: bool) -> None:
        self._ends = ends
        self.reader, self.writer = (end.fileno() for end in ends)
        self._incoming = bytearray()
        self._outgoing: list[memoryview] = []
        self._sending = threading.Lock()
        self.ended = False
        for end in self.reader, self.writer:
            os.set_blocking(end, blocking)
            if not blocking and hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):  # no user may have too many of these
                    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE)

    def close(self) -> None:
        for end in self._ends:
            end.close()

    def send(self, parts: list[bytes]) -> None:
        """Worker: send a frame, from any thread.

        Raises:
            OSError: the parent is gone.
        """
        with self._sending:
            for part in parts:
                left = memoryview(part)
                while left:
                    left = left[os.write(self.writer, left) :]

    def receive(self) -> Frame | None:
        """Worker: wait for a frame; None when the parent is gone."""
        while True:
            if self._incoming and (frame := self._next_frame()) is not None:
                return frame
            data = os.read(self.reader, _READ)
            if not data:
                return None
            if not self._incoming and (frame := _whole(data)) is not None:
                return frame
            self._incoming += data

    def post(self, parts: list[bytes]) -> bool:
        """Parent: send a frame, as far as it goes now; whether `flush` has to send the rest."""
        if not self._outgoing and len(parts) == 1:
            part = parts[0]
            try:
                sent = _write(self.writer, part)
            except OSError:  # `flush` sees what is the matter
                sent = 0
            if sent == len(part):
                return False
            parts = [part[sent:]]
        self._outgoing += map(memoryview, parts)
        return self.flush()

    def flush(self) -> bool:
        """Parent: send what is waiting, as far as it goes now; whether there is still something."""
        try:
            while self._outgoing:
                part = self._outgoing[0]
                sent = _write(self.writer, part)
                if sent < len(part):
                    self._outgoing[0] = part[sent:]
                else:
                    del self._outgoing[0]
        except BlockingIOError:
            pass
        except OSError:  # the worker is gone, and reading says so
            self._outgoing.clear()
        return bool(self._outgoing)

    def drain(self) -> list[Frame]:
        """Parent: the frames that have arrived whole; sets ``ended`` when no more can come."""
        frames = []
        while True:
            try:
                data = os.read(self.reader, _READ)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.ended = True
                break
            if not self._incoming and len(data) < _READ and (frame := _whole(data)) is not None:
                frames.append(frame)
                break
            self._incoming += data
            while self._incoming and (frame := self._next_frame()) is not None:
                frames.append(frame)
            if len(data) < _READ and not self._incoming:
                break
        return frames

    def _next_frame(self) -> Frame | None:
        incoming = self._incoming
        if len(incoming) < _START:
            return None
        length, head = _LENGTHS.unpack_from(incoming)
        end = _START + length
        if len(incoming) < end:
            return None
        whole = memoryview(bytes(memoryview(incoming)[_START:end]))
        del incoming[:end]
        return from_wire(*pickle.loads(whole[:head])), whole[head:]
