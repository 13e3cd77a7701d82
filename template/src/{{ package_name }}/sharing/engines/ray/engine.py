"""The engine of ray: actors on a cluster, one a worker.

How a chunk gets to a worker and back (`remote` has the rest of the way):

    Send ─▶ the actor in that slot, one call at a time ─▶ object ref ─▶ future ─▶ Arrivals
              │
              └── gone: the chunk of that slot was on it; another actor takes its place as soon
                  as the cluster has room for one

Futures end in threads of ray's, with `ray://` as without, so whoever polls waits for them and for
all else at the same place.

Services are one more actor, on the node of the driver, that takes no core. There, calls that wait
for a lease have threads of their own, so that none of those that give one back stands behind
them. Arrays are in the object store, which the workers of a node read without copying.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...errors import ServiceLost, SharingError, StartFailed
from ...machine import lifeline
from ...machine.service import Hub, Recipe
from ...patterns.base import Pattern
from .. import remote
from ..chunks import NO_CHUNK, UNBEGUN, UNKNOWN, Chunk, ChunkId, Place
from ..crew import CrewEvent, Died, Logged, Sighting
from ..driver import GRACE, Driver
from ..engine import Engine, available_cores
from ..events import Ready
from ..remote import THREADS, WAITING, Arrivals, Company, News, Order, RemoteHost, Reply, Site
from ..runs import Settings

S = TypeVar("S")

_HANDLES: tuple[type, ...] = (ray.ObjectRef, ActorHandle)
with suppress(ImportError):  # those of `ray://`, for which the extra of ray's has to be there
    from ray.util.client.common import ClientActorHandle, ClientObjectRef

    _HANDLES += (ClientActorHandle, ClientObjectRef)

_START = 60.0
"""Seconds that a worker may take until it is there, when the engine opens."""

_ANSWER = 10.0
"""Seconds that a host may take to answer."""

_CONNECTS = 3
"""How often a server of `ray://` may be asked that fails."""

_STARTS = 3
"""How many workers may fail, one after the other, before they are ready."""

QUIET = 1.0
"""Seconds without a word from a worker after which it is asked, before it gets a chunk, whether it
is still there: ray tells of the end of an actor only those who have called it."""

_LOST = (
    ray.exceptions.RayActorError,  # the actor is gone, or out of reach
    ray.exceptions.ObjectLostError,  # it had ended, and what it returned is gone with its node
    ray.exceptions.NodeDiedError,
)


def open_engine(
    state: S, workers: int | None, start_method: str | None, address: str | None
) -> Engine[S]:
    """The engine; see `sharing.open_engine`."""
    if start_method is not None:
        raise SharingError(
            f"the engine 'ray' has no start method, and was given {start_method!r}: leave that out"
        )
    crew = RayCrew(state, workers, address)
    return Driver(state, crew.workers, crew, remote.SIZES)


class _Desk:
    """The actor of a worker."""

    def __init__(self, site: Site) -> None:
        lifeline.ignore_stop_signals()
        self._site = site

    def ready(self) -> None:
        """Say that it is there."""

    def work(self, order: Order) -> Reply:
        return remote.work(self._site, order)

    def leave(self) -> None:
        remote.leave(self._site.engine)


class _Services:
    """The actor of the services."""

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        lifeline.ignore_stop_signals()
        self._hub = Hub(recipes)
        # Ray makes a dead actor anew: what may forget goes on, and no other state begins again.
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._hub.keep_only_what_may_forget()

    # Two groups of threads: those who wait for something don't hold up those who give it back.
    @ray.method(concurrency_group="quick")  # type: ignore[untyped-decorator]
    def call(self, number: int, method: str, args: tuple[object, ...]) -> object:
        return self._hub.call(number, method, args)

    @ray.method(concurrency_group="waiting")  # type: ignore[untyped-decorator]
    def call_and_wait(self, number: int, method: str, args: tuple[object, ...]) -> object:
        return self._hub.call(number, method, args)


class _Service:
    """One object of the services, from any process."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.actor: Any = None

    def attach(self) -> None:
        pass

    def call(self, method: str, *args: object) -> Any:
        if self.actor is None:
            raise ServiceLost("the actor of the services has not started")
        try:
            _see_that_it_is_there()
            called = self.actor.call_and_wait if method in WAITING else self.actor.call
            return ray.get(called.remote(self._number, method, args))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise ServiceLost(f"the actor of the services is gone: {_line(error)}") from None
        except ConnectionError as error:
            raise ServiceLost(f"ray is out of reach: {_line(error)}") from None


@dataclass(frozen=True)
class _Published:
    """In the parent and in the workers."""

    ref: Any
    lost: bool = False  # ray keeps it with the driver

    def fetch(self) -> Any:
        return ray.get(self.ref)


class _Store:
    """See `patterns.base.Store`."""

    ships_blocks = False

    def publish(self, array: object) -> _Published:
        return _Published(ray.put(array))


@dataclass(eq=False)
class _Worker:
    """An actor, in its slot.

    Attributes:
        slot: its slot.
        actor: the handle.
        is_ready: whether it has said so.
        heard: when it said something last, in seconds of the monotonic clock.
        chunk: the number of the one that it has.
        since: when that was handed over, in ns of the monotonic clock.
        order: what it will be sent when it has said that it is still there.
        is_killed: whether it was ended by its engine.
    """

    slot: int
    actor: Any
    is_ready: bool = False
    heard: float = 0.0
    chunk: ChunkId = NO_CHUNK
    since: int = 0
    order: Order | None = None
    is_killed: bool = False


class _Came(NamedTuple):
    """A call of an actor has ended: ``ready``, or ``work``."""

    worker: _Worker
    future: Future[Reply | None]

    @property
    def reply(self) -> Reply | None:
        """What a chunk has come to, if it was one that has come to its end."""
        return None if self.future.exception() else self.future.result()


class RayCrew:
    """See `Crew`."""

    def __init__(self, state: object, workers: int | None, address: str | None) -> None:
        self.workers = workers or available_cores()
        self._wanted = workers
        self._address = address
        self._state = state
        self._started = False
        self._folder: str | None = None
        self._recipes: list[Recipe] = []
        self._clients: list[_Service] = []
        self._hub: Any = None
        self._news = News([])
        self._new_actor: Callable[[], Any] | None = None
        self._team: dict[int, _Worker] = {}
        self._arrivals: Arrivals[_Came] = Arrivals()
        self._company = Company()
        self._failed_starts = 0
        self._opened_at = 0.0
        self._all_came = False

    @property
    def eager(self) -> int:
        """See `Crew`."""
        return self.workers

    # Opening and closing

    def open(self, patterns: list[Pattern]) -> None:
        self._connect()
        host = RemoteHost(self.workers, self._add_service, _Store())
        remote.open_patterns(patterns, host, self._serve)
        self._news = News(patterns)
        site = remote.site_of(remote.name_of_engine(), self._state, patterns, _HANDLES)
        desk = ray.remote(_Desk).options(num_cpus=1)
        self._new_actor = lambda: desk.remote(site)
        self._opened_at = time.monotonic()

    def _connect(self) -> None:
        if not ray.is_initialized():
            self._init()
            self._started = True
        cores = int(ray.cluster_resources().get("CPU", 0))
        self.workers = self._wanted or max(1, cores)
        if self.workers > cores:
            raise SharingError(
                f"{self.workers} workers don't fit into a ray cluster of {cores} cores: ask for "
                "fewer, or add nodes"
            )

    def _init(self) -> None:
        # What jobs import is found as it is here; a cluster of others has it installed.
        paths = os.pathsep.join(path for path in sys.path if path)
        options: dict[str, object] = {"log_to_driver": False, "logging_level": "ERROR"}
        constants: dict[str, object]
        if self._address is None:
            _have_a_token()
            # As where it knows no clusters: it listens on the loopback device alone.
            constants = {"ENABLE_RAY_CLUSTER": False}
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            options |= {
                "num_cpus": self.workers,
                "include_dashboard": False,
                "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
            }
        else:
            # A cluster that comes up takes some of its tries, a second each; where none is, each of
            # them takes half a minute.
            constants = {"NUM_REDIS_GET_RETRIES": 5}
        try:
            _knock_at(self._address)
            with _as_it_was(), _constants(constants):
                # Without an address it would join a cluster that it finds on this machine.
                session = _init(self._address or "local", options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise StartFailed(f"no ray cluster at {self._where}: {_line(error)}") from None
        if self._address is None:
            self._folder = session.address_info["session_dir"]

    def _add_service(self, recipe: Recipe) -> _Service:
        self._recipes.append(recipe)
        self._clients.append(_Service(len(self._recipes) - 1))
        return self._clients[-1]

    def _serve(self) -> None:
        if not self._recipes:
            return
        here = ray.get_runtime_context().get_node_id()
        actor: Any = ray.remote(
            num_cpus=0,
            max_restarts=-1,
            concurrency_groups={"waiting": THREADS, "quick": THREADS},
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )(_Services)
        self._hub = actor.remote(self._recipes)
        for client in self._clients:
            client.actor = self._hub

    @property
    def _where(self) -> str:
        return self._address or "this machine"

    def end(self, *, politely: bool) -> Iterable[CrewEvent]:
        team, self._team = self._team, {}
        with suppress(ConnectionError):  # there is nobody to end
            _see_that_it_is_there()
            if politely:
                idle = [one for one in team.values() if one.is_ready and one.chunk == NO_CHUNK]
                futures.wait([one.actor.leave.remote().future() for one in idle], GRACE)
            for worker in team.values():
                ray.kill(worker.actor)
        replies = [reply for came in self._arrivals.take(0.0) if (reply := came.reply)]
        busy = [worker.slot for worker in team.values() if worker.chunk != NO_CHUNK]
        return [
            *(Logged(record) for reply in replies for record in reply.records),
            *(Died(slot, UNKNOWN, "by its engine") for slot in busy),
        ]

    def close(self) -> None:
        if self._hub is not None and ray.is_initialized():
            ray.kill(self._hub)
        self._hub = None
        # What is shared is not to hang on what refers to itself, as this does.
        self._state, self._new_actor, self._news = None, None, News([])
        if self._started:
            self._started = False
            with _as_it_was():
                ray.shutdown()
        folder, self._folder = self._folder, None
        if folder is not None:  # ray leaves its own logs of each session
            shutil.rmtree(folder, ignore_errors=True)
            latest = Path(folder).with_name("session_latest")
            with suppress(OSError):  # it is no link, or another session's
                if latest.readlink() == Path(folder):
                    latest.unlink()

    def forsake(self) -> None:
        self.end(politely=False)
        self.close()

    # Workers

    def start(self, slot: int) -> None:
        assert self._new_actor is not None
        with self._reaching_it():
            worker = self._team[slot] = _Worker(slot, self._new_actor())
            self._call(worker, worker.actor.ready)

    def send(self, slot: int, chunk_id: ChunkId, chunk: Chunk) -> None:
        worker = self._team[slot]
        order = remote.order_of(slot, chunk_id, chunk, self._news)
        worker.chunk, worker.since = chunk_id, time.monotonic_ns()
        with self._reaching_it():
            if time.monotonic() - worker.heard < QUIET:
                self._call(worker, worker.actor.work, order)
            else:
                worker.order = order
                self._call(worker, worker.actor.ready)

    def _call(self, worker: _Worker, method: Any, *args: Order) -> None:
        """Call an actor; what comes of it arrives."""
        self._fetch(worker, method.remote(*args))

    def _fetch(self, worker: _Worker, ref: Any) -> None:
        future: Future[Reply | None] = ref.future()
        future.add_done_callback(lambda done: self._arrivals.put(_Came(worker, done)))

    @contextmanager
    def _reaching_it(self) -> Iterator[None]:
        """Raise if the cluster is gone."""
        try:
            _see_that_it_is_there()
            yield
        except ConnectionError as error:
            what = f"the ray cluster at {self._where} is gone ({_line(error)})"
            raise remote.lost(what) from None

    def stop(self, slot: int) -> None:
        """It can't be said."""

    def kill(self, slot: int) -> None:
        worker = self._team[slot]
        worker.is_killed = True
        with self._reaching_it():
            ray.kill(worker.actor)  # which ends its call, if that has not ended by now

    def sight(self, slot: int, chunk_id: ChunkId) -> Sighting:
        return remote.sighting(self._team[slot].since)

    def adapt(self, settings: Settings) -> Settings:
        if settings.timeout is None:
            return settings
        return settings._replace(chunk_size=1)  # the time of a chunk is that of its item

    def dumps(self, value: object) -> bytes:
        return remote.dumps(value)

    # Events

    def wake(self) -> None:
        self._arrivals.wake()

    def poll(self, timeout: float) -> list[CrewEvent]:
        came: list[CrewEvent] = []
        arrivals = self._arrivals.take(timeout)
        with self._reaching_it():
            for arrival in arrivals:
                came += self._take(arrival)
            self._look()
        return came

    def _take(self, arrival: _Came) -> list[CrewEvent]:
        worker, reply = arrival.worker, arrival.reply
        if (error := arrival.future.exception()) is not None:
            return [self._bury(worker, error)]
        worker.heard = time.monotonic()
        came: list[CrewEvent] = []
        if reply is not None:
            chunk_id, worker.chunk = worker.chunk, NO_CHUNK
            came += remote.events_of(worker.slot, chunk_id, reply)
        elif not worker.is_ready:
            worker.is_ready = True
            self._failed_starts = 0
            came.append(Ready(worker.slot))
        elif worker.order is not None and not worker.is_killed:
            order, worker.order = worker.order, None
            worker.since = time.monotonic_ns()
            self._call(worker, worker.actor.work, order)
        if worker.is_killed:
            came.append(self._gone(worker, UNBEGUN, "by its engine"))
        return came

    def _bury(self, worker: _Worker, error: BaseException) -> Died:
        """An actor is gone, and perhaps for what it was given."""
        if not isinstance(error, _LOST if worker.is_ready else ray.exceptions.RayError):
            raise error
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise StartFailed(f"a worker did not start: {_line(error)}")
        # One that is only out of reach would keep its core, and a chunk that is run again.
        ray.kill(worker.actor)
        has_begun = worker.is_ready and worker.order is None
        place = UNKNOWN if has_begun else UNBEGUN
        return self._gone(worker, place, f"on its node ({_line(error)})")

    def _gone(self, worker: _Worker, place: Place, how: str) -> Died:
        del self._team[worker.slot]
        return Died(worker.slot, place, how)

    def _look(self) -> None:
        """See that somebody is there, and when it opens, that everybody comes."""
        ready = sum(worker.is_ready for worker in self._team.values())
        self._all_came = self._all_came or ready == self.workers
        if self._all_came:
            self._company.look(ready > 0)
        elif time.monotonic() - self._opened_at > _START:
            free = ray.available_resources().get("CPU", 0)
            raise StartFailed(
                f"not all of {self.workers} workers have started in {_START:g} s: {free:g} cores "
                "of the ray cluster are free now; ask for fewer, or wait till others have ended"
            )


def _init(address: str, options: dict[str, object]) -> Any:
    """Connect, or start a cluster.

    A server of `ray://` forks for each client, while threads of its own are at work: now and then
    that fails, and the next time it doesn't.
    """
    for _ in range(_CONNECTS - 1):
        try:
            return ray.init(address, **options)
        except ConnectionError as error:
            if "Initialization failure" not in str(error):
                raise
    return ray.init(address, **options)


def _see_that_it_is_there() -> None:
    """To be asked before any call: after a loss, that would look for another cluster without end.

    Raises:
        ConnectionError: it is gone, or has been left.
    """
    if not ray.is_initialized():
        raise ConnectionError("it has been left")


def _have_a_token() -> None:
    """Give ray one for a cluster of its own, whose ports others on this machine reach.

    It would make one by itself, and keep it in the home directory.
    """
    settings = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    is_kept = False
    with suppress(RuntimeError):  # there is no home directory
        is_kept = Path("~/.ray/auth_token").expanduser().exists()
    if not is_kept and not any(name in os.environ for name in settings):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _knock_at(address: str | None) -> None:
    """See at once whether anybody is there, if it names a host and a port.

    Raises:
        OSError: nobody is.
        ValueError: it is no address.
    """
    if address is not None:
        place = urlsplit(address if "//" in address else f"//{address}")
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=_ANSWER).close()


@contextmanager
def _constants(values: dict[str, object]) -> Iterator[None]:
    """Have ray take these for what it reads from the environment when it is imported."""
    module: Any = sys.modules["ray._private.ray_constants"]
    before = {name: getattr(module, name, None) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Have ray take no signal, and print nothing of its own.

    It shows on stdout what its nodes report, such as each death of a worker, and no setting keeps
    it from that. Here the engine says what has to be said.
    """
    in_charge = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    module: Any = sys.modules["ray._private.worker"]
    listen = getattr(module, "listen_error_messages", None)
    module.listen_error_messages = _do_nothing
    try:
        yield
    finally:
        if listen is not None:
            module.listen_error_messages = listen
        if in_charge:
            signal.signal(signal.SIGTERM, before)


def _do_nothing(*_: object) -> None:
    pass


def _line(error: BaseException) -> str:
    """The first line of what ray has to say."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
