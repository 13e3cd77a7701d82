"""What to do about a shape of work, decided from measurements alone."""

from .record import Group, Timing
from .units import show_seconds, show_size

HANDING_OVER = "handing over"
"""The group that measures what comes before any work; its floor is pickling the payload."""

PAYS = 1.2
"""How many times as fast as one process it has to be, to be worth several."""

HEAVY = 0.5
"""What part of an item's own time is too much for bringing it to a worker."""


def advise(payload: int, groups: list[Group]) -> str:
    """Return one recommendation with its reason.

    Args:
        payload: bytes that an item brings along.
        groups: a group a pattern, whose floor is one process and whose ways are the engines;
            and the one of what handing over takes.
    """
    handing_over = next(group for group in groups if group.pattern == HANDING_OVER)
    gains = sorted(
        ((gain(group), group) for group in groups if group is not handing_over),
        key=lambda one: one[0],
        reverse=True,
    )
    times, best = gains[0]
    if times < PAYS:
        return f"Don't use processes for this: {_reason(payload, best, handing_over)}."
    way = fastest(best)
    text = (
        f"Use {best.pattern} with {way.name}: {times:.1f} times as fast as one process, since an "
        f"item takes {show_seconds(way.median)} instead of {show_seconds(best.floor.median)}."
    )
    others = [f"{group.pattern} ({rate:.2g} times)" for rate, group in gains if rate < PAYS]
    return f"{text} On this shape it does not pay with {', '.join(others)}." if others else text


def fastest(group: Group) -> Timing:
    """Return the best of ours."""
    return min(group.ours, key=lambda one: one.median)


def gain(group: Group) -> float:
    """Return how many times as fast as the floor the best of ours is."""
    return group.floor.median / fastest(group).median


def _reason(payload: int, best: Group, handing_over: Group) -> str:
    item = best.floor.median
    empty, pickling = fastest(handing_over).median, handing_over.floor.median
    if best.carries and pickling >= max(2 * empty, HEAVY * item):
        return (
            f"pickling {show_size(payload)} and back takes {show_seconds(pickling)}, "
            f"and all the rest of an item {show_seconds(item)} in one process. "
            "Let an item name what it needs, and load it where it is used"
        )
    if empty >= HEAVY * item:
        return (
            f"an item takes {show_seconds(item)} in one process, and bringing an empty one to a "
            f"worker {show_seconds(empty)} already. Put more work into an item"
        )
    rank = "faster" if gain(best) * PAYS < 1 else "as fast"
    return (
        f"one process is {rank}. An item takes {show_seconds(item)} in it, and "
        f"{show_seconds(fastest(best).median)} with {fastest(best).name}"
    )
