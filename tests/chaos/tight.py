"""A script where something is scarce: see test_limits.py.

Its arguments: the start method, the folder of signs, and what is scarce. It says by the sign "as
it should" that all that can go on has gone on, and what can't has been told.
"""

import contextlib
import os
import random
import resource
import sys
from dataclasses import replace
from pathlib import Path

from signs import Signs
from storm import Storm, open_storm, work
from trouble_jobs import give_bytes
from under_test import memory as memories
from under_test import sharing

SHARED = Path("/dev/shm")


def runs(storm: Storm, count: int = 30) -> None:
    """Have some items, and maps of other threads beside them, and find nothing wrong."""
    with storm.others():
        with storm.beginning:
            steps = storm.next_steps(count, one_in=10)
            results = storm.engine.map(work, steps, retries=100)
        found: list[object] = list(results)
    storm.take(steps, found)
    assert storm.wrong == []


def fill(path: Path) -> None:
    """Leave no byte on its disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def tiny(start_method: str, signs: Signs) -> None:
    """What does not fit is refused; what fits works, also when nothing fits any more."""
    room = os.statvfs(SHARED)
    assert room.f_blocks * room.f_frsize == 1 << 20
    try:
        sharing.SharedArray((1 << 18,), "float64")
    except sharing.SharingError as error:
        assert "does not fit into /dev/shm" in str(error)  # noqa: PT017
    words = [memories.Words(200) for _ in range(90)]
    with open_storm(signs, start_method, random.Random(8)) as storm:
        runs(storm)
        fill(SHARED / "full")
        runs(storm)
        with contextlib.suppress(sharing.SharingError):  # and no SIGBUS
            words += [memories.Words(200) for _ in range(200)]
    (SHARED / "full").unlink()


def descriptors(start_method: str, signs: Signs) -> None:
    """A worker that can't be replaced ends the work by an error."""
    with open_storm(signs, start_method, random.Random(10)) as storm:
        runs(storm)
        taken = []
        told = ""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        try:
            all_die(storm)
        except sharing.StartFailed as error:
            told = str(error)  # a sign would take a descriptor
        finally:
            for file in taken:
                os.close(file)
    assert "Too many open files" in told


def all_die(storm: Storm) -> None:
    """Have each item end its worker once: some can be done without, but not all."""
    steps = [replace(step, points=("answer",), stops=False) for step in storm.next_steps(30)]
    list(storm.engine.map(work, steps, chunk_size=1))


def memory(start_method: str, signs: Signs) -> None:
    """Answers that don't fit fail, in the worker or here; then nothing is left either."""
    limit = 1 << 28
    with open_storm(signs, start_method, random.Random(11)) as storm:
        runs(storm)
        before = resource.getrlimit(resource.RLIMIT_AS)
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + limit // 4, before[1]))
        try:
            for _ in storm.engine.map(give_bytes, [limit] * 3):
                raise AssertionError("it fitted")
        except (MemoryError, sharing.JobFailed):
            signs.give("told")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    assert signs.given("told")


if __name__ == "__main__":
    kinds = {"tiny": tiny, "descriptors": descriptors, "memory": memory}
    told = Signs(Path(sys.argv[2]))
    kinds[sys.argv[3]](sys.argv[1], told)
    told.give("as it should")
