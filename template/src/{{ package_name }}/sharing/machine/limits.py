"""What this process may use of its machine: cores, memory, descriptors and processes.

A container's limits are those of its control group, of version 2 or 1, and of the groups around
it. Elsewhere than on Linux there are none.
"""

from __future__ import annotations

import math
import os
import re
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")

DESCRIPTORS, WORKER_DESCRIPTORS = 64, 6
"""What the main process keeps open, about, and how many more for each worker."""

LEAST_MEMORY = 3 << 20
"""Bytes that a worker takes in any case, also one that was forked and does nothing."""


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


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory; None is no limit, or one that can't be known."""

    machine: int | None
    available: int | None = None
    container: int | None = None
    process: int | None = None

    @classmethod
    def here(cls, proc: Path = PROC, groups: Path = GROUPS) -> Memory:
        """What there is."""
        try:
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            machine = None
        process, _ = resource.getrlimit(resource.RLIMIT_AS)
        return cls(
            machine,
            available_memory(proc),
            memory_limit(proc, groups),
            None if process == resource.RLIM_INFINITY else process,
        )

    @property
    def of_all(self) -> int | None:
        """What all processes together may have."""
        return _least((self.machine, self.container))

    @property
    def room(self) -> int | None:
        """The narrowest limit of one process, however much is free just now."""
        return _least((self.of_all, self.process))


def available_memory(proc: Path = PROC) -> int | None:
    """The bytes that are free, or could be at once; None where that can't be known."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", _text(proc / "meminfo"), re.MULTILINE)
    return None if found is None else int(found[1]) << 10


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


def process_limit(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """How many processes there may be, of the system, container or user; None if not known."""
    found = [proc / "sys/kernel/pid_max", proc / "sys/kernel/threads-max"]
    found += [group / "pids.max" for group in _groups("pids", proc, groups)]
    limits: list[int | None] = [int(n) for path in found if (n := _text(path)).isdecimal()]
    of_user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if of_user != resource.RLIM_INFINITY and os.geteuid() != 0:  # root has no such limit
        limits.append(of_user)
    return _least(limits)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why so many workers can't be.

    Attributes:
        found: the limit and what is wanted, in words.
        advice: what to do about it, in words.
    """

    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.found}: {self.advice}"


def why_impossible(workers: int) -> Obstacle | None:
    """What makes so many worker processes impossible on this machine; None if nothing does."""
    return (
        lack_of_memory(Memory.here().of_all, workers)
        or lack_of_descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE), workers)
        or lack_of_processes(process_limit(), workers)
    )


def lack_of_memory(limit: int | None, workers: int) -> Obstacle | None:
    """Whether the workers alone, without any data, are more than the memory of all processes."""
    wanted = workers * LEAST_MEMORY
    if limit is None or wanted <= limit:
        return None
    found = f"{workers:,} workers take {wanted / 2**30:,.4g} GiB of memory at the very least"
    return Obstacle(
        f"{found}, and there are {limit / 2**30:,.4g} GiB", "have fewer --workers or a larger limit"
    )


def lack_of_descriptors(soft: int, hard: int, workers: int) -> Obstacle | None:
    """Whether the main process can't hold open what connects it with so many workers."""
    wanted = DESCRIPTORS + WORKER_DESCRIPTORS * workers
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return None
    can = hard == resource.RLIM_INFINITY or wanted <= hard
    return Obstacle(
        f"{workers:,} workers need about {wanted:,} descriptors, and {soft:,} are the limit",
        f"ulimit -n {wanted}" if can else f"have fewer --workers: no more than {hard:,} can be had",
    )


def lack_of_processes(limit: int | None, workers: int) -> Obstacle | None:
    """Whether there may not be so many processes."""
    if limit is None or workers < limit:
        return None
    return Obstacle(
        f"{workers:,} workers are as many processes, and {limit:,} are the limit",
        "have fewer --workers",
    )


def _least(numbers: Iterable[int | None]) -> int | None:
    return min((n for n in numbers if n is not None), default=None)


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
