"""What was measured, as `--json` writes it and `--against` reads it.

A file holds one object:

    {"format": 1,
     "facts": {"cores": 2, "python": "3.12.4", "platform": "Linux x86_64", "engine": "processes",
               "start_method": "spawn", "effort": 1.0, "date": "2026-03-01T10:00:00+00:00",
               "version": "0.1.0"},
     "shape": null,
     "groups": [{"pattern": "…", "title": "Adding one, …", "workers": 2, "carries": false,
                 "timings": [{"name": "…", "role": "ours", "seconds": [7.1e-08, 7.3e-08]}]}],
     "advice": ""}

`cores` are those that the process may use; `date` is when the run ended, in UTC. `shape` is null,
or what was asked for: `payload` in bytes, `keys`, `reads` from 0 to 1 and `item_cost` in seconds.
`seconds` has a number a round: what one call, item or pass took. All timings of a group were
taken in turn, and one of them has the role "floor": the same without sharing anything. The
others are "ours", or "copied" from what people write by hand. `carries` says whether the payload
came with each item. `advice` is the recommendation for a shape.
"""

import json
import math
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TextIO, get_args

from ..files import InputError
from ..sharing.engines.engine import available_cores
from .timing import Role, Setting, Way

FORMAT = 1
SAME = ("cores", "python", "platform", "engine", "start_method", "effort")
"""The facts that make two runs comparable."""


class RecordError(InputError):
    """A file is none that `--json` wrote, or has nothing to compare."""

    exit_code = 2


@dataclass(frozen=True)
class Timing:
    """What the rounds of one way gave, in seconds."""

    name: str
    role: Role
    seconds: list[float]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far apart the quartiles are, as a part of the median."""
        return spread(self.seconds) / self.median


@dataclass(frozen=True)
class Group:
    """The ways of one pattern with one number of workers, measured in turn."""

    pattern: str
    title: str
    workers: int
    timings: list[Timing]
    carries: bool = False

    @classmethod
    def of(
        cls, pattern: str, title: str, workers: int, ways: list[Way], carries: bool = False
    ) -> "Group":
        """Keep what was measured of these ways."""
        timings = [Timing(way.name, way.role, way.seconds) for way in ways]
        return cls(pattern, title, workers, timings, carries)

    @property
    def floor(self) -> Timing:
        """The way that shares nothing."""
        return next(one for one in self.timings if one.role == "floor")

    @property
    def ours(self) -> list[Timing]:
        """The ways of this project."""
        return [one for one in self.timings if one.role == "ours"]

    def ratios(self, timing: Timing) -> list[float]:
        """How many times the floor it took, round by round."""
        return [a / b for a, b in zip(timing.seconds, self.floor.seconds, strict=True)]


@dataclass(frozen=True)
class Record:
    """One run of the command `bench`."""

    facts: dict[str, Any]
    shape: dict[str, Any] | None
    groups: list[Group]
    advice: str = ""

    def write(self, file: TextIO) -> None:
        """Write it as JSON."""
        json.dump({"format": FORMAT, **asdict(self)}, file, indent=1)
        file.write("\n")


def spread(numbers: list[float]) -> float:
    """How far apart the quartiles are; 0 for a single number."""
    if len(numbers) < 2:
        return 0.0
    low, _, high = quantiles(numbers, n=4, method="inclusive")
    return high - low


def facts(setting: Setting, package: str) -> dict[str, Any]:
    """Return what one has to know of a run beside its numbers."""
    try:
        known = version(package)
    except PackageNotFoundError:
        known = ""
    return {
        "cores": available_cores(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "engine": setting.engine,
        "start_method": setting.start_method or "spawn",
        "effort": setting.effort,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": known,
    }


def read(path: Path) -> Record:
    """Read a file that `--json` wrote.

    Raises:
        RecordError: it can't be read, or is another kind of file.
    """
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != FORMAT:
            raise RecordError(f"{path}: is of format {found['format']!r}, not {FORMAT}: run anew")
        groups = [_group(**group) for group in found["groups"]]
        if not groups or not isinstance(found["facts"], dict):
            raise ValueError
        return Record(found["facts"], found["shape"], groups, found["advice"])
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{path}: is not a file that bench --json wrote") from error


def _group(timings: list[dict[str, Any]], **other: Any) -> Group:
    group = Group(timings=[Timing(**timing) for timing in timings], **other)
    rounds = len(group.floor.seconds) if any(one.role == "floor" for one in group.timings) else 0
    for timing in group.timings:
        fits = timing.role in get_args(Role) and len(timing.seconds) == rounds > 0
        if not fits or not all(math.isfinite(x) and x > 0 for x in timing.seconds):
            raise ValueError
    return group


def differences(before: Record, now: Record) -> list[str]:
    """Name the facts that make two runs hard to compare: 'cores 4 → 2'."""

    def plain(record: Record, fact: str) -> object:
        value = record.facts.get(fact)
        return ".".join(str(value).split(".")[:2]) if fact == "python" else value

    pairs = [(fact, plain(before, fact), plain(now, fact)) for fact in SAME]
    return [
        f"{fact.replace('_', ' ')} {one} → {other}" for fact, one, other in pairs if one != other
    ]
