"""What only the engine of joblib has: services in threads of the main process."""

import os
import subprocess
import sys
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


def test_more_workers_than_can_be_are_refused() -> None:
    with pytest.raises(sharing.SharingError, match="1,000,000 workers"):
        sharing.open_engine(State(Served()), engine="joblib", workers=1_000_000)


def test_workers_that_start_while_the_main_process_dies_end(tmp_path: Path) -> None:
    """They are there before they know whose they are, and their parent is gone by then."""
    file = tmp_path / "program.py"
    file.write_text(
        "import os, threading\n"
        "import leftovers\n"
        "from joblib_jobs import Served, State, add\n"
        "from signs import wait_until\n"
        "from under_test import sharing\n"
        "def workers():\n"
        "    return {one.pid for one in leftovers.family(os.getpid())} - leftovers.helpers()\n"
        "def end():\n"
        "    wait_until(lambda: len(workers()) > 1)\n"
        "    print(*workers(), flush=True)\n"
        "    os._exit(1)\n"
        'if __name__ == "__main__":\n'
        '    with sharing.open_engine(State(Served()), engine="joblib", workers=2) as engine:\n'
        "        threading.Thread(target=end).start()\n"
        '        list(engine.map(add, ["a", "b"], chunk_size=1))\n'
        "        threading.Event().wait(60)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(
        [sys.executable, str(file)], env=env, capture_output=True, text=True, timeout=60
    )
    started = {int(pid) for pid in ran.stdout.split()}
    assert len(started) > 1
    wait_until(lambda: not {one.pid for one in leftovers.everybody()} & started)
