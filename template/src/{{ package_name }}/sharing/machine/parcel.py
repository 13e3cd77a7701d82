"""What a process is started with, where that is large."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import IO, Any, ClassVar, Generic, TypeVar

from .primitives import Duplicate

T_co = TypeVar("T_co", covariant=True)

_IN_A_PIPE = 1 << 13
"""Bytes that fit into any pipe, with what else is written to it."""


class Unfit(Exception):
    """What a process is to be given can't be pickled; ``error`` says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Parcel(Generic[T_co]):
    """What a process is given: in a file without a name, or in memory that was forked with it.

    What `multiprocessing` starts a process with, it writes into a pipe, and holds the other end
    of that as well. If the process is killed before it has read that, more than fits into the
    pipe is never read, and the writer waits for ever.

    The process unpickles it when it asks for the content: so it can say what went wrong.
    """

    inherited: ClassVar[Parcel[object] | None] = None
    """In a nursery, and in all that it forks: the one that it was forked with."""

    def __init__(self, content: T_co) -> None:
        self._content: T_co | None = content
        self._load: Callable[[], T_co] | None = None
        self._file: IO[bytes] | None = None

    @property
    def content(self) -> T_co:
        """What is in it.

        Raises:
            Exception: it can't be unpickled here.
        """
        if self._load is not None:
            load, self._load = self._load, None
            with _inheriting():
                self._content = load()
        return self._content  # type: ignore[return-value]

    def close(self) -> None:
        """Close the file, when the process has started."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __reduce__(self) -> tuple[Callable[..., Parcel[object]], tuple[object, ...]]:
        starting = get_spawning_popen()
        if getattr(starting, "inherited", None) is self:  # it is for a nursery
            return _parcel_here, ()
        try:
            data = reduction.ForkingPickler.dumps(self.content)
        except Exception as error:  # any: a class may raise what it likes when it is pickled
            raise Unfit(error) from error
        if len(data) <= _IN_A_PIPE:
            return _parcel_of, (bytes(data),)
        self.close()
        self._file = _unnamed_file()
        self._file.write(data)
        self._file.flush()
        self._file.seek(0)
        return _parcel_in, (reduction.DupFd(self._file.fileno()),)


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("parcel"), "w+b")
    return tempfile.TemporaryFile()


def _loaded_by(load: Callable[[], object]) -> Parcel[object]:
    parcel: Parcel[object] = Parcel(None)
    parcel._load = load
    return parcel


def _parcel_of(data: bytes) -> Parcel[object]:
    return _loaded_by(lambda: pickle.loads(data))


def _parcel_in(duplicate: Duplicate) -> Parcel[object]:
    descriptor = duplicate.detach()

    def load() -> object:
        with os.fdopen(descriptor, "rb") as file:
            return pickle.load(file)

    return _loaded_by(load)


def _parcel_here() -> Parcel[object]:
    assert Parcel.inherited is not None
    return Parcel.inherited


@contextlib.contextmanager
def _inheriting() -> Iterator[None]:
    """Have `multiprocessing` know that what is unpickled here comes from the parent."""
    current: Any = multiprocessing.current_process()
    current._inheriting = True
    try:
        yield
    finally:
        del current._inheriting
