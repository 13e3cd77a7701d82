"""The part of caches in a storm."""

import fcntl
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from probe import Step
from storm_part import Ended, Part, Wrong
from under_test import sharing

KEYS = 16
"""So many items in a row ask for different keys, and as many rows for the same."""


@dataclass
class Share:
    answers: sharing.Cache = field(default_factory=partial(sharing.Cache, max_entries=1 << 20))


class InCaches(Part):
    share = Share
    points = ("while it computes", "before it is stored")

    def work(self, step: Step, state: Share) -> None:
        key = step.number // KEYS**2 * KEYS + step.number % KEYS
        if "before it is stored" in step.points:
            key = -step.number  # one that has to be computed
            self._die_before_it_is_stored(step, state.answers)
        elif "while it computes" in step.points:
            key = -step.number
        value = state.answers.get_or_compute(key, partial(compute, step, key))
        if value != key * key:
            step.signs.note("torn", f"the value of {key} is {value}")

    def _die_before_it_is_stored(self, step: Step, cache: sharing.Cache) -> None:
        tell = cache._tell

        def tell_or_die(method: str, *args: Any) -> float | None:
            cache._tell = tell  # type: ignore[method-assign]
            if method == "store":
                step.die_at("before it is stored")
            return tell(method, *args)

        cache._tell = tell_or_die  # type: ignore[method-assign]

    def look(self, state: Share, ended: Ended) -> Iterator[Wrong]:
        stats = state.answers.stats()
        if stats.entries != stats.computed:
            yield Wrong("doubled", f"{stats.computed} values for {stats.entries} keys")


def compute(step: Step, key: int) -> int:
    """Take a lock of this key, which the kernel gives back, to see whether anybody else does this.

    Who finds it taken waits for it; what the one before has left then says whether that one had
    died, which may be noticed a moment earlier than the lock is free, or computed till now.
    """
    file, place = _open(step.signs.folder / "computing"), 8 * (abs(key) * 2 + (key < 0))
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, place)
    except OSError:
        fcntl.lockf(file, fcntl.LOCK_EX, 8, place)
        if not any(os.pread(file, 8, place)):
            step.signs.note("torn", f"the key {key} was computed twice at once")
    os.pwrite(file, os.getpid().to_bytes(8, "little"), place)
    step.die_at("while it computes")
    total = sum(range(20_000))
    assert total == 199_990_000
    os.pwrite(file, bytes(8), place)
    fcntl.lockf(file, fcntl.LOCK_UN, 8, place)
    return key * key


@functools.lru_cache
def _open(path: os.PathLike[str]) -> int:
    """Open once for each process: to close it would give back each lock."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


PART = InCaches()
