"""The engine of joblib: loky's processes on one machine.

How a chunk gets to a worker and back (`remote` has the rest of the way):

    idle seat ─▶ loky's executor ─▶ one of its processes ─▶ future ─▶ _came
                      │
                      └── broken: one has died, loky ends all; which one it was, nobody says

So all chunks that were on their way are suspects, and run one at a time: the one that ends the
workers again is to blame. Arrays are where they are, in memory that loky's processes map too.
Services are threads of this process.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
import time
from concurrent.futures import Future
from multiprocessing.managers import BaseManager
from typing import Any, TypeVar

from joblib.externals.loky.process_executor import ProcessPoolExecutor

from ...errors import SharingError
from ...machine import lifeline
from ...machine.service import Hub, Recipe, RemoteService
from ...patterns.base import Host
from ..driver import death
from ..engine import Engine, available_cores
from ..remote import (
    Gone,
    OwnWords,
    RemoteEngine,
    RemoteHost,
    Reply,
    Seat,
    Site,
    Task,
    leave,
    work,
)

S = TypeVar("S")


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
    return JoblibEngine(state, workers or available_cores())


class _Served:
    """The objects of services, which threads of this process call for the workers."""

    def __init__(self) -> None:
        self._recipes: list[Recipe] = []
        self._address = f"\0services-{os.urandom(8).hex()}"
        self._key = os.urandom(32)
        self._server: Any = None
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
        server: Any = Serving(address=f"{self._address}-0", authkey=self._key).get_server()
        # `serve_forever` would end the process with itself: this is the part of it that serves.
        server.stop_event = threading.Event()
        threading.Thread(target=server.accepter, name="services", daemon=True).start()
        self._server = server

    def stop(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.stop_event.set()
            server.listener.close()


class _Service:
    """One object of the services: here by a plain call, in the workers a `RemoteService`."""

    def __init__(self, number: int, remote: RemoteService, served: _Served) -> None:
        self._number = number
        self._remote = remote
        self._served = served

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_is, (self._remote,)

    def attach(self) -> None:
        pass

    def call(self, method: str, *args: Any) -> Any:
        return self._served.hub.call(self._number, method, args)


def _as_it_is(remote: RemoteService) -> RemoteService:
    return remote


_site: Site | None = None


def _settle_in(site: Site) -> None:
    """In a worker, when it has started."""
    import multiprocessing.util

    global _site
    _site = site
    lifeline.ignore_stop_signals()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    multiprocessing.util.Finalize(None, leave, (site.engine,), exitpriority=10)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(task: Task) -> Reply:
    assert _site is not None
    return work(_site, task)


class JoblibEngine(RemoteEngine[S]):
    """See `Engine`."""

    _no_timeout = (
        "joblib can't end one task and leave the others alone: use the engine 'processes', or let "
        "the job look at the time"
    )

    def __init__(self, state: S, workers: int) -> None:
        super().__init__(state, workers)
        self._executor: Any = None
        self._served = _Served()
        self._came: queue.SimpleQueue[tuple[Seat, int, Future[Reply]]] = queue.SimpleQueue()

    def _connect(self) -> Host:
        return RemoteHost(self._workers, self._served.add)

    def _serve(self) -> None:
        self._served.start()

    def _open_seats(self, site: Site) -> None:
        self._site = site
        self._start_executor()

    def _start_executor(self) -> None:
        limits = lifeline.limits_of(max(1, available_cores() // self._workers))
        self._executor = ProcessPoolExecutor(
            self._workers, initializer=_settle_in, initargs=(self._site,), env=limits
        )

    def _send(self, seat: Seat, task: Task) -> None:
        future = self._executor.submit(_work, task)
        future.add_done_callback(lambda done: self._came.put((seat, task.chunk, done)))

    def _collect(self, timeout: float) -> list[tuple[Seat, Reply | Gone]]:
        came: list[tuple[Seat, Reply | Gone]] = []
        wait = timeout > 0
        while True:
            try:
                seat, number, future = self._came.get(wait, timeout or None)
            except queue.Empty:
                return came
            wait = False
            if seat.chunk is not None and seat.task == number:
                came.append((seat, self._outcome(future)))

    def _outcome(self, future: Future[Reply]) -> Reply | Gone:
        error = future.exception()
        if error is None:
            return future.result()
        if self._executor is not None and not self._closing:
            self._executor.shutdown(wait=True)  # the innocent are ended by now, too
            self._start_executor()
        return Gone(_how(str(error)), in_company=self._workers > 1)

    def _idle(self) -> Seat | None:
        busy = [seat.chunk for seat in self._seats.values() if seat.chunk is not None]
        if busy and (self._suspects_wait or any(chunk.suspect for chunk in busy)):
            return None
        return super()._idle()

    def _end_workers(self, *, politely: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=not politely or self._is_busy())
            self._executor = None

    def _close_host(self) -> None:
        self._served.stop()

    def _forsaken(self) -> None:
        self._end_workers(politely=False)
        self._close_host()


def _how(text: str) -> str:
    """How workers ended, from what loky says of all of them."""
    codes = {int(code) for code in re.findall(r"\w+\((-?\d+)\)", text)}
    return death(codes.pop()) if len(codes) == 1 else "in one of several ways"
