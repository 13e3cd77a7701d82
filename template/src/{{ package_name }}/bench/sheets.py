"""What was measured, as plain tables of text: the terminal and the report show the same."""

from dataclasses import dataclass

from .advice import HANDING_OVER, fastest
from .against import Change
from .record import Group, Record, Timing
from .timing import Role
from .units import show_seconds, show_times
from .workload import Shape, limits


@dataclass(frozen=True)
class Bars:
    """One way of a chart: a bar a label, in seconds."""

    name: str
    role: Role
    seconds: list[float]


@dataclass(frozen=True)
class Sheet:
    """A table, and what a chart of it shows; without labels there is none."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str]]
    labels: list[str]
    bars: list[Bars]


def sheets(record: Record, changes: list[Change]) -> list[Sheet]:
    """Return a table a pattern, or one for a shape of work, and one for the comparison."""
    found = [_of_pattern(groups) for groups in _by_pattern(record.groups)]
    if record.shape is not None:
        found = [_of_shape(record.groups, limits(Shape(**record.shape)))]
    return [*found, _of_changes(changes)] if changes else found


def _by_pattern(groups: list[Group]) -> list[list[Group]]:
    """Put those together that differ in the number of workers alone."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.pattern, []).append(group)
    return list(found.values())


def _of_pattern(groups: list[Group]) -> Sheet:
    """Make a row a way; for each number of workers the time and how many times the floor."""
    ways = list(zip(*(group.timings for group in groups), strict=True))
    rows = [
        [
            timings[0].name,
            *(
                text
                for timing, group in zip(timings, groups, strict=True)
                for text in (_time(timing), show_times(timing.median / group.floor.median))
            ),
        ]
        for timings in ways
    ]
    labels = [in_words(group.workers) for group in groups]
    head = [groups[0].pattern, *(text for label in labels for text in (label, "floor"))]
    return Sheet(groups[0].pattern, groups[0].title, head, rows, labels, _bars(groups))


def _of_shape(groups: list[Group], limited: str) -> Sheet:
    """Make a row a pattern: what an item takes in one process, and on each engine."""
    before = next(group for group in groups if group.pattern == HANDING_OVER)
    patterns = [group for group in groups if group is not before]
    rows = [
        [
            group.pattern,
            *(_time(timing) for timing in group.timings),
            show_times(group.floor.median / fastest(group).median),
        ]
        for group in patterns
    ]
    empty, pickling = fastest(before).median, before.floor.median
    text = (
        f"Before any work, handing over an empty item takes {show_seconds(empty)}, "
        f"and pickling the payload and back {show_seconds(pickling)}."
    )
    head = ["", *(timing.name for timing in patterns[0].timings), "gain"]
    labels = [group.pattern for group in patterns]
    text = f"{text} {limited}".rstrip()
    return Sheet("One item of the workload", text, head, rows, labels, _bars(patterns))


def _of_changes(changes: list[Change]) -> Sheet:
    """Make a row a way of ours that was measured earlier too."""
    rows = [
        [
            change.name,
            str(change.workers),
            show_times(change.before),
            show_times(change.now),
            f"±{show_times(change.threshold)}",
            "slower" if change.slower else "faster" if change.faster else "",
        ]
        for change in changes
    ]
    text = "How many times the floor each took, and what noise explains."
    head = ["", "workers", "before", "now", "noise", ""]
    return Sheet("Since the earlier run", text, head, rows, [], [])


def _bars(groups: list[Group]) -> list[Bars]:
    return [
        Bars(timings[0].name, timings[0].role, [timing.median for timing in timings])
        for timings in zip(*(group.timings for group in groups), strict=True)
    ]


def _time(timing: Timing) -> str:
    """Return the median, and how far from it the quartiles are."""
    return f"{show_seconds(timing.median)} ±{timing.spread / 2:.0%}"


def in_words(count: int) -> str:
    """Return how many workers: 1 worker, 2 workers."""
    return f"{count} worker{'s'[: count > 1]}"
