"""The engine of joblib: loky's processes on one machine.

How a chunk gets to a worker and back (`remote` has the rest of the way):

    Send ─▶ loky's executor ─▶ one of its processes ─▶ future ─▶ Arrivals
                 │
                 └── broken: one has died, loky ends all; which one it was, nobody says

So all chunks that were on their way are suspects, and run one at a time: the one that ends the
workers again is to blame. Arrays are where they are, in memory that loky's processes map too.
Services are threads of this process.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client
from multiprocessing.managers import BaseManager
from typing import Any, TypeVar

from joblib.externals.loky.process_executor import (
    BrokenProcessPool,
    ProcessPoolExecutor,
    ShutdownExecutorError,
)

from ...errors import SharingError
from ...machine import lifeline, reasons
from ...machine.service import Hub, Recipe, RemoteService
from ...patterns.base import Pattern
from .. import remote
from ..chunks import UNBEGUN, UNKNOWN, Chunk, ChunkId
from ..crew import CrewEvent, Died, Logged, Sighting
from ..driver import Driver
from ..engine import Engine, available_cores
from ..events import Ready
from ..remote import Arrivals, News, Order, OwnWords, RemoteHost, Reply, Site
from ..runs import Settings

S = TypeVar("S")

_NO_TIMEOUT = (
    "joblib can't end one task and leave the others alone: use the engine 'processes', or let "
    "the job look at the time"
)

_ENDED = (BrokenProcessPool, ShutdownExecutorError)
"""What loky raises when its processes have ended."""

_PAUSE = 0.1
"""Seconds to wait when somebody who came could not be let in: there are too many open files."""


def open_engine(
    state: S, workers: int | None, start_method: str | None, address: str | None
) -> Engine[S]:
    """The engine; see `sharing.open_engine`."""
    for name, value in (("start method", start_method), ("address", address)):
        if value is not None:
            raise SharingError(
                f"the engine 'joblib' has no {name}, and was given {value!r}: leave that out. "
                "loky starts its processes on this machine, in a way of its own"
            )
    if sys.platform != "linux":
        raise SharingError(
            "the engine 'joblib' finds shared memory through /proc, which only Linux has: "
            "use the engine 'processes'"
        )
    count = workers or available_cores()
    return Driver(state, count, JoblibCrew(state, count), remote.SIZES)


class _Served:
    """The objects of services, which threads of this process call for the workers."""

    def __init__(self) -> None:
        self._recipes: list[Recipe] = []
        self._address = f"\0services-{os.urandom(8).hex()}"
        self._key = os.urandom(32)
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self.hub = Hub([])

    def add(self, recipe: Recipe) -> _Service:
        number = len(self._recipes)
        self._recipes.append(recipe)
        return _Service(number, RemoteService(self._address, self._key, OwnWords(1), number), self)

    def start(self) -> None:
        """Listen for the workers, if there is anything to serve."""
        self.hub = hub = Hub(self._recipes)
        if not self._recipes:
            return

        class Serving(BaseManager):
            pass

        Serving.register("hub", callable=lambda: hub, exposed=("answer",))
        self._server = Serving(address=self._server_address, authkey=self._key).get_server()
        self._thread = threading.Thread(target=self._accept, name="services", daemon=True)
        self._thread.start()

    @property
    def _server_address(self) -> str:
        return f"{self._address}-0"

    def _accept(self) -> None:
        """What `serve_forever` does, which would end the process with itself, and can't end."""
        server = self._server
        server.stop_event = self._stopped
        while True:
            try:
                connection = server.listener.accept()
            except OSError:
                if self._stopped.wait(_PAUSE):
                    break
                continue
            if self._stopped.is_set():
                connection.close()
                break
            handler = threading.Thread(
                target=server.handle_request, args=(connection,), name="service", daemon=True
            )
            handler.start()
        server.listener.close()

    def stop(self) -> None:
        """Listen no more."""
        if self._thread is None:
            return
        self._stopped.set()
        with suppress(OSError):  # it waits for somebody to come
            Client(self._server_address).close()
        self._thread.join()
        self._thread = self._server = None


class _Service:
    """One object of the services: here by a plain call, in the workers a `RemoteService`."""

    def __init__(self, number: int, remote: RemoteService, served: _Served) -> None:
        self._number = number
        self._remote = remote
        self._served = served

    def __reduce__(self) -> tuple[object, ...]:
        return _as_it_is, (self._remote,)

    def attach(self) -> None:
        pass

    def call(self, method: str, *args: object) -> Any:
        return self._served.hub.call(self._number, method, args)


def _as_it_is(remote: RemoteService) -> RemoteService:
    return remote


_site: Site | None = None


def _settle_in(site: Site, parent: int) -> None:
    """In a worker, when it has started: its parent may have ended by then."""
    import multiprocessing.util

    global _site
    _site = site
    lifeline.ignore_stop_signals()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    multiprocessing.util.Finalize(None, remote.leave, (site.engine,), exitpriority=10)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(order: Order) -> Reply:
    assert _site is not None
    return remote.work(_site, order)


@dataclass(eq=False)
class _Sent:
    """A chunk that is on its way."""

    id: ChunkId
    since: int


@dataclass(frozen=True)
class _Ended:
    """What was sent has come to its end."""

    slot: int
    sent: _Sent
    executor: ProcessPoolExecutor
    future: Future[Reply]


class JoblibCrew:
    """See `Crew`."""

    def __init__(self, state: object, workers: int) -> None:
        self.workers = self.eager = workers
        self._state = state
        self._served = _Served()
        self._news = News([])
        self._site: Site | None = None
        self._executor: ProcessPoolExecutor | None = None
        self._out: dict[int, _Sent] = {}
        self._arrivals: Arrivals[Ready | Died | _Ended] = Arrivals()
        self._pid = os.getpid()

    # Opening and closing

    def open(self, patterns: list[Pattern]) -> None:
        host = RemoteHost(self.workers, self._served.add)
        remote.open_patterns(patterns, host, self._served.start)
        self._news = News(patterns)
        self._site = remote.site_of(remote.name_of_engine(), self._state, patterns)
        self._executor = self._new_executor()

    def _new_executor(self) -> ProcessPoolExecutor:
        limits = lifeline.limits_of(max(1, available_cores() // self.workers))
        return ProcessPoolExecutor(
            self.workers, initializer=_settle_in, initargs=(self._site, self._pid), env=limits
        )

    def end(self, *, politely: bool) -> Iterable[CrewEvent]:
        if self._executor is None or os.getpid() != self._pid:
            return []
        executor, self._executor = self._executor, None
        executor.shutdown(wait=True, kill_workers=not politely or bool(self._out))
        came: list[CrewEvent] = []
        with suppress(SharingError):
            came += (one for one in self._take(0.0) if isinstance(one, Logged))
        return [*came, *(Died(slot, UNKNOWN, "by its engine") for slot in self._out)]

    def close(self) -> None:
        self._served.stop()
        # What is shared is not to hang on what refers to itself, as this does.
        self._state, self._site, self._news = None, None, News([])

    def forsake(self) -> None:
        self.end(politely=False)
        self.close()

    # Workers

    def start(self, slot: int) -> None:
        self._arrivals.put(Ready(slot))  # loky starts its processes when there is work

    def send(self, slot: int, chunk_id: ChunkId, chunk: Chunk) -> None:
        order = remote.order_of(slot, chunk_id, chunk, self._news)
        executor = self._executor
        assert executor is not None
        try:
            future = executor.submit(_work, order)
        except _ENDED as error:
            self._renew(executor)
            self._arrivals.put(Died(slot, UNBEGUN, _how(str(error))))
            return
        sent = self._out[slot] = _Sent(chunk_id, time.monotonic_ns())
        future.add_done_callback(
            lambda done: self._arrivals.put(_Ended(slot, sent, executor, done))
        )

    def stop(self, slot: int) -> None:
        """It can't be said."""

    def kill(self, slot: int) -> None:
        executor = self._executor
        if executor is not None and slot in self._out:
            # None can be ended alone. What others had is found to have ended with them.
            executor.shutdown(wait=True, kill_workers=True)

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
        return self._take(timeout)

    def _take(self, timeout: float) -> list[CrewEvent]:
        came: list[CrewEvent] = []
        for arrival in self._arrivals.take(timeout):
            if isinstance(arrival, _Ended):
                came += self._outcome(arrival)
            else:
                came.append(arrival)
        return came

    def _outcome(self, ended: _Ended) -> list[CrewEvent]:
        slot, sent = ended.slot, ended.sent
        del self._out[slot]
        error = ended.future.exception()
        if error is None:
            return remote.events_of(slot, sent.id, ended.future.result())
        if isinstance(error, _ENDED):
            self._renew(ended.executor)
        return [Died(slot, UNKNOWN, _how(str(error)), in_company=self.workers > 1)]

    def _renew(self, broken: ProcessPoolExecutor) -> None:
        """Have another one in the place of what is broken, if nobody has done so yet."""
        is_new = broken is self._executor
        if is_new:
            broken.shutdown(wait=True)  # the innocent are ended by now, too
            self._executor = self._new_executor()


def _how(text: str) -> str:
    """How workers ended, from what loky says of all of them."""
    codes = {int(code) for code in re.findall(r"\w+\((-?\d+)\)", text)}
    return reasons.death(codes.pop()) if len(codes) == 1 else "in one of several ways"
