"""Results that are expensive to get, asked for once over all workers."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from ..errors import ServiceLost, SharingError, brief
from ..machine.primitives import PARENT, Service, Words, Worker
from .base import Host, Pattern

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Version = memoryview | list[int]
"""One word, in shared memory or in that of this process."""

Answer = (
    tuple[Literal["hit"], bytes, float | None]
    | tuple[Literal["lease"], int, None]
    | tuple[Literal["wait"], None, None]
    | tuple[Literal["loop"], list[Hashable], None]
)
"""What a store says to who asks for a value; see `CacheStore.ask`."""

_MISSING: Any = object()

_WAIT = 1.0
"""Seconds that a call waits in the server for another worker's value before it asks again."""

_NEVER = 0.0
"""The deadline of a value that is not to be remembered."""


class CacheLoopError(SharingError):
    """Computing the value of a key needs that very value."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What the cache has seen.

    Attributes:
        entries: how many values there are.
        hits: how often a value was there; what a worker remembers itself is not counted.
        misses: how often it was not.
        computed: how many values were computed and stored.
        evicted: how many left because there were more than ``max_entries``.
    """

    entries: int
    hits: int
    misses: int
    computed: int
    evicted: int


@dataclass(slots=True)
class _Entry:
    blob: bytes
    deadline: float | None


@dataclass(slots=True)
class _Lease:
    token: int
    holder: str


class _Present:
    """Tells the store, when it is deleted, that the connection of a holder is closed."""

    def __init__(self, store: CacheStore, holder: str) -> None:
        self.holder = holder
        self._store = store

    def __del__(self) -> None:
        self._store.holder_left(self.holder)


class CacheStore:
    """The cache itself: values as bytes, and who computes which of them just now.

    A plain class without processes or pickles in it, to be hosted where the engine likes.
    Called from several threads; a thread speaks for one holder.

    Args:
        max_entries: the least recently used ones go when there are more.
        ttl: seconds that a value lives, or None.
        version: ``version[0]`` changes whenever what a worker remembers may be wrong.
    """

    may_forget = True

    def __init__(self, max_entries: int, ttl: float | None, version: Words | Version) -> None:
        self._max_entries = max_entries
        self._ttl = ttl
        self._version = version if isinstance(version, (memoryview, list)) else version.view
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._leases: dict[Hashable, _Lease] = {}
        self._waiting: dict[str, Hashable] = {}
        self._changed = threading.Condition()
        self._connection = threading.local()
        self._hits = self._misses = self._computed = self._evicted = self._tokens = 0
        new_version(self._version)  # a new store knows nothing of what workers remember

    def ask(self, key: Hashable, holder: str) -> Answer:
        """The value, or the lease on it, or that another computes it and it takes longer.

        Returns:
            ("hit", blob, deadline), ("lease", token, None), ("wait", None, None), or
            ("loop", the keys in question, None).
        """
        self._see(holder)
        end = time.monotonic() + _WAIT
        with self._changed:
            while True:
                entry = self._live(key)
                if entry is not None:
                    self._hits += 1
                    return "hit", entry.blob, entry.deadline
                lease = self._leases.get(key)
                if lease is None:
                    self._misses += 1
                    self._tokens += 1
                    self._leases[key] = _Lease(self._tokens, holder)
                    return "lease", self._tokens, None
                loop = self._loop_to(holder, key)
                if loop:
                    return "loop", loop, None
                self._waiting[holder] = key
                try:
                    in_time = self._changed.wait(end - time.monotonic())
                finally:
                    has_left = self._waiting.pop(holder, None) is None
                if has_left or not in_time:  # nobody would use the lease of one who died waiting
                    return "wait", None, None

    def _loop_to(self, holder: str, key: Hashable) -> list[Hashable]:
        """The keys that wait for each other until one waits for this holder; or none."""
        keys = [key]
        while (lease := self._leases.get(keys[-1])) is not None:
            if lease.holder == holder:
                return keys
            following = self._waiting.get(lease.holder, _MISSING)
            if following is _MISSING or following in keys:
                return []
            keys.append(following)
        return []

    def store(self, key: Hashable, token: int, blob: bytes) -> float | None:
        """Store a computed value, unless its lease was withdrawn; its deadline."""
        with self._changed:
            lease = self._leases.get(key)
            if lease is None or lease.token != token:
                return _NEVER
            del self._leases[key]
            self._computed += 1
            return self._set(key, blob)

    def abandon(self, key: Hashable, token: int) -> None:
        """Give a lease back without a value."""
        with self._changed:
            lease = self._leases.get(key)
            if lease is not None and lease.token == token:
                del self._leases[key]
                self._changed.notify_all()

    def put(self, key: Hashable, blob: bytes) -> float | None:
        """Store a value; a computation of it that runs is not stored. Its deadline."""
        with self._changed:
            self._leases.pop(key, None)
            overwritten = key in self._entries
            deadline = self._set(key, blob)
            if overwritten:
                new_version(self._version)
            return deadline

    def get_many(self, keys: list[Hashable]) -> dict[Hashable, tuple[bytes, float | None]]:
        """What there is of these, with deadlines."""
        found = {}
        with self._changed:
            for key in keys:
                entry = self._live(key)
                if entry is not None:
                    found[key] = entry.blob, entry.deadline
            self._hits += len(found)
            self._misses += len(keys) - len(found)
        return found

    def invalidate(self, key: Hashable) -> None:
        """Forget a value, and the computation of it that runs."""
        with self._changed:
            self._entries.pop(key, None)
            self._leases.pop(key, None)
            new_version(self._version)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all values, and all computations that run."""
        with self._changed:
            self._entries.clear()
            self._leases.clear()
            new_version(self._version)
            self._changed.notify_all()

    def stats(self) -> CacheStats:
        with self._changed:
            for key in list(self._entries) if self._ttl is not None else ():
                self._live(key)
            entries = len(self._entries)
            return CacheStats(entries, self._hits, self._misses, self._computed, self._evicted)

    def holder_left(self, holder: str) -> None:
        """Free what a holder had leased; ``holder`` may be the beginning of several."""
        with self._changed:
            mine = [key for key, lease in self._leases.items() if lease.holder.startswith(holder)]
            for key in mine:
                del self._leases[key]
            for waiting in [one for one in self._waiting if one.startswith(holder)]:
                del self._waiting[waiting]
            if mine:
                self._changed.notify_all()

    def contents(self) -> tuple[dict[Hashable, tuple[bytes, float | None]], CacheStats]:
        """All there is, the least recently used first, to be given to `load`."""
        with self._changed:
            stats = self.stats()
            return {k: (e.blob, e.deadline) for k, e in self._entries.items()}, stats

    def load(self, entries: dict[Hashable, tuple[bytes, float | None]], stats: CacheStats) -> None:
        """Begin with what another store knew."""
        with self._changed:
            for key, (blob, deadline) in entries.items():
                self._entries[key] = _Entry(blob, deadline)
            self._hits, self._misses = stats.hits, stats.misses
            self._computed, self._evicted = stats.computed, stats.evicted

    def _see(self, holder: str) -> None:
        """Tie the leases of a holder to the connection of this thread, and so to its process."""
        if getattr(self._connection, "present", None) is None:
            self._connection.present = _Present(self, holder)

    def _live(self, key: Hashable) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.deadline is not None and entry.deadline <= time.monotonic():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def _set(self, key: Hashable, blob: bytes) -> float | None:
        deadline = None if self._ttl is None else time.monotonic() + self._ttl
        self._entries[key] = _Entry(blob, deadline)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
            self._evicted += 1
        self._changed.notify_all()
        return deadline


def new_version(version: Version) -> None:
    """Give the word a value that it never had: chance, since several processes may do this."""
    version[0] = int.from_bytes(os.urandom(8), "little", signed=True)


class _LocalStore:
    """The service of a cache outside an engine: its store, in this process."""

    def __init__(self, store: CacheStore) -> None:
        self._store = store

    def attach(self) -> None:
        pass

    def call(self, method: str, *args: object) -> Any:
        return getattr(self._store, method)(*args)


class Cache(Pattern):
    """Values by key, each computed once over all workers.

    They are kept as copies: changing an object that came out of the cache, or went in,
    changes nothing for other workers, and must not be done, since this worker sees the same
    object again. Store a new value instead. Each worker remembers what it has seen, so that a
    repeated hit costs what a dictionary's costs; `put` over a value, `invalidate` and `clear`
    make all of them forget.

    It may forget a value at any time (its process may be killed), and never fails for it:
    workers then compute for themselves until it is up again.

    Args:
        max_entries: how many values there are at most, in all and in what a worker remembers.
        ttl: seconds that a value lives; left out, for ever.

    Raises:
        ValueError: a number that is not above 0.
    """

    _own_to_process: ClassVar[frozenset[str]] = frozenset(
        {"_near", "_deadlines", "_seen", "_version", "_worker"}
    )

    def __init__(self, max_entries: int = 100_000, ttl: float | None = None) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be above 0, not {max_entries!r}")
        if ttl is not None and not ttl > 0:
            raise ValueError(f"ttl must be above 0 seconds, not {ttl!r}")
        self.max_entries = max_entries
        self.ttl = ttl
        self._words: Words | None = None
        self._is_live = True
        self._settle()

    def _settle(self) -> None:
        """Live in this process."""
        self._words = None
        self._version: Version = [0]
        store = CacheStore(self.max_entries, self.ttl, self._version)
        self._service: Service = _LocalStore(store)
        self._is_live = True
        self._belong_to(None)

    def _belong_to(self, worker: Worker | None) -> None:
        """Live in that worker, or in the parent, and remember nothing yet."""
        self._worker = worker
        self._near: dict[Hashable, Any] = {}
        self._deadlines: dict[Hashable, float] = {}
        self._seen: int = self._version[0]

    def get_or_compute(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of a key; if there is none, ``compute()``, here, by one worker only.

        The others that want it wait for that one. If it raises, or its worker dies, the next
        one computes. If the value can't be pickled it is returned, and not kept.

        Raises:
            CacheLoopError: ``compute`` needs this very value, be it by way of other keys.
            Exception: what ``compute`` raises.
        """
        if self._version[0] == self._seen:
            value = self._near.get(key, _MISSING)
            if value is not _MISSING and (
                self.ttl is None or self._deadlines[key] > time.monotonic()
            ):
                return value  # type: ignore[no-any-return]
        return self._ask(key, compute)

    def _ask(self, key: Hashable, compute: Callable[[], T]) -> T:
        version = self._refresh()
        slot = PARENT if self._worker is None else self._worker.slot
        holder = f"{slot} {os.getpid()} {threading.get_ident()} "
        answer = "wait"
        while answer == "wait":
            try:
                answer, content, deadline = self._service.call("ask", key, holder)
            except ServiceLost:
                return compute()
        if answer == "loop":
            way = " → ".join(brief(k, 40) for k in (*content, content[0]))
            raise CacheLoopError(f"a value of {self.name!r} waits for itself: {way}")
        if answer == "hit":
            value: T = pickle.loads(content)
            self._remember(key, value, deadline, version)
            return value
        try:
            value = compute()
            blob = _dumps(value)
        except BaseException:
            self._tell("abandon", key, content)
            raise
        if blob is None:
            self._tell("abandon", key, content)
        else:
            self._remember(key, value, self._tell("store", key, content, blob), version)
        return value

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of a key, or ``default``; None can be a value."""
        return self.get_many((key,)).get(key, default)

    def get_many(self, keys: Iterable[K]) -> dict[K, Any]:
        """The values that there are of these keys, in one round trip at most."""
        version = self._refresh()
        found: dict[K, Any] = {}
        missing: list[K] = []
        near, now = self._near, time.monotonic()
        for key in keys:
            value = near.get(key, _MISSING)
            if value is _MISSING or (self.ttl is not None and self._deadlines[key] <= now):
                missing.append(key)
            else:
                found[key] = value
        if missing:
            try:
                answers = self._service.call("get_many", missing)
            except ServiceLost:
                return found
            for key, (blob, deadline) in answers.items():
                value = found[key] = pickle.loads(blob)
                self._remember(key, value, deadline, version)
        return found

    def put(self, key: Hashable, value: object) -> None:
        """Store a value, in place of the one that was there.

        Raises:
            SharingError: the value can't be pickled.
        """
        blob = _dumps(value)
        if blob is None:
            raise SharingError(
                f"the value of key {brief(key)} of {self.name!r} can't be pickled: {brief(value)}"
            )
        self._change("put", key, blob)

    def invalidate(self, key: Hashable) -> None:
        """Forget the value of a key; whoever is computing it keeps it to itself."""
        self._change("invalidate", key)

    def clear(self) -> None:
        """Forget all values."""
        self._change("clear")

    def stats(self) -> CacheStats:
        """What the cache has seen; all zero while its process is down."""
        try:
            stats: CacheStats = self._service.call("stats")
        except ServiceLost:
            return CacheStats(0, 0, 0, 0, 0)
        return stats

    def _change(self, method: str, *args: object) -> None:
        try:
            self._service.call(method, *args)
        except ServiceLost:
            # The store has forgotten all; what workers remember must go as well.
            new_version(self._version)
        if not self._is_live:
            self._forget()

    def _tell(self, method: str, *args: object) -> float | None:
        try:
            deadline: float | None = self._service.call(method, *args)
        except ServiceLost:
            return _NEVER
        return deadline

    def _refresh(self) -> int:
        """Forget what may be outdated, and return the version of what is remembered."""
        version: int = self._version[0]
        if version != self._seen:
            self._forget()
            self._seen = version
        return version

    def _forget(self) -> None:
        self._near.clear()
        self._deadlines.clear()

    def _remember(self, key: Hashable, value: object, deadline: float | None, version: int) -> None:
        """Keep a value that was asked for at that version."""
        if deadline == _NEVER or version != self._seen:
            return
        if not self._is_live and self._worker is None:
            return  # nobody would tell the parent to forget it
        while len(self._near) >= self.max_entries:
            self._near.pop(next(iter(self._near)))
        self._near[key] = value
        if deadline is not None:
            self._deadlines[key] = deadline

    def open(self, host: Host) -> None:
        contents = self._service.call("contents")
        self._is_live = host.is_shared
        self._words = host.words(1)
        self._version = self._words.view
        self._service = host.service(CacheStore, self.max_entries, self.ttl, self._words)
        self._seeds = contents
        self._belong_to(None)

    def opened(self) -> None:
        entries, stats = self._seeds
        self._seeds = None
        self._tell("load", entries, stats)

    def attach(self, worker: Worker) -> None:
        assert self._words is not None
        self._version = self._words.view
        self._service.attach()
        self._belong_to(worker)

    def chunk_begins(self, chunk: int, left: int) -> None:
        if not self._is_live:  # no word says when to forget, so it is forgotten now and then
            self._forget()

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        # The store hears of it by the end of the connection, unless a process that the worker
        # has started still holds that open.
        self._tell("holder_left", f"{slot} ")
        return 0

    def close(self, *, whole: bool) -> None:
        try:
            contents = self._service.call("contents")
        except ServiceLost:
            contents = None
        self._settle()
        if contents is not None:
            self._service.call("load", *contents)


def _dumps(value: object) -> bytes | None:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # any: a class may raise what it likes
        return None
