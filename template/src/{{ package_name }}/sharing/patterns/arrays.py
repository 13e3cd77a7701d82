"""Large arrays that all workers see and nobody copies, and `map_blocks`, which works on them.

numpy is imported where it is used, so that workers whose jobs touch no array start earlier.
"""

from __future__ import annotations

import errno
import os
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, SupportsIndex, TypeVar, Unpack

from ..errors import SharingError
from ..machine import owners
from ..machine.memory import Memory
from ..machine.primitives import Words, Worker
from ..options import MapOptions, TryOptions
from .base import Host, Pattern, Published, Readable, Store

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

if TYPE_CHECKING:
    from mmap import mmap

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Bytes = mmap | memoryview
    # What it gets are the rows that it reads, those that it writes, and the state.
    Kernel = Callable[[Array, Array, S], R]

Shape = SupportsIndex | Iterable[SupportsIndex]
"""The length of each dimension of an array, or of the only one."""

_BLOCK = 1 << 20
"""Bytes of a block, about: it fits into a core's cache, and outweighs its round trip."""


class SharedArray(Pattern):
    """A numpy array in memory that all workers see, or in a mapped file.

    ``array`` is a view of it, in each process, and stays valid when the engine has closed.
    Different workers should write to different parts; `map_blocks` sees to that.

    On an engine whose workers are on other machines each sees a copy of the array as it was when
    the map began, read only, and a mapped file under its path: `map_blocks` brings back what its
    kernel writes, and nothing else does.

    Args:
        shape: of the array; a whole number means one dimension.
        dtype: anything that numpy takes as one, but for objects. The array is all zero.

    Raises:
        SharingError: it does not fit into shared memory, has no elements, or holds objects.
    """

    _own_to_process: ClassVar[frozenset[str]] = frozenset(
        {"_array", "_dtype", "_cleanup", "_store", "_published", "_seen"}
    )
    _memory: Memory | _Far
    _store: Store | None = None
    _array: Array | None = None
    _dtype: np.dtype[Any] | None = None
    _cleanup: weakref.finalize[..., SharedArray]

    def __init__(self, shape: Shape, dtype: npt.DTypeLike = "float64") -> None:
        self._describe(shape, dtype)
        self._memory = Memory.segment(self.nbytes)

    def _describe(
        self, shape: Shape, dtype: npt.DTypeLike, order: str = "C", offset: int = 0
    ) -> None:
        import numpy as np

        self._dtype = np.dtype(dtype)
        if self._dtype.hasobject:
            raise SharingError(f"dtype {self._dtype} holds objects, which can't be shared")
        if self._dtype.itemsize < 1:
            raise SharingError(f"dtype {self._dtype} has no width: give the bytes of an element")
        if self._dtype.subdtype is not None:
            raise SharingError(f"dtype {self._dtype} has a shape: make that part of the array's")
        # As numpy's own file format has it: a dtype itself would import numpy in each worker.
        try:
            self._description: Any = np.lib.format.dtype_to_descr(self._dtype)
        except ValueError:
            raise SharingError(
                f"dtype {self._dtype} has fields that overlap or are not in the order in which "
                "they lie in memory: numpy.lib.recfunctions.repack_fields puts them in order"
            ) from None
        self.shape = _lengths_of(shape)
        if min(self.shape, default=1) < 1:
            raise SharingError(f"an array of shape {self.shape} has no elements to share")
        self._layout, self._offset = order, offset
        self._file: Path | None = None  # a file that was there before
        self._path: Path | None = None  # the file that is to be there in the end
        self._unfinished: Path | None = None  # what that is written as, meanwhile
        self._aside: _Aside | None = None

    @classmethod
    def _make(
        cls, memory: Memory, shape: Shape, dtype: npt.DTypeLike, order: str, offset: int
    ) -> SharedArray:
        shared = cls.__new__(cls)
        shared._describe(shape, dtype, order, offset)
        shared._memory = memory
        return shared

    @classmethod
    def from_array(cls, array: npt.ArrayLike) -> SharedArray:
        """A copy of an array, in shared memory.

        Raises:
            SharingError: as for `SharedArray`.
        """
        import numpy as np

        if np.ma.is_masked(array):
            raise SharingError(
                "a masked array can't be shared, since its mask would be lost: fill it (filled), "
                "or share its data and its mask as two arrays"
            )
        source = np.asarray(array)
        shared = cls(source.shape, source.dtype)
        shared.array[...] = source
        return shared

    @classmethod
    def from_npy(cls, path: str | os.PathLike[str]) -> SharedArray:
        """The array in a ``.npy`` file, mapped, to be read only. It may be larger than memory.

        Raises:
            OSError: the file can't be opened.
            SharingError: it is no whole ``.npy`` file, or as for `SharedArray`.
        """
        import numpy as np

        path = Path(path)
        try:
            seen = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise SharingError(f"{path} is not a .npy file that can be mapped: {reason}") from None
        order = "C" if seen.flags.c_contiguous else "F"
        memory = Memory.file(path, writable=False)
        try:
            shared = cls._make(memory, seen.shape, seen.dtype, order, seen.offset)
        except SharingError as error:
            raise SharingError(f"{path}: {error}") from None
        shared._file = path.resolve()
        return shared

    @classmethod
    def create_npy(
        cls, path: str | os.PathLike[str], shape: Shape, dtype: npt.DTypeLike
    ) -> SharedArray:
        """An array in a new ``.npy`` file, mapped, all zero. It may be larger than memory.

        It is written beside ``path`` and takes its place when it is whole: when the engine
        closes, or by `commit`. If the work ends by an exception, nothing is left of it, and
        what was at ``path`` before is still there.

        Raises:
            OSError: the file can't be written there, or the disk is too small for it.
            SharingError: as for `SharedArray`.
        """
        import numpy as np

        path = Path(path).resolve()  # a symbolic link stays one
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        shared = cls.__new__(cls)
        shared._describe(shape, dtype)
        beside = owners.part_of(path)
        try:
            with beside.open("xb") as file:
                header = {
                    "descr": shared._description,
                    "fortran_order": False,
                    "shape": shared.shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                offset = file.tell()
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, offset + shared.nbytes)
                else:
                    file.truncate(offset + shared.nbytes)
            shared._memory = Memory.file(beside, writable=True)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise type(error)(error.errno, error.strerror, str(path)) from None
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        shared._offset = offset
        shared._path, shared._unfinished = path, beside
        shared._cleanup = weakref.finalize(shared, _remove_if_owner, os.getpid(), beside)
        return shared

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        if self._dtype is None:
            import numpy as np

            self._dtype = np.lib.format.descr_to_dtype(self._description)
        return self._dtype

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        n = self.dtype.itemsize
        for length in self.shape:
            n *= length
        return n

    @property
    def array(self) -> Array:
        """The array itself: a view, of ``shape`` and ``dtype``."""
        if self._array is None:
            self._array = self._view(self._memory, self.shape, self._offset)
        return self._array

    def _view(self, memory: Memory | _Far, shape: tuple[int, ...], offset: int) -> Array:
        import numpy as np

        count = 1
        for length in shape:
            count *= length
        # frombuffer keeps the mapping alive as long as the array is; ndarray(buffer=) too, but
        # not against a mapping that is closed by hand.
        flat: Array = np.frombuffer(memory.buffer, self.dtype, count, offset)
        return flat.reshape(shape, order="F" if self._layout == "F" else "C")

    @property
    def writable(self) -> bool:
        """Whether it can be written to."""
        return self._memory.writable

    def commit(self) -> None:
        """Put a file that `create_npy` made into its place, now. Else it does nothing.

        Raises:
            OSError: it can't be put there.
        """
        if self._unfinished is not None and self._path is not None:
            assert isinstance(self._memory, Memory)
            self._memory.sync()
            self._unfinished.replace(self._path)
            self._unfinished = None
            self._cleanup.detach()

    def open(self, host: Host) -> None:
        self._store = host.store
        self._published: Published | None = None
        self._seen = -1
        if self.writable and host.is_shared:
            self._aside = _Aside(host, self.nbytes)

    def __getstate__(self) -> dict[str, object]:
        state = super().__getstate__()
        if self._store is not None:
            assert isinstance(self._memory, Memory)
            state["_memory"] = _Far(self.name, self._file, self._memory.nbytes, self._path)
        return state

    def news(self, unread: Container[str]) -> Published | None:
        if self._store is None or self._file or self._path or self.name in unread:
            return None
        seen = zlib.crc32(self._memory.buffer)
        if self._published is None or self._published.lost or seen != self._seen:
            self._published, self._seen = self._store.publish(self.array), seen
        return self._published

    def hear(self, news: Readable) -> None:
        far = self._memory
        assert isinstance(far, _Far)
        if far.published != news:
            far.published, self._array = news, None

    def attach(self, worker: Worker) -> None:
        self._worker = worker

    def chunk_begins(self, chunk: int, left: int) -> None:
        self._chunk = chunk

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        if self._aside is not None and chunk:
            block = self._aside.block_of(slot, chunk)
            if block is not None:
                self._restore(slot, *block)
        return 0

    def close(self, *, whole: bool) -> None:
        self._aside = self._store = self._published = None
        if whole:
            self.commit()
        elif self._unfinished is not None:
            self._unfinished = None
            self._cleanup()

    def _copied_aside(self, slot: int, start: int, stop: int) -> Array:
        """Where the copy of that block is, or goes."""
        assert self._aside is not None
        shape = (stop - start, *self.shape[1:])
        return self._view(self._aside.memory, shape, slot * self._aside.stride)

    def _restore(self, slot: int, start: int, stop: int) -> None:
        self.array[start:stop] = self._copied_aside(slot, start, stop)

    def _in_place(
        self,
        kernel: Kernel[S, R],
        start: int,
        stop: int,
        state: S,
    ) -> R:
        """Run a kernel on rows that it changes, so that it can begin anew if it ends early."""
        assert self._aside is not None
        slot = self._worker.slot
        rows = self.array[start:stop]
        self._copied_aside(slot, start, stop)[...] = rows
        self._aside.hold(slot, self._chunk, start, stop)
        try:
            return kernel(rows, rows, state)
        except BaseException:
            self._restore(slot, start, stop)
            raise


def _lengths_of(shape: Shape) -> tuple[int, ...]:
    """The lengths of an array of that shape, as numbers of Python's own.

    Raises:
        SharingError: they are no whole numbers.
    """
    try:
        return tuple(map(index, shape)) if isinstance(shape, Iterable) else (index(shape),)
    except TypeError:
        raise SharingError(f"a shape is of whole numbers, and not {shape!r}") from None


class _Aside:
    """Where a worker keeps the block that it changes, as it was before.

    A region as large as the whole array for each worker, of which only one block is ever
    used: the pages of the rest are never there.
    """

    def __init__(self, host: Host, nbytes: int) -> None:
        self.stride = -(-nbytes // os.sysconf("SC_PAGESIZE")) * os.sysconf("SC_PAGESIZE")
        self.memory = Memory.segment(host.slots * self.stride, reserve=False)
        self._words: Words = host.words(host.slots * 3)
        self._slots = host.slots

    def reserve(self, nbytes: int) -> None:
        """Make sure that each worker can keep a block of that size."""
        for slot in range(1, self._slots):
            self.memory.reserve(slot * self.stride, nbytes)

    def hold(self, slot: int, chunk: int, start: int, stop: int) -> None:
        words = self._words.view[3 * slot :]
        words[1], words[2] = start, stop
        words[0] = chunk  # last: now the copy is whole

    def block_of(self, slot: int, chunk: int) -> tuple[int, int] | None:
        words = self._words.view[3 * slot :]
        return (words[1], words[2]) if words[0] == chunk else None


def _remove_if_owner(owner: int, path: Path) -> None:
    if os.getpid() == owner:  # a forked worker has a copy of the object, not of the file
        path.unlink(missing_ok=True)


class _Far:
    """What a worker that does not see the parent's memory has of an array: to be read only."""

    writable = False

    def __init__(self, name: str, file: Path | None, nbytes: int, unfinished: Path | None) -> None:
        self._name = name
        self._file = file
        self._nbytes = nbytes
        self._unfinished = unfinished
        self.published: Readable | None = None

    @property
    def buffer(self) -> Bytes:
        """Its bytes.

        Raises:
            SharingError: they can't be read from here.
        """
        if self._file is not None:
            return self._mapped(self._file)
        if self.published is None:
            reason = "is this map's to write" if self._unfinished is None else "is being written"
            raise SharingError(
                f"the array {self._name!r} {reason}, and the workers of this engine don't see the "
                "memory where it is: let map_blocks hand out its rows"
            )
        array: Array = self.published.fetch()
        return array.reshape(-1).view("uint8").data

    def _mapped(self, file: Path) -> Bytes:
        try:
            memory = Memory.file(file, writable=False)
        except OSError as error:
            raise self._not_seen(file, str(error.strerror)) from None
        if memory.nbytes != self._nbytes:
            raise self._not_seen(file, f"it has {memory.nbytes} bytes, not {self._nbytes}")
        return memory.buffer

    def _not_seen(self, file: Path, reason: str) -> SharingError:
        return SharingError(
            f"{file} is not the same file on {os.uname().nodename} ({reason}): keep what workers "
            "map where all nodes see it, under the same path"
        )


@dataclass(frozen=True)
class _Block:
    start: int
    stop: int
    rows: Array | None = None  # where they travel along

    def __repr__(self) -> str:
        return f"rows {self.start}:{self.stop}"


@dataclass(frozen=True)
class _BlockJob(Generic[S, R]):
    """The job of `map_blocks`: the kernel on one block of the fields of those names.

    Attributes:
        out: the field to write to; None where nothing is written.
        row: shape and dtype of a row of ``out``, where what is written comes back to the parent.
    """

    kernel: Kernel[S, R]
    source: str
    out: str | None
    row: tuple[tuple[int, ...], npt.DTypeLike] | None = None
    unread: frozenset[str] = frozenset()

    @property
    def __name__(self) -> str:
        return str(getattr(self.kernel, "__name__", "kernel"))

    def __call__(self, block: _Block, state: S) -> Any:
        shared: SharedArray = getattr(state, self.source)
        if self.out == self.source and self.row is None:
            return shared._in_place(self.kernel, block.start, block.stop, state)
        rows = block.rows
        if rows is None:
            rows = shared.array[block.start : block.stop]
        if self.out == self.source:
            fresh = rows.copy()
            return self.kernel(fresh, fresh, state), fresh
        rows.flags.writeable = False
        if self.out is None:
            return self.kernel(rows, rows, state)
        if self.row is not None:
            import numpy as np

            shape, dtype = self.row
            fresh = np.zeros((block.stop - block.start, *shape), dtype)
            return self.kernel(rows, fresh, state), fresh
        target: SharedArray = getattr(state, self.out)
        return self.kernel(rows, target.array[block.start : block.stop], state)


class BlockMaps(ABC, Generic[S]):
    """What `SharedArray` adds to an engine."""

    @property
    @abstractmethod
    def state(self) -> S: ...

    @abstractmethod
    def map(
        self,
        fn: Callable[[T, S], R],
        items: Iterable[T],
        **options: Unpack[MapOptions],
    ) -> Iterator[R]: ...

    def map_blocks(
        self,
        kernel: Kernel[S, R],
        source: SharedArray,
        out: SharedArray | None = None,
        rows: int | None = None,
        **options: Unpack[TryOptions],
    ) -> list[R]:
        """Run ``kernel(rows, out_rows, state)`` on blocks of rows, and list what it returns.

        The blocks depend on the shape and dtype of ``source`` alone, and what is returned
        is in their order: so a sum over it has the same rounding each time.

        Args:
            kernel: a function at module level. ``rows`` is a block of ``source`` along its
                first axis, ``out_rows`` the same rows of ``out``.
            source: a field of the state.
            out: another field with as many rows, to be written to. Left out, the kernel
                works in place: ``out_rows`` is ``rows`` and may be written to (unless the
                source is read only). Then each block is copied aside first, and one that
                ends early, by an exception or a death, is put back as it was. Where a kernel
                only reads, a read only source or another ``out`` saves that copy.
            rows: of a block; left out, as many as are about 1 MiB.
            options: as for `map`, for a block: ``retries`` and ``timeout``.

        Raises:
            SharingError: ``source`` or ``out`` is not a field of the state, the rows don't
                match, or there is no room for the copies.
            JobFailed: as for `map`.
        """
        return list(self.imap_blocks(kernel, source, out, rows, **options))

    def imap_blocks(
        self,
        kernel: Kernel[S, R],
        source: SharedArray,
        out: SharedArray | None = None,
        rows: int | None = None,
        **options: Unpack[TryOptions],
    ) -> Iterator[R]:
        """The same as `map_blocks`, but what the kernel returns comes as it is there."""
        where = self._field(source, "source")
        if not source.shape:
            raise SharingError(f"source, the field {where!r}, has no rows: it is a single number")
        length, row = source.shape[0], source.nbytes // source.shape[0]
        if rows is None:
            rows = max(1, _BLOCK // max(1, row))
        if rows < 1:
            raise SharingError(f"rows must be above 0, not {rows}")
        target = where if out is None and source.writable else None
        if out is not None:
            target = self._field(out, "out")
            if not out.writable:
                raise SharingError(f"out, the field {target!r}, can't be written to")
            if out.shape[:1] != (length,):
                raise SharingError(
                    f"out, the field {target!r}, is of shape {out.shape}, "
                    f"but source, {where!r}, has {length} rows: give it as many"
                )
        in_place = target == where
        if in_place and source._aside is not None:
            source._aside.reserve(min(rows, length) * row)
        store, written = source._store, out if out is not None else source
        comes_back = store is not None or (in_place and source._aside is None)
        ships = store is not None and store.ships_blocks and source._file is None
        unread = {name for name, apart in ((where, ships), (target, where != target)) if apart}
        job = _BlockJob(
            kernel,
            where,
            target,
            (written.shape[1:], written._description) if comes_back and target else None,
            frozenset(name for name in unread if name is not None),
        )
        blocks = (
            _Block(start, stop, source.array[start:stop] if ships else None)
            for start in range(0, length, rows)
            for stop in [min(start + rows, length)]
        )
        values = self.map(
            job,
            blocks if ships else list(blocks),
            # In place a block that has ended can't run again with others of its chunk.
            chunk_size=1 if in_place and not comes_back else None,
            **options,
        )
        return values if job.row is None else _taking_back(values, written.array, rows)

    def _field(self, array: SharedArray, role: str) -> str:
        if getattr(self.state, array.name, None) is not array:
            raise SharingError(f"{role} must be a SharedArray that is a field of the state")
        name: str = array.name
        return name


def _taking_back(values: Iterator[tuple[R, Array]], array: Array, rows: int) -> Iterator[R]:
    """Write what came back of each block to where it belongs."""
    for number, (value, fresh) in enumerate(values):
        array[number * rows : (number + 1) * rows] = fresh
        yield value
