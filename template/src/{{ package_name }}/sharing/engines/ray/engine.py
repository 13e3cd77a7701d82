"""The engine of ray: actors on a cluster, one a worker.

How a chunk gets to a worker and back (`remote` has the rest of the way):

    idle seat ─▶ its actor, one call at a time ─▶ object ref ─▶ ray.wait
                   │
                   └── gone: the chunk of that seat was on it; another actor takes the seat as
                       soon as the cluster has room for one

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...errors import ServiceLost, SharingError, StartFailed
from ...machine import lifeline
from ...machine.service import Hub, Recipe
from ...patterns.base import Host
from ..driver import GRACE
from ..engine import Engine, available_cores
from ..remote import (
    THREADS,
    WAITING,
    Gone,
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
    return RayEngine(state, workers, address)


class _Desk:
    """The actor of a worker."""

    def __init__(self, site: Site) -> None:
        lifeline.ignore_stop_signals()
        self._site = site

    def ready(self) -> int:
        return os.getpid()

    def work(self, task: Task) -> Reply:
        return work(self._site, task)

    def leave(self) -> None:
        leave(self._site.engine)


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
    def call(self, number: int, method: str, args: tuple[Any, ...]) -> Any:
        return self._hub.call(number, method, args)

    @ray.method(concurrency_group="waiting")  # type: ignore[untyped-decorator]
    def call_and_wait(self, number: int, method: str, args: tuple[Any, ...]) -> Any:
        return self._hub.call(number, method, args)


class _Service:
    """One object of the services, from any process."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.actor: Any = None

    def attach(self) -> None:
        pass

    def call(self, method: str, *args: Any) -> Any:
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
    """See `pattern.Store`."""

    ships_blocks = False

    def publish(self, array: Any) -> _Published:
        return _Published(ray.put(array))


class RayEngine(RemoteEngine[S]):
    """See `Engine`."""

    _handles = _HANDLES

    def __init__(self, state: S, workers: int | None, address: str | None) -> None:
        super().__init__(state, workers or available_cores())
        self._wanted = workers
        self._address = address
        self._started = False
        self._folder: str | None = None
        self._recipes: list[Recipe] = []
        self._clients: list[_Service] = []
        self._hub: Any = None
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, Seat] = {}
        self._coming: dict[Any, Seat] = {}
        self._failed_starts = 0

    def _connect(self) -> Host:
        if not ray.is_initialized():
            self._init()
            self._started = True
        cores = int(ray.cluster_resources().get("CPU", 0))
        self._workers = self._wanted or max(1, cores)
        if self._workers > cores:
            raise SharingError(
                f"{self._workers} workers don't fit into a ray cluster of {cores} cores: ask for "
                "fewer, or add nodes"
            )
        return RemoteHost(self._workers, self._add_service, _Store())

    def _init(self) -> None:
        # What jobs import is found as it is here; a cluster of others has it installed.
        paths = os.pathsep.join(path for path in sys.path if path)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        constants: dict[str, Any]
        if self._address is None:
            _have_a_token()
            # As where it knows no clusters: it listens on the loopback device alone.
            constants = {"ENABLE_RAY_CLUSTER": False}
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            options |= {
                "num_cpus": self._workers,
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
            raise StartFailed(f"no ray cluster at {self._where_it_is}: {_line(error)}") from None
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

    def _open_seats(self, site: Site) -> None:
        self._site = site
        for seat in self._seats.values():
            self._start_actor(seat)
        try:
            ready = [actor.ready.remote() for actor in self._actors.values()]
            ray.get(ready, timeout=_START)
        except ray.exceptions.GetTimeoutError:
            free = ray.available_resources().get("CPU", 0)
            raise StartFailed(
                f"not all of {self._workers} workers have started in {_START:g} s: {free:g} cores "
                "of the ray cluster are free now; ask for fewer, or wait till others have ended"
            ) from None
        except ray.exceptions.RayError as error:
            raise StartFailed(f"a worker did not start: {_line(error)}") from None

    def _start_actor(self, seat: Seat) -> None:
        self._actors[seat.number] = ray.remote(_Desk).options(num_cpus=1).remote(self._site)

    def _replace_actor(self, seat: Seat) -> None:
        """Have another take its seat, when there is room: nothing is sent there before."""
        # One that is only out of reach would keep its core, and a chunk that is run again.
        ray.kill(self._actors[seat.number])
        self._start_actor(seat)
        self._coming[self._actors[seat.number].ready.remote()] = seat

    def _is_free(self, seat: Seat) -> bool:
        return seat not in self._coming.values()

    def _send(self, seat: Seat, task: Task) -> None:
        with self._reaching_it():
            self._pending[self._actors[seat.number].work.remote(task)] = seat

    def _collect(self, timeout: float) -> list[tuple[Seat, Reply | Gone]]:
        refs = [*self._pending, *self._coming]
        if not refs:
            return []
        with self._reaching_it():
            done, _ = ray.wait(refs, num_returns=1, timeout=timeout)
            if done and len(refs) > 1:  # what else is there
                done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in done:
                if ref in self._coming:
                    self._has_come(ref)
            self._look_whether_anybody_is_there(len(self._coming) < self._workers)
            pending = [(ref, self._pending[ref]) for ref in done if ref in self._pending]
            return [(seat, self._outcome(ref)) for ref, seat in pending]

    @contextmanager
    def _reaching_it(self) -> Iterator[None]:
        """Raise if the cluster is gone."""
        try:
            _see_that_it_is_there()
            yield
        except ConnectionError as error:
            what = f"the ray cluster at {self._where_it_is} is gone ({_line(error)})"
            raise self._give_up(what) from None

    def _has_come(self, ref: Any) -> None:
        seat = self._coming.pop(ref)
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise StartFailed(f"a worker did not start: {_line(error)}") from None
            self._replace_actor(seat)
        else:
            self._failed_starts = 0

    def _outcome(self, ref: Any) -> Reply | Gone:
        seat = self._pending.pop(ref)
        try:
            reply: Reply = ray.get(ref)
        except _LOST as error:
            self._replace_actor(seat)
            return Gone(f"on its node ({_line(error)})")
        return reply

    def _end(self, seat: Seat) -> None:
        self._pending = {ref: one for ref, one in self._pending.items() if one is not seat}
        self._replace_actor(seat)

    def _end_workers(self, *, politely: bool) -> None:
        if not ray.is_initialized():
            return
        idle = [
            actor
            for number, actor in self._actors.items()
            if politely and self._seats[number].chunk is None
        ]
        ray.wait(
            [actor.leave.remote() for actor in idle] or [ray.put(None)],
            num_returns=max(1, len(idle)),
            timeout=GRACE,
        )
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._pending.clear()
        self._coming.clear()

    def _close_host(self) -> None:
        if self._hub is not None and ray.is_initialized():
            ray.kill(self._hub)
        self._hub = None
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

    def _forsaken(self) -> None:
        self._end_workers(politely=False)
        self._close_host()


def _init(address: str, options: dict[str, Any]) -> Any:
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
def _constants(values: dict[str, Any]) -> Iterator[None]:
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
