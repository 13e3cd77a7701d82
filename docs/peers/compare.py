"""Comparisons: several ways to do one piece of work, each of which may fail by itself."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from types import FrameType
from typing import Any

from my_service.bench.timing import Setting, Way, measuring
from my_service.bench.units import show_seconds, show_times

Run = Callable[[], float]
"""Does the work once; returns what one of it took, in seconds, or another number to compare."""

Opener = Callable[[Setting], AbstractContextManager[Run]]
"""What has to be there before the work can be done: processes, servers, files."""

OPENING, RUNNING, CLOSING = 60.0, 30.0, 30.0
"""Seconds after which a way counts as stuck."""


class Wrong(Exception):
    """What came out is not what was asked for."""


class Stuck(Exception):
    """It took too long."""


def check(found: float, wanted: float, what: str) -> None:
    """Raise `Wrong` unless a number is the right one."""
    if found != wanted:
        raise Wrong(f"wrong: {found:,.0f} {what} instead of {wanted:,.0f}")


@dataclass(frozen=True)
class Entry:
    """One way, before it is opened.

    Attributes:
        name: a few words.
        open: what makes it ready.
        role: as in `Way`: "ours", "copied" (of others) or "floor".
    """

    name: str
    open: Opener
    role: str = "copied"


@dataclass
class Comparison:
    """Ways to do the same work, and what came of them.

    Attributes:
        key: what it is called among the targets.
        title: what is done, and what one of it is.
        entries: the ways.
        rounds: how many count.
        workers: how many work at once.
        show: writes one of the numbers.
        ways: those that came through.
        failed: why the others did not, or could not be closed.
    """

    key: str
    title: str
    entries: list[Entry]
    rounds: int = 5
    workers: int = 2
    show: Callable[[float], str] = show_seconds
    ways: list[Any] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def measure(self, setting: Setting) -> None:
        """Open all ways, measure them in turn, and close what was opened, whatever happens."""
        setting = replace(setting, workers=self.workers)
        with contextlib.ExitStack() as stack:
            opened = []
            for entry in self.entries:
                run = self._tried(entry.name, OPENING, partial(self._open, stack, entry, setting))
                if run is not None:
                    opened.append(Way(entry.name, self._guarded(entry.name, run), entry.role))
            rounds = self.rounds if setting.effort >= 1 else 1
            for _ in measuring(opened, rounds):
                pass
            self.ways = [way for way in opened if way.name not in self.failed]

    def _open(self, stack: contextlib.ExitStack, entry: Entry, setting: Setting) -> Run:
        context = entry.open(setting)
        run = context.__enter__()
        stack.push(lambda *_: self._close(entry.name, context))
        return run

    def _close(self, name: str, context: AbstractContextManager[Run]) -> None:
        self._tried(name, CLOSING, partial(context.__exit__, None, None, None))

    def _guarded(self, name: str, run: Run) -> Run:
        """Take no part any more after a failure: the others go on."""

        def guarded() -> float:
            number = None if name in self.failed else self._tried(name, RUNNING, run)
            return float("nan") if number is None else number

        return guarded

    def _tried(self, name: str, seconds: float, do: Callable[[], Any]) -> Any:
        try:
            with limit(seconds):
                return do()
        except Exception as error:  # whatever a library raises
            self.failed.setdefault(name, reason(error))
            return None

    def __getitem__(self, name: str) -> list[float]:
        """What the rounds of one way gave."""
        seconds: list[float] = next(way.seconds for way in self.ways if way.name == name)
        return seconds

    def ratio(self, name: str, other: str) -> float | None:
        """How many times the other one it took, the middle of all rounds; None if one failed."""
        names = [way.name for way in self.ways]
        if name not in names or other not in names:
            return None
        return median(a / b for a, b in zip(self[name], self[other], strict=True))


def reason(error: Exception) -> str:
    """Say in one line why there is no number."""
    if isinstance(error, Wrong | Stuck):
        return str(error)
    if isinstance(error, ImportError):
        return f"not installed: {error.name or error}"
    text = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {text[:120]}".rstrip(": ")


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `Stuck` in what takes longer."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Stuck(f"stuck: no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Target:
    """One number that was promised.

    Attributes:
        text: what it is.
        bound: at most, or at least, how many times.
        found: how many times it was; None where one of both failed.
        least: whether the bound is a lower one.
        note: what bounds it, where it isn't met.
        show: writes both.
    """

    text: str
    bound: float
    found: float | None
    least: bool = False
    note: str = ""
    show: Callable[[float], str] = show_times

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where nobody knows."""
        if self.found is None:
            return None
        return self.found >= self.bound if self.least else self.found <= self.bound


def least_times(
    comparison: Comparison, ours: str, bound: float, others: list[str], note: str = ""
) -> list[Target]:
    """Targets to be at least that many times as fast as each of these."""
    return [
        Target(
            f"{comparison.key}: {ours}, as fast as {other}",
            bound,
            comparison.ratio(other, ours),
            least=True,
            note=note,
        )
        for other in others
    ]


def most_times(
    comparison: Comparison, ours: str, bound: float, other: str, note: str = ""
) -> Target:
    """A target to take at most that many times as long as another."""
    text = f"{comparison.key}: {ours}, as long as {other}"
    return Target(text, bound, comparison.ratio(ours, other), note=note)
