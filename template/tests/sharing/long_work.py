"""A script with an engine open, to be interrupted: see test_processes.py.

Its arguments: the start method, the folder of signs, what its items do, and the grace.
"""

import ctypes
import itertools
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from signs import Signs
from under_test import base, driver, primitives, sharing


class Served(base.Pattern):
    """Has the engine run a server too."""

    def open(self, host: base.Host) -> None:
        self.service = host.service(dict)

    def attach(self, worker: primitives.Worker) -> None:
        self.service.attach()
        assert self.service.call("get", "nothing") is None


class Opening(base.Pattern):
    """Says that the engine opens, from when on it sees to signals."""

    def __init__(self, signs: Signs) -> None:
        self.signs = signs

    def open(self, host: base.Host) -> None:
        self.signs.give("opening")


@dataclass
class State:
    signs: Signs
    how: str
    opening: Opening
    served: Served | None


def work(item: int, state: State) -> None:
    """Take until told to go on; or for ever, in C code that lets no Python run."""
    state.signs.note("begun", item)
    if state.how == "in C":
        ctypes.PyDLL(None).sleep(600)
    while not state.signs.given("go on"):
        time.sleep(0.01)
    state.signs.note("ended", item)


def main(start_method: str, folder: str, how: str, grace: str) -> None:
    """Work for ever."""
    driver.GRACE = float(grace)
    signs = Signs(Path(folder))
    state = State(signs, how, Opening(signs), Served() if how == "serves" else None)
    try:
        with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
            try:
                for _ in engine.map(work, itertools.count(), chunk_size=1):
                    pass
            finally:
                if how == "is hurried":
                    signal.raise_signal(signal.SIGTERM)
                signs.give("interrupted")
    finally:
        signs.give("closed")


if __name__ == "__main__":
    main(*sys.argv[1:])
