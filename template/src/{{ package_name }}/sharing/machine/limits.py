"""What this process may use of its machine: cores and memory, of a container where it is in one.

A container's limits are those of its control group, of version 2 or 1, and of the groups around
it. Elsewhere than on Linux there are none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cores:
    """How many there are.

    Attributes:
        machine: of the machine.
        affinity: those that this process may run on; None where that can't be known.
        quota: the time of how many its container may have; None where it has no limit.
    """

    machine: int
    affinity: int | None = None
    quota: float | None = None

    @property
    def usable(self) -> int:
        """How many are worth a worker each."""
        cores = self.machine if self.affinity is None else self.affinity
        return cores if self.quota is None else min(cores, max(1, math.ceil(self.quota)))


def cores(proc: Path = PROC, groups: Path = GROUPS) -> Cores:
    """The cores of this machine, and what of them this process may use."""
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        affinity = None
    quotas = [found for group in _groups("cpu", proc, groups) for found in _quota(group)]
    return Cores(os.cpu_count() or 1, affinity, min(quotas, default=None))


def memory_limit(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """The bytes of memory that the container may have; None where there is no limit."""
    found = [
        int(text)
        for group in _groups("memory", proc, groups)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _text(group / name)).isdecimal()
    ]
    # What version 1 has for no limit is near the largest number that there is.
    return min((limit for limit in found if limit < 1 << 60), default=None)


def _quota(group: Path) -> Iterator[float]:
    both = _text(group / "cpu.max")  # "max 100000" where there is no quota
    if not both:
        both = f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
    quota, _, period = both.partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)


def _groups(controller: str, proc: Path, groups: Path) -> Iterator[Path]:
    """The groups that this process is in, from its own to the outermost that can be seen.

    A path that leads nowhere is that of the host, seen from a container, whose own group is
    then the outermost.
    """
    for line in (_text(proc / "self/cgroup") or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots = [groups, groups / "unified"]
        elif controller in controllers.split(","):
            roots = [groups / controllers, groups / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                yield root.joinpath(*parts[:depth])


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
