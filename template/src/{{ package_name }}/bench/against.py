"""Whether ours got slower since an earlier run.

Machines, and one machine at two moments, differ in speed. So what is compared is how many times
the floor a way took, round by round in its own run: the floor has met the same moments.

A way of ours is slower when the median of these ratios has grown by more than a quarter, and by
more than the spreads of both runs together; the spread is how far apart the quartiles of the
ratios are. So a noisy run hides a small loss, and makes none up. The copied snippets are not
compared: nobody here can make them faster.
"""

from dataclasses import dataclass
from statistics import median

from .record import Group, Record, RecordError, Timing, spread

LEAST = 0.25
"""The growth that counts at all, as a part of the earlier ratio."""

SPREADS = 1.0
"""How many times the spreads of both runs a growth has to be."""


@dataclass(frozen=True)
class Change:
    """What became of one way: how many times the floor it took, before and now."""

    pattern: str
    workers: int
    name: str
    before: float
    now: float
    threshold: float

    @property
    def slower(self) -> bool:
        """Whether it grew by more than noise explains."""
        return self.now - self.before > self.threshold

    @property
    def faster(self) -> bool:
        """Whether it shrank by more than noise explains."""
        return self.before - self.now > self.threshold


def changes(before: Record, now: Record) -> list[Change]:
    """Compare the ways of ours that both runs measured.

    Raises:
        RecordError: there are none, or the runs had different shapes of work.
    """
    if before.shape != now.shape:
        raise RecordError("the earlier file was measured with another shape of work: run it anew")
    earlier = {key: ratios for group in before.groups for key, ratios in _ratios(group)}
    found = [
        _change(key, earlier[key], ratios)
        for group in now.groups
        for key, ratios in _ratios(group)
        if key in earlier
    ]
    if not found:
        raise RecordError("the earlier file has nothing of what was measured now: run it anew")
    return found


Key = tuple[str, int, str]


def _ratios(group: Group) -> list[tuple[Key, list[float]]]:
    def key(timing: Timing) -> Key:
        return group.pattern, group.workers, timing.name

    return [(key(timing), group.ratios(timing)) for timing in group.ours]


def _change(key: Key, before: list[float], now: list[float]) -> Change:
    old, noise = median(before), spread(before) + spread(now)
    return Change(*key, old, median(now), max(LEAST * old, SPREADS * noise))
