"""The engine of dask.distributed: tasks on the threads of a cluster's workers.

How a chunk gets to a worker and back (`remote` has the rest of the way):

    Send ─▶ a free thread of a worker, by its address ─▶ future ─▶ Arrivals
              │
              └── the scheduler says that the worker is gone: with it what it was given

A task is pinned to its worker: so it is known what died with which one, and the scheduler begins
none of them again by itself. As many slots are there as the workers have threads, and which one a
chunk gets is decided when it is sent. Blocks of rows travel with their items.
"""

from __future__ import annotations

import asyncio
import collections
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import dask
from distributed import Client, LocalCluster, get_client

from ...errors import SharingError, StartFailed
from ...machine import owners
from ...machine.service import Recipe
from ...patterns.base import Pattern, Published
from .. import remote
from ..chunks import UNBEGUN, UNKNOWN, Chunk, ChunkId
from ..crew import CrewEvent, Died, Sighting
from ..driver import GRACE, Driver
from ..engine import Engine, available_cores
from ..events import Ready
from ..remote import Arrivals, Company, News, RemoteHost, Reply
from ..runs import Settings
from . import hosted
from .hosted import Desks, Service, Services, call, key_of, name_of, work_on

S = TypeVar("S")

_START = 60.0
"""Seconds that a cluster may take until a worker is there."""

_LARGE = 1 << 18
"""Bytes of a task above which it goes to its worker directly, and not through the scheduler."""

_NO_TIMEOUT = (
    "dask can't end one task and leave the others alone: use the engine 'processes', "
    "or let the job look at the time"
)


def open_engine(
    state: S, workers: int | None, start_method: str | None, address: str | None
) -> Engine[S]:
    """The engine; see `sharing.open_engine`."""
    if start_method is not None:
        raise SharingError(
            f"the engine 'dask' has no start method, and was given {start_method!r}: leave that out"
        )
    crew = DaskCrew(state, workers, address)
    return Driver(state, crew.workers, crew, remote.SIZES)


class _Published:
    """An array that is scattered over the workers, and published under a name."""

    def __init__(self, client: Client, array: object) -> None:
        self.name = f"array-{os.urandom(8).hex()}"
        self.lost = False
        future = client.scatter(array, broadcast=True, hash=False)
        client.publish_dataset(future, name=self.name)

    def __reduce__(self) -> tuple[type[_Named], tuple[str]]:
        return _Named, (self.name,)


@dataclass(frozen=True)
class _Named:
    """The same in a worker."""

    name: str

    def fetch(self) -> Any:
        array = get_client().get_dataset(self.name).result(timeout=_START)
        array.flags.writeable = False  # it is the worker's own, for all of its tasks
        return array


class _Store:
    """See `patterns.base.Store`."""

    ships_blocks = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self._published: dict[str, weakref.ref[_Published]] = {}

    def publish(self, array: Any) -> Published:
        self._retract(name for name, one in self._published.items() if one() is None)
        published = _Published(self._client, array.copy())
        self._published[published.name] = weakref.ref(published)
        return published

    def retract_all(self) -> None:
        """Nobody looks at any of them any more."""
        self._retract(self._published)

    def _retract(self, names: Iterable[str]) -> None:
        for name in list(names):
            del self._published[name]
            self._client.unpublish_dataset(name)

    def lose_all(self) -> None:
        """Some may have been with a worker that is gone."""
        for reference in self._published.values():
            if (published := reference()) is not None:
                published.lost = True


@dataclass(eq=False)
class _Sent:
    """A chunk that is on its way: to which worker, and since when."""

    id: ChunkId
    address: str
    future: Any
    since: int


@dataclass(frozen=True)
class _Ended:
    """What was sent has come to its end, with a reply or an exception."""

    slot: int
    sent: _Sent
    reply: Reply | BaseException


@dataclass(frozen=True)
class _News:
    """The scheduler says that a worker has so many threads now; 0 when it has gone."""

    worker: str
    threads: int


class DaskCrew:
    """See `Crew`."""

    def __init__(self, state: object, workers: int | None, address: str | None) -> None:
        self.workers = workers or available_cores()
        self.name = remote.name_of_engine()
        self._state = state
        self._wanted = workers
        self._address = address
        self._where_it_is = address or "this machine"
        self._cluster: Any = None
        self._folder: str | None = None
        self._client: Any = None
        self._store: _Store | None = None
        self._services: Services | None = None
        self._desks: Desks | None = None
        self._recipes: list[Recipe] = []
        self._served: list[Service] = []
        self._news = News([])
        self._threads: dict[str, int] = {}  # of each worker
        self._waiting: list[int] = []  # slots that are to be there as soon as there is a thread
        self._idle: set[int] = set()  # slots that are there, and have nothing to do
        self._out: dict[int, _Sent] = {}
        self._arrivals: Arrivals[Died | _Ended | _News] = Arrivals()
        self._company = Company()
        self._pid = os.getpid()

    @property
    def eager(self) -> int:
        """As many as there can be now."""
        return min(self.workers, max(1, sum(self._threads.values())))

    # Opening and closing

    def open(self, patterns: list[Pattern]) -> None:
        self._connect()
        host = RemoteHost(self.workers, self._add_service, self._store)
        remote.open_patterns(patterns, host, self._serve)
        self._news = News(patterns)
        site = remote.site_of(self.name, self._state, patterns)
        self._desks = Desks(site)
        self._client.register_plugin(self._desks)
        self._threads = dict(self._client.nthreads())  # news of them comes since before that

    def _connect(self) -> None:
        try:
            if self._address is None:
                self._cluster = self._start_cluster()
            self._client = Client(
                self._cluster or self._address, timeout=_START, set_as_default=False
            )
            self._client.wait_for_workers(1, timeout=_START)
        except (OSError, TimeoutError, ValueError) as error:
            raise StartFailed(f"no dask cluster at {self._where_it_is}: {error}") from None
        cores = sum(self._client.nthreads().values())
        self.workers = self._wanted or cores
        if self.workers > cores:
            raise SharingError(
                f"{self.workers} workers don't fit into a dask cluster of {cores} threads: ask "
                "for fewer, or add workers to it"
            )
        self._store = _Store(self._client)

    def _start_cluster(self) -> Any:
        self._folder = tempfile.mkdtemp(prefix=f"{owners.PREFIX}{owners.me()}-")
        settings = {
            "temporary-directory": self._folder,
            "distributed.worker.daemon": True,
            # Its memory is the operating system's to judge, as on the other engines.
            "distributed.worker.memory.terminate": False,
        }
        with dask.config.set(settings):
            return LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                dashboard_address=None,
                # Or its port would be a certain one, which another run may have.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs="CRITICAL",
                local_directory=self._folder,
                preload=[hosted.__name__],
            )

    def _add_service(self, recipe: Recipe) -> Service:
        self._recipes.append(recipe)
        self._served.append(Service(name_of(self.name), len(self._recipes) - 1))
        return self._served[-1]

    def _serve(self) -> None:
        self._services = Services(self.name, self._recipes)
        self._client.subscribe_topic(self._services.name, self._on_event)
        try:
            self._client.register_plugin(self._services)
        except Exception as error:
            raise StartFailed(
                f"the scheduler can't host what is shared ({' '.join(str(error).split())}): "
                "install this project where it runs, too"
            ) from None
        for service in self._served:
            service.belong_to(self._client)

    def _on_event(self, event: tuple[object, dict[str, Any]]) -> None:
        """In a thread of the client's."""
        self._arrivals.put(_News(**event[1]))

    def end(self, *, politely: bool) -> Iterable[CrewEvent]:
        if os.getpid() != self._pid:
            return []
        out, self._out = self._out, {}
        for sent in out.values():
            sent.future.cancel(force=True)
        return [Died(slot, UNKNOWN, "by its engine") for slot in out]

    def close(self) -> None:
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        if client is not None:
            if client.status == "running":  # else it would try to reach the scheduler for long
                with suppress(Exception):  # what is gone already
                    self._take_leave(client)
            client.close(timeout=GRACE)
        if cluster is not None:
            cluster.close(timeout=GRACE)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        # What is shared is not to hang on what refers to itself, as this does.
        self._state, self._store, self._desks, self._news = None, None, None, News([])

    def _take_leave(self, client: Any) -> None:
        """Take back what the workers and the scheduler were given."""
        if self._desks is not None:
            client.unregister_worker_plugin(self._desks.name)
        if self._store is not None:
            self._store.retract_all()
        if self._services is not None:
            client.unsubscribe_topic(self._services.name)
            call(client, self._services.name, -1, "close", ())
            client.unregister_scheduler_plugin(self._services.name)

    def forsake(self) -> None:
        self.end(politely=False)
        self.close()

    # Workers

    def start(self, slot: int) -> None:
        self._waiting.append(slot)
        self._arrivals.wake()

    def send(self, slot: int, chunk_id: ChunkId, chunk: Chunk) -> None:
        if slot not in self._idle:  # it has just gone, which the scheduler will hear of next
            return
        self._idle.remove(slot)
        order = remote.order_of(slot, chunk_id, chunk, self._news)
        address = self._free_worker()
        argument: Any = order
        if len(order.items) > _LARGE:
            argument = self._client.scatter(order, workers=[address], hash=False)
        future = self._client.submit(
            work_on,
            self.name,
            argument,
            key=key_of(self.name, slot, chunk_id),
            workers=[address],
            pure=False,
        )
        sent = self._out[slot] = _Sent(chunk_id, address, future, time.monotonic_ns())
        bringing = self._bring(slot, sent)
        asyncio.run_coroutine_threadsafe(bringing, self._client.loop.asyncio_loop)

    def _free_worker(self) -> str:
        """The address of a worker that has a thread to spare, the one with the most of them."""
        taken = collections.Counter(sent.address for sent in self._out.values())
        return min(
            (taken[address] / threads, address)  # in one process they get in each other's way
            for address, threads in self._threads.items()
            if taken[address] < threads
        )[1]

    async def _bring(self, slot: int, sent: _Sent) -> None:
        """In the client's thread, since it may wait in vain: what a worker had may go with it."""
        reply: Reply | BaseException
        try:
            reply = await sent.future
        except BaseException as error:
            reply = error
        self._arrivals.put(_Ended(slot, sent, reply))

    def stop(self, slot: int) -> None:
        """It can't be said."""

    def kill(self, slot: int) -> None:
        sent = self._out.pop(slot, None)
        if sent is not None:
            # Its thread can't be ended; but nobody waits for it any more.
            sent.future.cancel(force=True)
            self._arrivals.put(Died(slot, UNKNOWN, "by its engine"))

    def sight(self, slot: int, chunk_id: ChunkId) -> Sighting:
        return remote.sighting(self._out[slot].since)

    def adapt(self, settings: Settings) -> Settings:
        return remote.without_timeout(settings, _NO_TIMEOUT)

    def dumps(self, value: object) -> bytes:
        return remote.dumps(value)

    # Events

    def wake(self) -> None:
        self._arrivals.wake()

    def poll(self, timeout: float) -> list[CrewEvent]:
        came: list[CrewEvent] = []
        for arrival in self._arrivals.take(0.0 if self._waiting and self._has_room() else timeout):
            if isinstance(arrival, _Ended):
                came += self._outcome(arrival)
            elif isinstance(arrival, _News):
                came += self._somebody_came_or_went(arrival)
            else:
                came.append(arrival)
        while self._waiting and self._has_room():
            slot = self._waiting.pop(0)
            self._idle.add(slot)
            came.append(Ready(slot))
        if not came:
            self._see_whether_it_answers()
        self._company.look(bool(self._threads))
        return came

    def _has_room(self) -> bool:
        return len(self._idle) + len(self._out) < sum(self._threads.values())

    def _outcome(self, ended: _Ended) -> list[CrewEvent]:
        slot, sent, reply = ended.slot, ended.sent, ended.reply
        if self._out.get(slot) is not sent:
            return []
        if isinstance(reply, Reply):
            del self._out[slot]
            self._idle.add(slot)
            return remote.events_of(slot, sent.id, reply)
        if sent.future.status == "error" and type(reply).__name__ != "KilledWorker":
            raise reply
        self._see_whether_it_answers()
        return self._lose(sent.address)

    def _somebody_came_or_went(self, news: _News) -> list[CrewEvent]:
        if news.threads:
            self._threads[news.worker] = news.threads
            return []
        return self._lose(news.worker)

    def _lose(self, address: str) -> list[CrewEvent]:
        """A worker is gone, with all that it was given."""
        self._threads.pop(address, None)
        if self._store is not None:
            self._store.lose_all()
        self._news.forget()
        slots = [slot for slot, sent in self._out.items() if sent.address == address]
        for slot in slots:
            self._out.pop(slot).future.release()
        how, in_company = f"with the dask worker {address}", len(slots) > 1
        came: list[CrewEvent] = [Died(slot, UNKNOWN, how, in_company) for slot in slots]
        while self._idle and len(self._idle) + len(self._out) > sum(self._threads.values()):
            came.append(Died(self._idle.pop(), UNBEGUN, how))
        return came

    def _see_whether_it_answers(self) -> None:
        """Raise if the scheduler is gone: nothing would ever come any more."""
        if self._client.status != "running":
            raise remote.lost(f"the dask scheduler at {self._where_it_is} is gone")
