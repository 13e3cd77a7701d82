"""What an engine adds to the scheduler and to the workers of a dask cluster while it is open.

The services live in the scheduler, which no run survives anyway, and which sees a worker leave
before anybody else does. Calls run in threads of their own: those that wait for a lease must keep
neither its event loop nor those waiting that give one back.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

from distributed import get_worker
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.threadpoolexecutor import ThreadPoolExecutor  # of daemon threads
from distributed.utils import sync

from ...errors import ServiceLost
from ...machine import lifeline
from ...machine.service import Hub, Recipe
from ..chunks import ChunkId
from ..driver import GRACE
from ..remote import THREADS, WAITING, Order, Reply, Site, leave, work

_ENDED = ("connecting", "closing", "closed", Status.closing, Status.closed)
"""What a client or a worker is while, or after, it has lost its scheduler."""


def key_of(engine: str, slot: int, chunk: ChunkId) -> str:
    """What a task is called."""
    return f"{engine}/{slot}/{chunk}"


def name_of(engine: str) -> str:
    """What its services are called."""
    return f"services-{engine}"


class Services(SchedulerPlugin):
    """The services of an engine, in the scheduler; and the news of who comes and goes."""

    def __init__(self, engine: str, recipes: Sequence[Recipe]) -> None:
        self.name = name_of(engine)
        self._recipes = list(recipes)

    async def start(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._hub = Hub(self._recipes)
        self._threads = [ThreadPoolExecutor(THREADS) for _ in range(2)]
        scheduler.handlers[self.name] = self._call

    async def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        self._scheduler.handlers.pop(self.name, None)
        for threads in self._threads:
            threads.shutdown(wait=False)

    async def _call(self, request: bytes, **_: object) -> bytes:
        number, method, args = pickle.loads(request)
        if number < 0:
            self._stop()
            return pickle.dumps((True, None))
        threads = self._threads[method in WAITING]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._answer, number, method, args)

    def _answer(self, number: int, method: str, args: tuple[object, ...]) -> bytes:
        try:
            return pickle.dumps((True, self._hub.call(number, method, args)), protocol=5)
        except Exception as error:
            return pickle.dumps((False, error), protocol=5)

    def add_worker(self, scheduler: Any, worker: str) -> None:
        threads = scheduler.workers[worker].nthreads
        scheduler.log_event(self.name, {"worker": worker, "threads": threads})

    def remove_worker(self, scheduler: Any, worker: str, **_: object) -> None:
        # Called when it is gone from the scheduler's list: whose task ran there, the driver knows.
        scheduler.log_event(self.name, {"worker": worker, "threads": 0})


class Desks(WorkerPlugin):
    """What a worker must know of an engine; those that join later, too."""

    def __init__(self, site: Site) -> None:
        self.name = f"desks-{site.engine}"
        self._site = site

    def setup(self, worker: Any) -> None:
        _offices[self._site.engine] = _Office(self._site)

    async def teardown(self, worker: Any) -> None:
        office = _offices.pop(self._site.engine, None)
        if office is not None:
            await office.close()


class _Office:
    """The threads of a worker that work for an engine.

    Dask runs a task on any thread of its own; but what a job has opened may belong to a thread
    (a connection of sqlite3 does), and so it is used and closed in the one that has opened it.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._all: list[ThreadPoolExecutor] = []
        self._idle: list[ThreadPoolExecutor] = []

    def work(self, order: Order) -> Reply:
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = ThreadPoolExecutor(1, thread_name_prefix="desk")
            self._all.append(thread)
        try:
            # By its context dask knows in any thread which worker this is.
            reply: Reply = thread.submit(copy_context().run, work, self._site, order).result()
            return reply
        finally:
            self._idle.append(thread)

    async def close(self) -> None:
        left = [asyncio.wrap_future(one.submit(leave, self._site.engine)) for one in self._all]
        for thread in self._all:
            thread.shutdown(wait=False)
        if left:
            await asyncio.wait(left, timeout=GRACE)


_offices: dict[str, _Office] = {}


def work_on(engine: str, order: Order) -> Reply:
    """The task that the cluster runs."""
    return _offices[engine].work(order)


def dask_setup(worker: Any) -> None:
    """Called by dask in the workers of a cluster of our own."""
    lifeline.ignore_stop_signals()


class Service:
    """One object of the services, from any process."""

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._number = number
        self._node: Any = None

    def __getstate__(self) -> tuple[str, int]:
        return self._name, self._number

    def __setstate__(self, state: tuple[str, int]) -> None:
        self._name, self._number = state
        self._node = None

    def attach(self) -> None:
        if self._node is None:
            self._node = get_worker()

    def belong_to(self, client: Any) -> None:
        """Call by way of this client."""
        self._node = client

    def call(self, method: str, *args: object) -> Any:
        return call(self._node, self._name, self._number, method, args)


def call(node: Any, name: str, number: int, method: str, args: tuple[object, ...]) -> Any:
    """Call a service by way of a client or worker.

    Raises:
        ServiceLost: the scheduler is gone.
    """
    if node is None:
        raise ServiceLost("the services have not started")
    if node.status in _ENDED:  # it would try to reach the scheduler for long
        raise ServiceLost("the scheduler is gone")
    request = pickle.dumps((number, method, args), protocol=5)
    try:
        reply = sync(node.loop, _ask, node, name, request)
    except (OSError, ValueError, RuntimeError) as error:
        raise ServiceLost(f"the scheduler does not answer: {error!r}") from None
    succeeded, value = pickle.loads(reply)
    if not succeeded:
        raise value
    return value


async def _ask(node: Any, name: str, request: bytes) -> bytes:
    reply: bytes = await getattr(node.scheduler, name)(request=request)
    return reply
