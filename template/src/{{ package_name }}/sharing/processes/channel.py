"""Frames over a socket between the parent and one worker.

A frame is its length, the length of its head, and head and body: two pickles, so that a body
that can't be read doesn't hide what the frame is about.

The parent's end never blocks: a worker may be stopped, or die, in the middle of a frame, and
may be too busy sending to read. The worker's end blocks.
"""

from __future__ import annotations

import os
import pickle
import struct
import threading
from multiprocessing.connection import Connection
from typing import Any

_LENGTHS = struct.Struct("<QI")
_READ = 1 << 18

Frame = tuple[Any, memoryview]
"""The head, loaded, and the body, which is not."""


def pack(head: object, body: bytes = b"") -> list[bytes]:
    """The parts of a frame."""
    packed = pickle.dumps(head, protocol=5)
    lengths = _LENGTHS.pack(len(packed) + len(body), len(packed))
    return [lengths + packed, body] if len(body) > _READ else [lengths + packed + body]


class Channel:
    """One end. The methods of the other kind of end are not to be mixed with its own."""

    def __init__(self, connection: Connection, *, blocking: bool) -> None:
        self._connection = connection
        self._descriptor = connection.fileno()
        self._incoming = bytearray()
        self._outgoing: list[memoryview] = []
        self._sending = threading.Lock()
        self.ended = False
        os.set_blocking(self._descriptor, blocking)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        self._connection.close()

    def send(self, parts: list[bytes]) -> None:
        """Worker: send a frame, from any thread.

        Raises:
            OSError: the parent is gone.
        """
        with self._sending:
            for part in parts:
                left = memoryview(part)
                while left:
                    left = left[os.write(self._descriptor, left) :]

    def receive(self) -> Frame | None:
        """Worker: wait for a frame; None when the parent is gone."""
        while True:
            frame = self._next_frame()
            if frame is not None:
                return frame
            data = os.read(self._descriptor, _READ)
            if not data:
                return None
            self._incoming += data

    def post(self, parts: list[bytes]) -> None:
        """Parent: send a frame, as far as it goes now; `flush` sends the rest."""
        self._outgoing += map(memoryview, parts)
        self.flush()

    def flush(self) -> None:
        """Parent: send what is waiting, as far as it goes now."""
        try:
            while self._outgoing:
                part = self._outgoing[0]
                sent = os.write(self._descriptor, part)
                if sent < len(part):
                    self._outgoing[0] = part[sent:]
                else:
                    del self._outgoing[0]
        except BlockingIOError:
            pass
        except OSError:  # the worker is gone, and reading says so
            self._outgoing.clear()

    @property
    def is_sending(self) -> bool:
        """Parent: whether something is waiting to be sent."""
        return bool(self._outgoing)

    def drain(self) -> list[Frame]:
        """Parent: the frames that have arrived whole; sets ``ended`` when no more can come."""
        frames = []
        while True:
            try:
                data = os.read(self._descriptor, _READ)
            except BlockingIOError:
                break
            except OSError:  # reset by a dead worker
                data = b""
            if not data:
                self.ended = True
                break
            self._incoming += data
            while (frame := self._next_frame()) is not None:
                frames.append(frame)
            if len(data) < _READ and not self._incoming:
                break
        return frames

    def _next_frame(self) -> Frame | None:
        incoming = self._incoming
        if len(incoming) < _LENGTHS.size:
            return None
        length, head = _LENGTHS.unpack_from(incoming)
        end = _LENGTHS.size + length
        if len(incoming) < end:
            return None
        whole = memoryview(bytes(memoryview(incoming)[_LENGTHS.size : end]))
        del incoming[:end]
        return pickle.loads(whole[:head]), whole[head:]
