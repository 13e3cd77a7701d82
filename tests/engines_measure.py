"""What a round trip costs on each engine, for docs/engines.md.

Run it where a project with all patterns and engines is installed: it prints the lines of a table.
"""

import importlib
import json
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

PACKAGE = "my_service"
sharing: Any = importlib.import_module(f"{PACKAGE}.sharing")
ENGINES: tuple[str, ...] = importlib.import_module(f"{PACKAGE}.sharing.chosen").ENGINES
WORKERS = 2
ROUNDS = 5


@dataclass
class State:
    """What is measured."""

    cache: Any
    numbers: Any
    lock: Any


def nothing(item: int, _state: State) -> int:
    return item


def new_keys(item: int, state: State) -> float:
    begun = time.perf_counter()
    for n in range(100):
        state.cache.get_or_compute((item, n), int)
    return (time.perf_counter() - begun) / 100


def sections(item: int, state: State) -> float:
    begun = time.perf_counter()
    for _ in range(100):
        with state.numbers as numbers:
            numbers[0] += 1
    return (time.perf_counter() - begun) / 100


def locks(item: int, state: State) -> float:
    begun = time.perf_counter()
    for _ in range(100):
        with state.lock:
            pass
    return (time.perf_counter() - begun) / 100


def timed(work: Any, times: int) -> float:
    begun = time.perf_counter()
    for _ in work:
        pass
    return (time.perf_counter() - begun) / times


def measure(name: str) -> dict[str, float]:
    """Return seconds by what was measured, medians of some rounds."""
    state = State(sharing.Cache(), sharing.Guarded("q", [0] * 64), sharing.Lock())
    begun = time.perf_counter()
    with sharing.open_engine(state, engine=name, workers=WORKERS) as engine:
        opened = time.perf_counter() - begun
        one = [0] * WORKERS  # an item a worker, so that all of them work at once

        def together(job: Any, number: int = 0) -> float:
            items = [number * WORKERS + n for n, _ in enumerate(one)]
            return float(median(engine.map(job, items, chunk_size=1)))

        list(engine.map(nothing, range(100_000)))
        rounds = range(ROUNDS)
        return {
            "opening it": opened,
            "a trivial item": median(
                timed(engine.map(nothing, range(500_000)), 500_000) for _ in rounds
            ),
            "an item by itself, there and back": median(
                timed(engine.map(nothing, range(200), chunk_size=1), 200) for _ in rounds
            ),
            "a new key of a cache": median(together(new_keys, n) for n in rounds),
            "a section of a `Guarded` of 64": median(together(sections) for _ in rounds),
            "a section of a `Lock`": median(together(locks) for _ in rounds),
        }


if __name__ == "__main__":
    json.dump({name: measure(name) for name in sys.argv[1:] or ENGINES}, sys.stdout, indent=1)
