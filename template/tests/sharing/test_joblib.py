"""What only the engine of joblib has: services in threads of the main process."""

import threading
from pathlib import Path

import leftovers
import pytest
from joblib_cluster import helpers
from joblib_jobs import Served, State, add
from signs import wait_until
from under_test import sharing

OPEN = Path("/proc/self/fd")


def sockets() -> set[str]:
    """Those that this process has open."""
    found = set()
    for path in OPEN.iterdir():
        try:
            found.add(str(path.readlink()))
        except OSError:  # closed meanwhile, as that of the listing is
            continue
    return {name for name in found if name.startswith("socket:")}


@pytest.mark.parametrize("uses", [True, False])
def test_services_leave_no_thread_and_no_socket(uses: bool) -> None:
    before, threads = sockets(), set(threading.enumerate())
    for _ in range(3):
        with sharing.open_engine(State(Served()), engine="joblib", workers=2) as engine:
            texts = ["a", "b", "c"] if uses else []
            assert sorted(engine.map(add, texts, chunk_size=1)) == [1, 2, 3][: len(texts)]
            assert sockets() - before
    leftovers.apart.update(helpers())
    wait_until(lambda: not sockets() - before)
    wait_until(lambda: not set(threading.enumerate()) - threads)
