"""A progress bar on a terminal, and nothing in a pipe."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    results: Iterable[T],
    label: str,
    total: int | None = None,
    live: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Pass results on and show how many there were; `live` gives a text to show beside that."""
    if not sys.stderr.isatty():
        yield from results
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        yield from results
        return

    # No auto_refresh: that is a thread, and forking beside a thread can deadlock the child.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}" + ("" if total is None else " of {task.total:,}")),
        TimeElapsedColumn(),
        TextColumn("{task.fields[live]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
    ) as progress:
        task = progress.add_task(label, total=total, live="")
        shown = 0.0
        for count, result in enumerate(results, 1):
            now = time.monotonic()
            if now - shown > 0.1:
                shown = now
                progress.update(task, completed=count, live=live() if live else "", refresh=True)
            yield result
