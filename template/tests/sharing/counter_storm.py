"""The part of counters in a storm."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from probe import Step
from storm_part import Part, Wrong, compare
from under_test import sharing

EVERY = 3
"""Of so many items one has a record."""


@dataclass
class Share:
    lines: sharing.Counter = field(default_factory=sharing.Counter)
    kinds: sharing.Counter = field(default_factory=partial(sharing.Counter, labels=("even", "odd")))
    log: sharing.Log[int] = field(
        default_factory=partial(sharing.Log, max_records=1 << 20, max_bytes=1 << 28)
    )


class InCounters(Part):
    share = Share
    points = ("between two adds", "after an append")

    def work(self, step: Step, state: Share) -> None:
        state.lines.add()
        step.die_at("between two adds")
        state.kinds.add(1, "odd" if step.number % 2 else "even")
        if step.number % EVERY == 0:
            state.log.append(step.number)
            step.die_at("after an append")

    def look(self, state: Share, items: int, maps: int) -> Iterator[Wrong]:
        yield from compare("counts", state.lines.value, items)
        yield from compare("even ones", state.kinds.values["even"], (items + 1) // 2)
        records: list[Any] = state.log.records
        expected = range(0, items, EVERY)
        yield from compare("records", len(records), len(expected))
        if records != list(expected):
            yield Wrong("torn", "the records are not in the order of the items")


PART = InCounters()
