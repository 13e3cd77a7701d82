"""A script whose items take a while, to be stopped and to go on: see test_driven_by_itself.py.

Its arguments: the start method, the folder of signs, and the timeout. It prints what became of
each item.
"""

import sys
import time
from pathlib import Path

from driven_jobs import Item, State
from signs import Signs
from under_test import sharing


def work(item: Item, state: State) -> None:
    item.signs.note("begun", item.number)
    for _ in range(6):
        time.sleep(0.05)


def main(start_method: str, folder: str, timeout: str) -> None:
    items = [Item(Signs(Path(folder)), number) for number in range(6)]
    with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
        for outcome in engine.outcomes(work, items, chunk_size=1, timeout=float(timeout)):
            print("ok" if outcome.ok else outcome.error)


if __name__ == "__main__":
    main(*sys.argv[1:])
