"""Counters: a number that all workers add one to."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from my_service.bench.timing import CONTEXT, Setting, at_once, given, pool, together
from my_service.sharing import Counter

from . import servers
from .compare import Comparison, Entry, Run, Target, check, least_times, most_times


@dataclass
class State:
    barrier: Any
    count: Counter


class Empty:
    def add(self, n: int = 1, label: str | None = None) -> None:
        pass

    def add_one(self, n: int) -> None:
        pass


def ours(times: int, state: State) -> float:
    count = state.count

    def work(times: int) -> None:
        for _ in range(times):
            count.add(1)

    return float(together(state.barrier, times, work))


def empty_call(times: int, state: State) -> float:
    count = Empty()

    def work(times: int) -> None:
        for _ in range(times):
            count.add(1)

    return float(together(state.barrier, times, work))


def emptier_call(times: int, state: State) -> float:
    count = Empty()

    def work(times: int) -> None:
        for _ in range(times):
            count.add_one(1)

    return float(together(state.barrier, times, work))


def own_list(times: int, state: State) -> float:
    def work(times: int) -> None:
        counts = [0]
        for _ in range(times):
            counts[0] += 1

    return float(together(state.barrier, times, work))


def add_to_value(times: int) -> float:
    barrier, value = given

    def work(times: int) -> None:
        for _ in range(times):
            with value.get_lock():
                value.value += 1

    return float(together(barrier, times, work))


def add_by_diskcache(times: int) -> float:
    import diskcache

    barrier, folder = given
    with diskcache.Cache(folder) as cache:
        cache.get("n")

        def work(times: int) -> None:
            for _ in range(times):
                cache.incr("n")

        return float(together(barrier, times, work))


def add_by_redis(times: int) -> float:
    import redis

    barrier, path = given
    client = redis.Redis(unix_socket_path=path)
    client.ping()

    def work(times: int) -> None:
        for _ in range(times):
            client.incr("n")

    return float(together(barrier, times, work))


class Actor:
    def __init__(self) -> None:
        self.n = 0

    def add(self) -> None:
        self.n += 1

    def total(self) -> int:
        return self.n


def add_by_ray(actor: Any, times: int) -> float:
    import ray
    from my_service.bench.timing import each

    def work(times: int) -> None:
        for _ in range(times):  # none is waited for but the last: calls come in order
            last = actor.add.remote()
        ray.get(last)

    return float(each(times, work))


def opened_ours(job: Any, full: int, counts: bool) -> Any:
    """Our engine and a job in each worker, which may count."""

    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        times = setting.times(full)
        with setting.open(State(setting.barrier(), Counter())) as engine:

            def run() -> float:
                before = engine.state.count.value
                seconds = float(at_once(engine, job, times))
                wanted = times * setting.workers if counts else 0
                check(engine.state.count.value - before, wanted, "adds")
                return seconds

            yield run

    return opener


@contextmanager
def value(setting: Setting) -> Iterator[Run]:
    times, shared = setting.times(50_000), CONTEXT.Value("q", 0)
    with pool(setting.barrier(), shared, workers=setting.workers) as in_pool:

        def run() -> float:
            before = shared.value
            seconds = float(in_pool(add_to_value, times))
            check(shared.value - before, times * setting.workers, "adds")
            return seconds

        yield run


@contextmanager
def diskcache(setting: Setting) -> Iterator[Run]:
    import diskcache

    times = setting.times(1_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        diskcache.Cache(folder) as cache,
        pool(setting.barrier(), folder, workers=setting.workers) as in_pool,
    ):
        cache.set("n", 0)

        def run() -> float:
            before = cache.get("n")
            seconds = float(in_pool(add_by_diskcache, times))
            check(cache.get("n") - before, times * setting.workers, "adds")
            return seconds

        yield run


@contextmanager
def redis(setting: Setting) -> Iterator[Run]:
    import redis

    times = setting.times(2_000)
    with (
        servers.redis() as path,
        pool(setting.barrier(), path, workers=setting.workers) as in_pool,
        redis.Redis(unix_socket_path=path) as client,
    ):
        client.set("n", 0)

        def run() -> float:
            before = int(client.get("n"))
            seconds = float(in_pool(add_by_redis, times))
            check(int(client.get("n")) - before, times * setting.workers, "adds")
            return seconds

        yield run


@contextmanager
def ray(setting: Setting) -> Iterator[Run]:
    times = setting.times(1_000)
    with servers.ray() as module:
        actor = module.remote(num_cpus=0)(Actor).remote()
        adds = module.remote(add_by_ray)

        def run() -> float:
            before = module.get(actor.total.remote())
            seconds = module.get([adds.remote(actor, times) for _ in range(setting.workers)])
            wanted = times * setting.workers
            check(module.get(actor.total.remote()) - before, wanted, "adds")
            return float(max(seconds))

        yield run


OURS, FOUR = "Counter.add(1)", "Counter.add(1), 4 times as often"
CALL, INLINE = "an empty method of that signature", "a list's n[0] += 1"
LESS = "an empty method of one argument"
ADDS = 400_000
NOTE = "Python is the bound: add makes an integer and stores it, with no other step but the label's"

WAITING = (
    "The cores are the bound where two busy ones slow each other down: Counter uses both, while "
    "one of two workers sleeps when they wait for a lock"
)


def comparisons() -> list[Comparison]:
    entries = [
        Entry(OURS, opened_ours(ours, ADDS, counts=True), "ours"),
        Entry(FOUR, opened_ours(ours, 4 * ADDS, counts=True), "ours"),
        Entry("Value with its lock", value),
        Entry("diskcache, incr", diskcache),
        Entry("Redis, INCR", redis),
        Entry("ray, an actor", ray),
        Entry(CALL, opened_ours(empty_call, ADDS, counts=False), "floor"),
        Entry(LESS, opened_ours(emptier_call, ADDS, counts=False), "floor"),
        Entry(INLINE, opened_ours(own_list, ADDS, counts=False), "floor"),
    ]
    return [Comparison("counters", "Adding one, by both workers at once", entries)]


def targets(found: dict[str, Comparison]) -> list[Target]:
    adds = found["counters"]
    return [
        most_times(adds, OURS, 1.5, CALL, NOTE),
        most_times(adds, OURS, 3, INLINE),
        *least_times(adds, OURS, 20, ["Value with its lock"], WAITING),
        most_times(adds, FOUR, 1.1, OURS),
    ]
