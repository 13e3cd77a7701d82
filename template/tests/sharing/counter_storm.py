"""The part of counters in a storm."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from probe import Step
from storm_part import Ended, Part, Wrong, compare
from under_test import sharing

EVERY = 3
"""Of so many items one has a record, and all of a map that is left early."""


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
        if step.number % EVERY == 0 or step.left_early:
            state.log.append(step.number)
            step.die_at("after an append")

    def look(self, state: Share, ended: Ended) -> Iterator[Wrong]:
        """What of a map that was left early has ended is what has a record."""
        records: list[Any] = state.log.records
        expected = {n for n in ended.surely if n % EVERY == 0}
        known = ended.surely | ended.perhaps
        for number in sorted(expected.difference(records)):
            yield Wrong("lost", f"the record of item {number}")
        for number in sorted(set(records) - known):
            yield Wrong("doubled", f"the record of item {number}, which has not ended")
        if records != sorted(set(records)):
            yield Wrong("torn", "the records are not in the order of the items, each once")
        counted = ended.surely.union(records)
        yield from compare("counts", state.lines.value, len(counted))
        evens = sum(n % 2 == 0 for n in counted)
        yield from compare("even ones", state.kinds.values["even"], evens)


PART = InCounters()
