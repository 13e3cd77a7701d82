"""What a trivial item costs through `map`, beside the best batching of the engine itself.

Run by hand, with a rendered project that has the engine:

    PYTHONPATH=PROJECT/src python tests/engines_overhead.py PACKAGE ENGINE [ITEMS]

Both sides run on the same workers of the same kind, in turn, several times; what counts is the
median of each. The engine's own side is the fastest of several ways to batch by hand, which know
how many items there are and how long they take. Ours finds that out in its first chunks, whose
cost is spread over the items: few of them show that more than what an item costs.
"""

import importlib
import json
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

WORKERS = 2
ITEMS = int(sys.argv[3]) if len(sys.argv) > 3 else 4_000_000
ROUNDS = 5
BATCHES = (10_000, 50_000, 200_000)

Way = Callable[[], int]


@dataclass
class State:
    """Nothing is shared here."""

    nothing: int = 0


def trivial(item: int, state: object) -> int:
    """Return the item."""
    return item


def alone(item: int) -> int:
    """Return the item, for those who know no state."""
    return item


def batch(items: Iterable[int]) -> list[int]:
    """Return a hand-made batch."""
    return [alone(item) for item in items]


def packed(items: bytes) -> bytes:
    """Take and return it as one piece: dask would look into each item of a list, for 20 µs each."""
    return pickle.dumps(batch(pickle.loads(items)))


def batches(size: int) -> list[list[int]]:
    """Cut the items into lists."""
    return [list(range(start, min(start + size, ITEMS))) for start in range(0, ITEMS, size)]


def count(parts: Iterable[Iterable[int]]) -> int:
    """Go through all values, as whoever wants them does, and say how many there are."""
    return sum(1 for part in parts for _ in part)


@contextmanager
def joblib_ways() -> Iterator[tuple[str | None, dict[str, Way]]]:
    """Run `Parallel`, and the executor below it."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    executor = ProcessPoolExecutor(WORKERS)  # apart from the one that `Parallel` keeps

    def mapped(size: int) -> int:
        return count([executor.map(alone, range(ITEMS), chunksize=size)])

    ways: dict[str, Way] = {
        "Parallel": lambda: len(
            Parallel(n_jobs=WORKERS, batch_size="auto")(delayed(alone)(n) for n in range(ITEMS))
        )
    }
    ways |= {f"executor.map, {size}": partial(mapped, size) for size in BATCHES}
    try:
        yield None, ways
    finally:
        executor.shutdown(wait=True)


@contextmanager
def dask_ways() -> Iterator[tuple[str | None, dict[str, Way]]]:
    """Run `client.map` over lists made by hand."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):

        def mapped(size: int) -> int:
            parts = list(map(pickle.dumps, batches(size)))
            futures = client.map(packed, parts, pure=False)
            return count(map(pickle.loads, client.gather(futures)))

        yield (
            cluster.scheduler_address,
            {f"client.map, {size}": partial(mapped, size) for size in BATCHES},
        )


@contextmanager
def ray_ways() -> Iterator[tuple[str | None, dict[str, Way]]]:
    """Run tasks over lists made by hand, and a pool of actors."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.util import ActorPool

    class Actor:
        def batch(self, items: list[int]) -> list[int]:
            return batch(items)

    # Room for tasks, for their actors and for ours, of which only one kind works at a time.
    ray.init(num_cpus=3 * WORKERS, include_dashboard=False, log_to_driver=False)
    task = ray.remote(batch)
    actors = [ray.remote(Actor).options(num_cpus=1).remote() for _ in range(WORKERS)]

    def tasks(size: int) -> int:
        return count(ray.get([task.remote(items) for items in batches(size)]))

    def pool(size: int) -> int:
        found = ActorPool(actors).map(lambda actor, items: actor.batch.remote(items), batches(size))
        return count(found)

    ways: dict[str, Way] = {}
    for size in BATCHES:
        ways[f"tasks, {size}"] = partial(tasks, size)
        ways[f"ActorPool, {size}"] = partial(pool, size)
    try:
        yield None, ways
    finally:
        ray.shutdown()


def measure(package: str, name: str) -> dict[str, Any]:
    """Return the median microseconds an item: of ours, and of each way of the engine's own."""
    sharing = importlib.import_module(f"{package}.sharing")
    open_ways: Any = {"joblib": joblib_ways, "dask": dask_ways, "ray": ray_ways}[name]
    with open_ways() as (address, ways):
        engine = sharing.open_engine(State(), engine=name, workers=WORKERS, address=address)
        with engine as opened:

            def ours() -> int:
                return count([opened.map(trivial, range(ITEMS))])

            times: dict[str, list[float]] = {"ours": [], **{way: [] for way in ways}}
            for number in range(ROUNDS + 1):  # the first warms up
                for way, run in {"ours": ours, **ways}.items():
                    begun = time.perf_counter()
                    assert run() == ITEMS
                    if number:
                        times[way].append((time.perf_counter() - begun) / ITEMS * 1e6)
    medians = {way: round(statistics.median(each), 3) for way, each in times.items()}
    best = min((median, way) for way, median in medians.items() if way != "ours")
    return {
        "engine": name,
        "items": ITEMS,
        "us_an_item": medians,
        "best": best[1],
        "ratio": round(medians["ours"] / best[0], 2),
    }


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:3]), indent=2))
