"""A script that starts children and is then killed: see test_children.py.

Its arguments: the start method, the folder of signs, and what it does before.
"""

import os
import signal
import sys
import time
from pathlib import Path

import children_jobs as jobs
from signs import LIMIT, Signs, wait_until
from under_test import children


def main(method: str, folder: str, how: str) -> None:
    """Have two children, and live until it is killed."""
    signs = Signs(Path(folder))
    launcher = children.Launcher(method)
    launcher.prepare(None)
    started = [launcher.start(jobs.stay_in_c, (signs,), f"child-{n}") for n in range(2)]
    if how == "forks":
        pid = os.fork()
        if pid == 0:
            time.sleep(LIMIT)
            os._exit(0)
        signs.note("fork", pid)
    elif how == "loses its nursery":
        (nursery,) = signs_of_nursery(signs)
        os.kill(nursery, signal.SIGKILL)
    wait_until(lambda: len(signs.notes("alive")) == 2)
    signs.give("at work")
    time.sleep(LIMIT)
    assert started


def signs_of_nursery(signs: Signs) -> list[int]:
    """The parent of the children, which is the nursery under fork."""
    wait_until(lambda: len(signs.notes("alive")) == 2)
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in signs.notes("alive")]
    return list({int(stat.rpartition(")")[2].split()[1]) for stat in stats})


if __name__ == "__main__":
    main(*sys.argv[1:])
