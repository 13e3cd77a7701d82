"""Events between processes, as files: whoever is killed, they stay, and nothing is held."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT = 60.0
"""Seconds after which what is waited for is taken not to come, on a machine that is busy, too."""


def wait_until(
    what: Callable[[], object], limit: float = LIMIT, *, name: Callable[[], str] | None = None
) -> None:
    """Wait for something that can only be asked for again and again.

    Args:
        what: the condition.
        limit: seconds.
        name: says what was waited for; left out, the code of the condition.

    Raises:
        TimeoutError: the condition did not come true, with its name.
    """
    end = time.monotonic() + limit
    while not what():
        if time.monotonic() > end:
            waited_for = _code_of(what) if name is None else name()
            raise TimeoutError(f"did not come in {limit:g} s: {waited_for}")
        time.sleep(0.002)


def _code_of(condition: Callable[[], object]) -> str:
    """The lines that a condition was written in, and where they are."""
    import inspect  # not before it is needed: workers import this module

    try:
        lines, number = inspect.getsourcelines(condition)
        file = inspect.getsourcefile(condition) or ""
    except (OSError, TypeError):  # a condition without lines
        return repr(condition)
    return f"{' '.join(''.join(lines).split())} ({Path(file).name}, line {number})"


@dataclass(frozen=True)
class Signs:
    """A folder of them. It travels to workers in a state, or in an item."""

    folder: Path

    def give(self, name: str) -> None:
        """Let those go on who wait for this."""
        self.note(name)

    def given(self, name: str) -> bool:
        """Whether it is there, and what there is to read in it."""
        try:
            return (self.folder / name).stat().st_size > 0
        except FileNotFoundError:
            return False

    def wait(self, name: str, limit: float = LIMIT) -> None:
        """Wait until it is given."""
        wait_until(lambda: self.given(name), limit, name=lambda: self._missing(name))

    def _missing(self, name: str) -> str:
        there = sorted(path.name for path in self.folder.iterdir())
        return f"the sign {name!r}; those that were given: {', '.join(there) or 'none'}"

    def first(self, name: str) -> bool:
        """Give it; whether nobody had before."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        self.note(name)
        return True

    def note(self, name: str, text: object = "") -> None:
        """Add a line; lines of several processes don't mix."""
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)

    def notes(self, name: str) -> list[str]:
        """The lines so far."""
        try:
            return (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []
