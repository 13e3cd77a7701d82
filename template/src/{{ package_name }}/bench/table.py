"""What was measured, as tables in the terminal."""

import sys

from rich.console import Console
from rich.table import Table

from .against import Change
from .record import Group, Record, Timing
from .units import show_seconds, show_times


def show(record: Record, changes: list[Change]) -> None:
    """Print the tables, and below them what was concluded."""
    console = Console(file=sys.stdout, highlight=False)
    for groups in by_pattern(record.groups):
        console.print(table_of(groups), "")
    if changes:
        console.print(comparison(changes), "")
    if record.advice:
        console.print(record.advice, markup=False, soft_wrap=True)


def by_pattern(groups: list[Group]) -> list[list[Group]]:
    """Put the groups of a pattern together, which differ in the number of workers."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.pattern, []).append(group)
    return list(found.values())


def table_of(groups: list[Group]) -> Table:
    """Return a row a way: for each number of workers the time and how many times the floor."""
    table = Table(title=groups[0].title, title_justify="left", title_style="bold")
    table.add_column(groups[0].pattern)
    for group in groups:
        table.add_column(workers(group), justify="right")
        table.add_column("floor", justify="right")
    for timings in zip(*(group.timings for group in groups), strict=True):
        cells = [
            (cell(t), show_times(t.median / g.floor.median))
            for t, g in zip(timings, groups, strict=True)
        ]
        table.add_row(timings[0].name, *(text for pair in cells for text in pair))
    return table


def cell(timing: Timing) -> str:
    """Return the median and the spread of a way."""
    return f"{show_seconds(timing.median)} ±{timing.spread / 2:.0%}"


def workers(group: Group) -> str:
    """Return how many there were."""
    return f"{group.workers} worker{'s'[: group.workers > 1]}"


def verdict(change: Change) -> str:
    """Return in a word what became of a way; nothing, where noise explains it."""
    return "slower" if change.slower else "faster" if change.faster else ""


def comparison(changes: list[Change]) -> Table:
    """Return a row a way of ours that was measured earlier too."""
    table = Table(title="Times the floor", title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("workers", "before", "now", "noise", ""):
        table.add_column(name, justify="right")
    for change in changes:
        table.add_row(
            change.name,
            str(change.workers),
            show_times(change.before),
            show_times(change.now),
            f"±{show_times(change.threshold)}",
            verdict(change),
        )
    return table
