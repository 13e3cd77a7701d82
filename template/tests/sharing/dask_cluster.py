"""A cluster of dask on this machine: a scheduler and two workers, each a command of its own."""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distributed import Client
from leftovers import Process
from remote_engines import CORES, daemon
from signs import LIMIT, wait_until

TRIES_IN_COMPANY = 1
"""How often an item that kills runs beside others, till it is known to be the one."""


DIES_ALONE = True
"""Whether a worker that is killed takes none of the others along."""


KEEPS_TIMEOUTS = False
"""Whether an item can be ended that takes too long."""


_DASK = [sys.executable, "-m", "dask"]
_HERE = ["--host", "127.0.0.1"]

_workers: dict[str, int] = {}
"""How many workers each cluster has, by its address."""


@contextlib.contextmanager
def cluster(workers: int = 2, threads: int = CORES // 2) -> Iterator[str]:
    """Its address. It is one like any other: all that can be set is as dask has it."""
    with tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as folder:
        found = Path(folder, "scheduler.json")
        command = ["scheduler", "--port", "0", "--scheduler-file", str(found), "--no-dashboard"]
        with contextlib.ExitStack() as stack:
            stack.enter_context(daemon([*_DASK, *command, *_HERE]))
            wait_until(lambda: found.exists() and found.read_text().endswith("}"))
            address: str = json.loads(found.read_text())["address"]
            for _ in range(workers):
                stack.enter_context(worker(address, threads))
            _workers[address] = workers
            becomes_whole(address)
            yield address


def becomes_whole(address: str) -> None:
    """Wait until all of its workers are there, of which a test before may have killed one."""
    with Client(address, timeout=LIMIT, set_as_default=False) as client:
        client.wait_for_workers(_workers[address], timeout=LIMIT)


@contextlib.contextmanager
def worker(address: str, threads: int) -> Iterator[None]:
    """One more of its workers."""
    with tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as folder:
        place = ["--no-dashboard", "--nthreads", str(threads), "--local-directory", folder]
        with daemon([*_DASK, "worker", address, *_HERE, *place]):
            yield


def helpers() -> set[int]:
    """The processes of this one's that live as long as it does."""
    return set()


def lingering(family: set[Process]) -> set[Process]:
    """Those that need long to see that the main process is gone: none."""
    return set()
