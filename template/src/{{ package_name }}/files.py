"""Read input with errors that name the line, and write output that is whole or not there."""

import contextlib
import csv
import errno
import io
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .sharing.machine import owners

STDOUT = 1  # its descriptor


class InputError(ValueError):
    """What came in is wrong. The command line shows it as one line, without a traceback."""

    exit_code = 1


def check_paths(inputs: Iterable[Path], outputs: Iterable[Path] = ()) -> None:
    """Raise now what would end the work later, and what would lose an input.

    Args:
        inputs: files to read; each has to be there, readable and not empty.
        outputs: files to write or replace, none of which is an input: see `check_apart`.

    Raises:
        InputError: one of the paths can't be used.
        OSError: the same, where the system says why.
    """
    inputs, outputs = list(inputs), list(outputs)
    check_apart(inputs, outputs)
    check_readable(*inputs)
    for output in outputs:
        check_writable(output)


def check_apart(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise `InputError` if an output, or stdout, is one of the inputs or another output.

    Two paths are one file if they lead to it, whatever links and folders they go through.
    Nothing is opened.
    """
    outputs = list(outputs)
    read = {_identity(path): path for path in inputs}
    read.pop(None, None)
    for output in outputs:
        same = read.get(_identity(_target(output)))
        if same is not None:
            raise InputError(f"{output}: this output would replace the input {same}")
    same = read.get(_identity(STDOUT))
    if same is not None:
        raise InputError(f"{same}: stdout is redirected to this input")
    _check_distinct(outputs)


def _check_distinct(outputs: Iterable[Path]) -> None:
    """Raise `InputError` if two of the outputs are one file."""
    taken: dict[object, Path] = {}
    for output in outputs:
        target = _target(output)
        file = _identity(target) or target
        if file in taken:
            raise InputError(f"{output}: this output would replace the output {taken[file]}")
        taken[file] = output


def _target(path: Path) -> Path:
    """Return where a file is put that takes the place of `path`: a symbolic link stays one."""
    return Path(os.path.realpath(path))


def _identity(path: Path | int) -> tuple[int, int] | None:
    """Return what tells a regular file from all others; None for what isn't there or is none."""
    try:
        found = os.fstat(path) if isinstance(path, int) else path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def check_readable(*paths: Path) -> None:
    """Raise now what would end the work later: a file that is missing, unreadable or empty."""
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
        # A pipe is left alone: opening it twice would lose what is in it.
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                if not file.read(1):
                    raise InputError(f"{path}: the file is empty")


def check_writable(path: Path) -> None:
    """Raise now what would end the work later: a path where no file can be put."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file to write", str(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file, so it cannot be replaced")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "is write-protected", str(path))
    folder = _target(path).parent
    if not folder.is_dir():
        raise InputError(f"{path}: there is no folder {folder} to write into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no right to write into its folder", str(path))


class _Part(io.FileIO):
    """A file that is not whole yet. What goes wrong is said of the one that it is to be."""

    def __init__(self, part: Path, path: Path) -> None:
        self._path = path
        with self._named():
            super().__init__(part, "x")

    def write(self, data: Any) -> int:
        with self._named():
            return super().write(data)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)
            raise


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[tuple[TextIO, ...]]:
    """Open text files for writing that take the place of `paths` when the block has ended well.

    Until then they lie beside them under hidden names. If the block raises they are removed,
    and what stood at `paths` stays as it was.
    """
    _check_distinct(paths)
    with contextlib.ExitStack() as stack:
        parts: list[tuple[TextIO, Path, Path]] = []
        for path in paths:
            check_writable(path)
            target = _target(path)
            part = owners.part_of(target)
            stack.callback(part.unlink, missing_ok=True)
            raw = io.BufferedWriter(_Part(part, path))
            file: TextIO = io.TextIOWrapper(raw, encoding="utf-8", newline="")
            parts.append((stack.enter_context(file), part, target))
        yield tuple(file for file, _, _ in parts)
        for file, _, _ in parts:
            file.flush()
            os.fsync(file.fileno())
        with _undisturbed():
            for _, part, target in parts:
                part.replace(target)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: of several files, all are replaced or none."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Table:
    """A CSV file that is being read."""

    header: list[str]
    rows: Iterator[tuple[int, list[str]]]
    """Each row with the number of its line."""

    def places(self, *columns: str) -> list[int]:
        """Return where in a row these columns are."""
        return [self.header.index(column) for column in columns]


@contextlib.contextmanager
def reading_csv(path: Path, columns: Iterable[str]) -> Iterator[Table]:
    """Read a CSV file that has at least these columns, in any order; lines left blank don't count.

    Raises `InputError` with the number of the line, also while the rows are read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _rows(path, file)
        _, header = next(rows, (0, []))
        if not header:
            raise InputError(f"{path}: the file is empty")
        missing = [column for column in columns if column not in header]
        if missing:
            raise InputError(
                f"{path}, line 1: no column {', '.join(missing)}; there is {', '.join(header)}"
            )
        twice = {column for column in columns if header.count(column) > 1}
        if twice:
            raise InputError(f"{path}, line 1: column {', '.join(sorted(twice))} is there twice")
        yield Table(header, _of_width(path, rows, len(header)))


def _of_width(
    path: Path, rows: Iterable[tuple[int, list[str]]], width: int
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != width:
            raise InputError(f"{path}, line {line}: {len(row)} values for {width} columns")
        yield line, row


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}, line {line}: {error}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, near line {line}: not UTF-8 ({error.reason})") from error
        if row:
            yield line, row
