"""A script with a storm that never ends, to be interrupted and killed: see test_main.py.

Its arguments: the start method, the folder of signs, and a seed. When it is interrupted it looks
at what its engine leaves, and says so by the sign "whole".
"""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from arrays_storm import BLOCK
from locks_storm import ACCOUNTS, LARGE
from signs import Signs
from storm import open_storm


def main(start_method: str, folder: str, seed: str) -> None:
    """Run maps under fire until somebody ends it."""
    signs, state = Signs(Path(folder)), None
    try:
        with open_storm(signs, start_method, random.Random(seed)) as storm:
            state = storm.state
            signs.give("open")
            storm.blow(1 << 30)
            signs.note("wrong", storm.wrong)
    finally:
        if state is not None and is_whole(state):
            signs.give("whole")


def is_whole(state: Any) -> bool:
    """Whether each item that left something has left all of it."""
    accounts, large = state.accounts.read().tolist(), state.large.read().tolist()
    records, stats = state.log.records, state.answers.stats()
    return all(
        (
            accounts[:ACCOUNTS] == [-n for n in accounts[ACCOUNTS:]],
            large[:LARGE] == [-n for n in large[LARGE:]],
            state.lines.value == sum(state.kinds.values.values()),
            records == sorted(set(records)),
            stats.entries == stats.computed,
            not (np.diff(state.table.array.reshape(-1, BLOCK)) != 0).any(),
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
