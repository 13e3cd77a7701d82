"""What there is of processes, shared memory and files, to see that a test leaves none behind."""

import os
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

PROC = Path("/proc")
SEGMENTS = Path("/dev/shm")


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by when it began."""

    pid: int
    began: str


apart: set[int] = set()
"""Processes that are kept for as long as the tests run, with all that these start."""


def family(root: int) -> set[Process]:
    """The processes that this one has started, and those that these have; no zombies.

    But for those that are `apart`.
    """
    found: set[Process] = set()
    children = defaultdict(list)
    for parent, process in _table():
        children[parent].append(process)
    ancestors = [root]
    while ancestors:
        mine = [one for one in children.pop(ancestors.pop(), []) if one.pid not in apart]
        found.update(mine)
        ancestors += [process.pid for process in mine]
    return found


def everybody() -> set[Process]:
    """All that run on this machine."""
    return {process for _, process in _table()}


def alive(processes: set[Process]) -> set[Process]:
    """Those that have not ended."""
    return processes & everybody() if processes else processes


def _table() -> list[tuple[int, Process]]:
    """Every process that runs, after its parent."""
    if not (PROC / "self/stat").exists():
        return _table_by_ps()
    table = []
    for path in PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if fields[0] not in "ZX":
            table.append((int(fields[1]), Process(int(path.parent.name), fields[19])))
    return table


def _table_by_ps() -> list[tuple[int, Process]]:
    command = ["ps", "-axo", "ppid=,pid=,stat=,lstart="]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table = []
    for line in shown.splitlines():
        parent, pid, status, began = line.split(maxsplit=3)
        if not status.startswith("Z"):
            table.append((int(parent), Process(int(pid), began)))
    return table


def helpers() -> set[int]:
    """The processes that `multiprocessing` keeps for as long as this one lives."""
    return {
        pid
        for pid in (
            getattr(resource_tracker, "_resource_tracker")._pid,  # noqa: B009
            getattr(forkserver, "_forkserver")._forkserver_pid,  # noqa: B009
        )
        if pid is not None
    }


mains = {os.getpid()}
"""The processes that open engines here: this one, and those that it starts for that."""


def files() -> set[Path]:
    """What lies in shared memory of ours, and temporary files, by the names that are used here.

    A segment has its owner's id in its name, and other suites may run beside this one.
    """
    temporary = Path(tempfile.gettempdir())
    found = {path for pid in mains for path in SEGMENTS.glob(f"sharing-{pid}-*")}
    return found | set(temporary.glob("sharing-*")) | set(temporary.glob("pym-*"))
