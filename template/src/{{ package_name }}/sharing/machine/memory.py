"""Memory that the processes of an engine share: words, and mappings of segments and files.

None of it has a name that could be left behind. What a worker gets is a descriptor, so when
the last process is gone, by whatever death, the memory is gone as well.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from multiprocessing import heap, reduction, sharedctypes
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SharingError
from . import owners
from .primitives import Duplicate

SEGMENTS = Path("/dev/shm")
"""Where segments are, on Linux."""

if TYPE_CHECKING:
    _Raw = ctypes.Array[ctypes.c_longlong]


class Words:
    """64-bit signed integers, zero at first; ``view`` is a memoryview of them in each process."""

    def __init__(self, count: int) -> None:
        # RawArray does the same, but writes to the pages at once: where there is no room for them
        # a SIGBUS ends the process, while `_set_aside` raises.
        block: Any = heap.BufferWrapper(8 * count)
        (arena, start, stop), _ = block._state
        _set_aside(arena.fd, start, stop - start)
        rebuild: Callable[..., _Raw] = vars(sharedctypes)["rebuild_ctype"]
        self._hold(rebuild(ctypes.c_longlong * count, block, None))
        ctypes.memset(ctypes.addressof(self._raw), 0, 8 * count)

    def _hold(self, raw: _Raw) -> None:
        self._raw = raw
        self.view = memoryview(raw).cast("B").cast("q")

    def __reduce__(self) -> tuple[Callable[[_Raw], Words], tuple[_Raw]]:
        return _words, (self._raw,)


def _words(raw: _Raw) -> Words:
    words = Words.__new__(Words)
    words._hold(raw)
    return words


class Memory:
    """Bytes that all processes of an engine see.

    Attributes:
        buffer: the mapping. Whatever refers to it (an array) keeps it mapped.
        nbytes: its length.
        writable: whether it may be written to.

    It belongs to a descriptor, which it owns. Make one with `segment` or `file`.
    """

    def __init__(self, descriptor: int, nbytes: int, *, writable: bool) -> None:
        self._descriptor = descriptor
        self.nbytes = nbytes
        self.writable = writable
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self.buffer = mmap.mmap(descriptor, nbytes, access=access)

    @classmethod
    def segment(cls, nbytes: int, *, reserve: bool = True) -> Memory:
        """A new segment of shared memory, all zero.

        With ``reserve`` its pages are set aside now, so that a lack of room is an error here and
        no SIGBUS at the first write. Without it, call `reserve` for the parts that are used.

        Raises:
            SharingError: there is not that much shared memory.
        """
        if reserve:
            _check_room(nbytes)
        from multiprocessing import shared_memory  # slow, and workers make none

        # Elsewhere names have to be short, and nobody can list them.
        name = owners.name() if sys.platform == "linux" else None
        segment = shared_memory.SharedMemory(name, create=True, size=nbytes)
        # Through a descriptor it needs no name from here on: nothing is left to be cleaned up
        # by a process that may be killed first, nor for a tracker to remove too early.
        descriptor = os.dup(segment._fd)  # type: ignore[attr-defined]
        segment.close()
        segment.unlink()
        try:
            memory = cls(descriptor, nbytes, writable=True)
        except BaseException:
            os.close(descriptor)
            raise
        if reserve:
            memory.reserve(0, nbytes)
        return memory

    @classmethod
    def file(cls, path: Path, *, writable: bool) -> Memory:
        """The whole of a file, which may be renamed or removed later on.

        Raises:
            OSError: it can't be opened.
        """
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            return cls(descriptor, os.fstat(descriptor).st_size, writable=writable)
        except BaseException:
            os.close(descriptor)
            raise

    def reserve(self, start: int, nbytes: int) -> None:
        """Set pages aside, so that writing to them can't fail.

        Raises:
            SharingError: there is not that much shared memory.
        """
        _set_aside(self._descriptor, start, nbytes)

    def sync(self) -> None:
        """Have what was written reach the disk."""
        self.buffer.flush()
        os.fsync(self._descriptor)

    def __reduce__(self) -> tuple[Callable[..., Memory], tuple[Duplicate | str, int, bool]]:
        if get_spawning_popen() is None:  # then another library starts the process
            path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
            return _memory_at, (path, self.nbytes, self.writable)
        return _memory, (reduction.DupFd(self._descriptor), self.nbytes, self.writable)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _set_aside(descriptor: int, start: int, nbytes: int) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS, whose segments have no limit of their own
        return
    try:
        os.posix_fallocate(descriptor, start, nbytes)
    except OSError as error:
        wanted = in_units(nbytes)
        raise SharingError(f"{wanted} of shared memory can't be had: {error}") from None


def _memory(duplicate: Duplicate, nbytes: int, writable: bool) -> Memory:
    return Memory(duplicate.detach(), nbytes, writable=writable)


def _memory_at(path: str, nbytes: int, writable: bool) -> Memory:
    return Memory(os.open(path, os.O_RDWR if writable else os.O_RDONLY), nbytes, writable=writable)


def _check_room(nbytes: int) -> None:
    """Refuse before anything is written: filling /dev/shm first would starve other programs."""
    try:
        room = os.statvfs(SEGMENTS)
    except OSError:  # macOS
        return
    free = room.f_bavail * room.f_frsize
    if nbytes > free:
        raise SharingError(
            f"an array of {in_units(nbytes)} does not fit into {SEGMENTS}, which has "
            f"{in_units(free)} free of {in_units(room.f_blocks * room.f_frsize)}: make it larger "
            "(in a container: shm_size), or map a file instead"
        )


def in_units(n: float) -> str:
    """Bytes as a person writes them."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while n >= 1024 and len(units) > 1:
        n /= 1024
        del units[0]
    return f"{n:.4g} {units[0]}"
