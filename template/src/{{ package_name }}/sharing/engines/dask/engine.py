"""The engine of dask.distributed: tasks on the threads of a cluster's workers.

How a chunk gets to a worker and back (`remote` has the rest of the way):

    idle seat ─▶ a free thread of a worker, by its address ─▶ future ─▶ gather
                   │
                   └── the scheduler says that the worker is gone: with it what it was given

A task is pinned to its worker: so it is known what died with which one, and the scheduler begins
none of them again by itself. Blocks of rows travel with their items.
"""

from __future__ import annotations

import asyncio
import collections
import os
import queue
import shutil
import tempfile
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
from ...patterns.base import Host, Published
from ..driver import GRACE
from ..engine import Engine, available_cores
from ..remote import Gone, RemoteEngine, RemoteHost, Reply, Seat, Site, Task
from . import hosted
from .hosted import Desks, Service, Services, call, key_of, name_of, work_on

S = TypeVar("S")

_START = 60.0
"""Seconds that a cluster may take until a worker is there."""

_LARGE = 1 << 18
"""Bytes of a task above which it goes to its worker directly, and not through the scheduler."""


def open_engine(
    state: S, workers: int | None, start_method: str | None, address: str | None
) -> Engine[S]:
    """The engine; see `sharing.open_engine`."""
    if start_method is not None:
        raise SharingError(
            f"the engine 'dask' has no start method, and was given {start_method!r}: leave that out"
        )
    return DaskEngine(state, workers, address)


class _Published:
    """An array that is scattered over the workers, and published under a name."""

    def __init__(self, client: Client, array: Any) -> None:
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
    """See `pattern.Store`."""

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


class DaskEngine(RemoteEngine[S]):
    """See `Engine`."""

    _no_timeout = (
        "dask can't end one task and leave the others alone: use the engine 'processes', "
        "or let the job look at the time"
    )

    def __init__(self, state: S, workers: int | None, address: str | None) -> None:
        super().__init__(state, workers or available_cores())
        self._wanted = workers
        self._address = address
        self._cluster: Any = None
        self._folder: str | None = None
        self._client: Any = None
        self._services: Any = None
        self._desks: Any = None
        self._recipes: list[Recipe] = []
        self._served: list[Any] = []
        self._threads: dict[str, int] = {}
        self._where: dict[int, str] = {}
        self._futures: dict[int, Any] = {}
        self._came: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _connect(self) -> Host:
        try:
            if self._address is None:
                self._cluster = self._start_cluster()
            self._client = Client(
                self._cluster or self._address, timeout=_START, set_as_default=False
            )
            self._client.wait_for_workers(1, timeout=_START)
        except (OSError, TimeoutError, ValueError) as error:
            raise StartFailed(f"no dask cluster at {self._where_it_is}: {error}") from None
        self._threads = dict(self._client.nthreads())
        cores = sum(self._threads.values())
        self._workers = self._wanted or cores
        if self._workers > cores:
            raise SharingError(
                f"{self._workers} workers don't fit into a dask cluster of {cores} threads: ask "
                "for fewer, or add workers to it"
            )
        self._store = _Store(self._client)
        return RemoteHost(self._workers, self._add_service, self._store)

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
                n_workers=self._workers,
                threads_per_worker=1,
                dashboard_address=None,
                # Or its port would be a certain one, which another run may have.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs="CRITICAL",
                local_directory=self._folder,
                preload=[hosted.__name__],
            )

    def _add_service(self, recipe: Recipe) -> Any:
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

    def _open_seats(self, site: Site) -> None:
        self._desks = Desks(site)
        self._client.register_plugin(self._desks)
        self._threads = dict(self._client.nthreads())  # news of them comes since before that

    def _on_event(self, event: Any) -> None:
        """In a thread of the client's."""
        self._came.put(event[1])

    def _is_free(self, seat: Seat) -> bool:
        return self._free_worker() is not None

    def _free_worker(self) -> str | None:
        """The address of a worker that has a thread to spare."""
        taken = collections.Counter(self._where[number] for number in self._futures)
        alone = {self._where[number] for number in self._futures if self._has_suspect(number)}
        free = [
            (taken[address] / threads, address)
            for address, threads in self._threads.items()
            if taken[address] < (1 if self._suspects_wait else threads) and address not in alone
        ]
        return min(free)[1] if free else None  # threads of one process get in each other's way

    def _has_suspect(self, seat: int) -> bool:
        chunk = self._seats[seat].chunk
        return chunk is not None and chunk.suspect

    def _send(self, seat: Seat, task: Task) -> None:
        address = self._free_worker()
        assert address is not None
        self._where[seat.number] = address
        argument: Any = task
        if len(task.items) > _LARGE:
            argument = self._client.scatter(task, workers=[address], hash=False)
        future = self._client.submit(
            work_on,
            self.name,
            argument,
            key=key_of(self.name, seat.number, task.chunk),
            workers=[address],
            pure=False,
        )
        self._futures[seat.number] = future
        bringing = self._bring(seat, task.chunk, future)
        asyncio.run_coroutine_threadsafe(bringing, self._client.loop.asyncio_loop)

    async def _bring(self, seat: Seat, number: int, future: Any) -> None:
        """In the client's thread, since it may wait in vain: what a worker had may go with it."""
        try:
            reply = await future
        except BaseException as error:
            reply = error
        self._came.put((seat, number, reply))

    def _collect(self, timeout: float) -> list[tuple[Seat, Reply | Gone]]:
        came: list[tuple[Seat, Reply | Gone]] = []
        wait = timeout > 0
        while True:
            try:
                event = self._came.get(wait, timeout or None)
            except queue.Empty:
                self._see_whether_it_answers()
                self._look_whether_anybody_is_there(bool(self._threads))
                return came
            wait = False
            if isinstance(event, dict):
                came += self._somebody_came_or_went(event)
                continue
            seat, number, reply = event
            if seat.task == number and seat.number in self._futures:
                came += self._outcome(seat, reply)

    def _outcome(self, seat: Seat, reply: Any) -> list[tuple[Seat, Reply | Gone]]:
        if isinstance(reply, Reply):
            del self._futures[seat.number]
            return [(seat, reply)]
        status = self._futures[seat.number].status
        if status == "error" and type(reply).__name__ != "KilledWorker":
            raise reply
        self._see_whether_it_answers()
        return self._lost(self._where[seat.number])

    def _lost(self, address: str) -> list[tuple[Seat, Reply | Gone]]:
        """A worker is gone, with all that it was given."""
        self._threads.pop(address, None)
        self._store.lose_all()
        self._news.clear()
        seats = [self._seats[number] for number in self._futures if self._where[number] == address]
        for seat in seats:
            self._futures.pop(seat.number).release()
        gone = Gone(f"with the dask worker {address}", in_company=len(seats) > 1)
        return [(seat, gone) for seat in seats]

    def _somebody_came_or_went(self, event: dict[str, Any]) -> list[tuple[Seat, Reply | Gone]]:
        address, threads = event["worker"], event["threads"]
        if threads:
            self._threads[address] = threads
            return []
        return self._lost(address)

    def _see_whether_it_answers(self) -> None:
        """Raise if the scheduler is gone: nothing would ever come any more."""
        if self._client.status != "running":
            raise self._give_up(f"the dask scheduler at {self._where_it_is} is gone")

    def _end_workers(self, *, politely: bool) -> None:
        for future in self._futures.values():
            future.cancel(force=True)
        self._futures.clear()

    def _close_host(self) -> None:
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

    def _take_leave(self, client: Any) -> None:
        """Take back what the workers and the scheduler were given."""
        if self._desks is not None:
            client.unregister_worker_plugin(self._desks.name)
        self._store.retract_all()
        if self._services is not None:
            client.unsubscribe_topic(self._services.name)
            call(client, self._services.name, -1, "close", ())
            client.unregister_scheduler_plugin(self._services.name)

    def _forsaken(self) -> None:
        self._close_host()
