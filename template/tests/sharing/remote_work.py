"""A script with an engine open, to be interrupted: see test_remote.py.

Its arguments: the engine, the folder of signs, and how many items there are, 0 for no end.
"""

import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from signs import Signs
from under_test import sharing


@dataclass
class State:
    """What the jobs see."""

    signs: Signs


def work(item: int, state: State) -> int:
    """Take until told to go on. A worker can't import it: this module is the main one."""
    state.signs.note("pids", os.getpid())
    state.signs.note("begun", item)
    state.signs.wait("go on")
    state.signs.note("ended", item)
    return item


def main(engine: str, folder: str, count: str) -> None:
    """Work for ever, or until the items have ended; then fail."""
    signs = Signs(Path(folder))
    items = range(int(count)) if int(count) else itertools.count()
    try:
        with sharing.open_engine(State(signs), engine=engine, workers=2) as opened:
            try:
                for item in opened.map(work, items, chunk_size=1, retries=0):
                    print(item, flush=True)
                raise ValueError("enough")
            finally:
                signs.give("interrupted")
    finally:
        signs.give("closed")


if __name__ == "__main__":
    main(*sys.argv[1:])
