"""Caches: answers by key, for all workers."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from my_service.bench.timing import CONTEXT, Setting, at_once, given, pool, together
from my_service.bench.workload import burn
from my_service.sharing import Cache

from . import servers
from .compare import Comparison, Entry, Run, Target, Wrong, least_times, most_times

KEYS = [f"key {number}" for number in range(100)]
MANY = [f"key {number}" for number in range(1_000)]
VALUES = {key: key.upper() for key in MANY}
WANTED = 100
COST = 0.001


class Store(NamedTuple):
    """What a worker does with a cache of others: get one, or many where it can, and put."""

    get: Callable[[str], Any]
    put: Callable[[str, str], Any]
    many: Callable[[list[str]], Any] | None = None


@dataclass
class State:
    barrier: Any
    computed: Any
    cache: Cache


def hits(times: int, state: State) -> float:
    get = state.cache.get_or_compute

    def work(times: int) -> None:
        for _ in range(times):
            for key in KEYS:
                get(key, key.upper)

    work(1)
    return float(together(state.barrier, times, work)) / len(KEYS)


def first_hits(_times: int, state: State) -> float:
    def work(_times: int) -> None:
        if len(state.cache.get_many(MANY)) != len(MANY):
            raise Wrong("wrong: not all values are there")

    return float(together(state.barrier, 1, work)) / len(MANY)


def wanted_at_once(number: int, state: State) -> float:
    def compute() -> str:
        burn(COST)
        with state.computed.get_lock():
            state.computed.value += 1
        return "value"

    def work(_times: int) -> None:
        for key in range(WANTED):
            state.cache.get_or_compute((number, key), compute)

    return float(together(state.barrier, 1, work))


def opened_ours(job: Any, full: int) -> Any:
    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        state = State(setting.barrier(), CONTEXT.Value("q", 0), Cache())
        for key, value in VALUES.items():
            state.cache.put(key, value)
        numbers = count()
        with setting.open(state) as engine:

            def run() -> float:
                if job is wanted_at_once:
                    before = engine.state.computed.value
                    at_once(engine, job, next(numbers))
                    return float(engine.state.computed.value - before)
                # Overwritten, so that no worker relies on what it remembers.
                engine.state.cache.put(KEYS[0], VALUES[KEYS[0]])
                return float(at_once(engine, job, setting.times(full)))

            yield run

    return opener


_stores: list[Store] = []


def their_store() -> Store:
    """The cache of others as this worker sees it, connected once."""
    if not _stores:
        connect, *arguments = given[2:]
        _stores.append(connect(*arguments))
    return _stores[0]


def their_hits(times: int) -> float:
    get = their_store().get

    def work(times: int) -> None:
        for _ in range(times):
            for key in KEYS:
                get(key)

    work(1)
    if get(KEYS[0]) != VALUES[KEYS[0]]:
        raise Wrong(f"wrong: {get(KEYS[0])!r} instead of {VALUES[KEYS[0]]!r}")
    return float(together(given[0], times, work)) / len(KEYS)


def their_first_hits(_times: int) -> float:
    store = their_store()

    def work(_times: int) -> None:
        found = store.many(MANY) if store.many else [store.get(key) for key in MANY]
        if list(found) != list(VALUES.values()):
            raise Wrong("wrong: not all values are there")

    return float(together(given[0], 1, work)) / len(MANY)


def wanted_from_theirs(number: int) -> float:
    barrier, computed = given[:2]
    store = their_store()

    def work(_times: int) -> None:
        for key in (f"{number} {place}" for place in range(WANTED)):
            if store.get(key) is None:
                burn(COST)
                with computed.get_lock():
                    computed.value += 1
                store.put(key, "value")

    return float(together(barrier, 1, work))


@contextmanager
def nothing() -> Iterator[tuple[()]]:
    yield ()


def plain() -> Store:
    values = dict(VALUES)
    return Store(values.__getitem__, values.__setitem__)


@contextmanager
def manager() -> Iterator[tuple[Any]]:
    with CONTEXT.Manager() as opened:
        yield (opened.dict(VALUES),)


def manager_dict(values: Any) -> Store:
    return Store(values.get, values.__setitem__)


@contextmanager
def filled(connect: Callable[[str], Store]) -> Iterator[tuple[str]]:
    with tempfile.TemporaryDirectory() as path:
        store = connect(path)
        for key, value in VALUES.items():
            store.put(key, value)
        del store
        yield (path,)


def diskcache(path: str) -> Store:
    from diskcache import Cache as DiskCache

    cache = DiskCache(path)
    return Store(cache.get, cache.set)


def lmdb(path: str) -> Store:
    import lmdb

    opened = lmdb.open(path, map_size=1 << 26, sync=False, readahead=False)

    def get(key: str) -> str | None:
        with opened.begin(buffers=True) as transaction:
            found = transaction.get(key.encode())
            return None if found is None else str(found, "utf-8")

    def put(key: str, value: str) -> None:
        with opened.begin(write=True) as transaction:
            transaction.put(key.encode(), value.encode())

    def many(keys: list[str]) -> list[str]:
        with opened.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            found = cursor.getmulti([key.encode() for key in keys])
            return [str(value, "utf-8") for _, value in found]

    return Store(get, put, many)


@contextmanager
def lmdb_folder() -> Iterator[tuple[str]]:
    import lmdb as module

    with tempfile.TemporaryDirectory() as path:
        with module.open(path, map_size=1 << 26) as opened, opened.begin(write=True) as transaction:
            for key, value in VALUES.items():
                transaction.put(key.encode(), value.encode())
        yield (path,)


@contextmanager
def ultra() -> Iterator[tuple[str]]:
    from UltraDict import UltraDict

    shared = UltraDict(VALUES, buffer_size=1 << 20)
    try:
        yield (shared.name,)
    finally:
        shared.close()
        shared.unlink()


def ultra_dict(name: str) -> Store:
    from UltraDict import UltraDict

    shared = UltraDict(name=name, create=False, buffer_size=1 << 20)
    return Store(shared.get, shared.__setitem__)


@contextmanager
def shared_memory() -> Iterator[tuple[str]]:
    import os

    from shared_memory_dict import SharedMemoryDict

    name = f"peers-{os.getpid()}"
    shared = SharedMemoryDict(name=name, size=1 << 20)
    try:
        shared.update(VALUES)
        yield (name,)
    finally:
        shared.shm.close()
        shared.shm.unlink()


def shared_memory_dict(name: str) -> Store:
    from shared_memory_dict import SharedMemoryDict

    shared = SharedMemoryDict(name=name, size=1 << 20)
    return Store(shared.get, shared.__setitem__)


@contextmanager
def redis_server() -> Iterator[tuple[str]]:
    import redis as client

    with servers.redis() as path:
        with client.Redis(unix_socket_path=path) as connected:
            connected.mset(VALUES)
        yield (path,)


def redis(path: str) -> Store:
    import redis as client

    connected = client.Redis(unix_socket_path=path, decode_responses=True)
    return Store(connected.get, connected.set, connected.mget)


def opened_theirs(job: Any, full: int, connect: Any, serve: Any) -> Any:
    @contextmanager
    def opener(setting: Setting) -> Iterator[Run]:
        computed, numbers = CONTEXT.Value("q", 0), count()
        with (
            serve() as arguments,
            pool(
                *(setting.barrier(), computed, connect, *arguments), workers=setting.workers
            ) as in_pool,
        ):

            def run() -> float:
                if job is wanted_from_theirs:
                    before = computed.value
                    in_pool(job, next(numbers))
                    return float(computed.value - before)
                return float(in_pool(job, setting.times(full)))

            yield run

    return opener


OURS, FOUR, DICT = "Cache, a repeated hit", "Cache, 4 times as often", "own dict"
MANAGER = "Manager().dict()"
FIRST = "Cache.get_many"
OTHERS = {
    # how often 100 keys are asked for in a run, how a worker connects, and what serves
    MANAGER: (5, manager_dict, manager),
    "diskcache": (20, diskcache, lambda: filled(diskcache)),
    "lmdb": (200, lmdb, lmdb_folder),
    "UltraDict": (100, ultra_dict, ultra),
    "shared-memory-dict": (2, shared_memory_dict, shared_memory),
    "Redis": (10, redis, redis_server),
}


def of_others(job: Any) -> list[Entry]:
    return [
        Entry(name, opened_theirs(job, times, connect, serve))
        for name, (times, connect, serve) in OTHERS.items()
    ]


def counted(number: float) -> str:
    return f"{number:,.0f}"


def comparisons() -> list[Comparison]:
    return [
        Comparison(
            "cache hits",
            "Getting a value that this worker has seen before, by both workers at once",
            [
                Entry(OURS, opened_ours(hits, 2_000), "ours"),
                Entry(FOUR, opened_ours(hits, 8_000), "ours"),
                *of_others(their_hits),
                Entry(DICT, opened_theirs(their_hits, 5_000, plain, nothing), "floor"),
            ],
        ),
        Comparison(
            "first hits",
            "Getting a value for the first time in a worker, of 1,000 that are wanted",
            [Entry(FIRST, opened_ours(first_hits, 1), "ours"), *of_others(their_first_hits)],
            rounds=5,
        ),
        Comparison(
            "computing once",
            "Computations, when both workers want the same 100 new keys",
            [
                Entry("Cache.get_or_compute", opened_ours(wanted_at_once, 1), "ours"),
                *of_others(wanted_from_theirs),
            ],
            rounds=3,
            show=counted,
        ),
    ]


def targets(found: dict[str, Comparison]) -> list[Target]:
    hits, first, once = (found[key] for key in ("cache hits", "first hits", "computing once"))
    others = [name for name in OTHERS if name != MANAGER]
    computed = [way for way in once.ways if way.role == "ours"]
    return [
        *least_times(hits, OURS, 100, [MANAGER]),
        *least_times(hits, OURS, 1, others),
        *least_times(first, FIRST, 15, [MANAGER]),
        Target(
            "computing once: computations of 100 keys that both workers want",
            WANTED,
            max(computed[0].seconds) if computed else None,
            show=counted,
        ),
        most_times(hits, FOUR, 1.1, OURS),
    ]
