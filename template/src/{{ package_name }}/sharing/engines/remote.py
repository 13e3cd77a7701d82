"""What engines have in common whose workers share no memory with the parent.

How a chunk gets to a worker and back (`driver` has the rest of the way):

    Run ─ chunk ─▶ idle seat ─ task of the engine's ─▶ a desk of that process ─▶ answer
     ▲                 │
     └── again ◀── its worker is gone: in halves, till the item is alone that kills

A seat is the right to have one chunk on its way; the engine decides where that runs. There, each
thread has a desk of its own (the state, attached), for a process may work on several chunks at
once. What is shared beyond results and deltas is with services, which live
where the run can't survive anyway.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pickle
import threading
import time
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import cloudpickle

from ..errors import ItemTimeout, SharingError, StartFailed, StateLost
from ..machine.primitives import Mutex, Service
from ..machine.service import Recipe
from ..patterns.base import Host, Store, travelling
from .desk import LINE, Answer, Desk, Failure, describe
from .driver import TICK, Driver, levels_of_loggers, log_here, unfit_field
from .runs import Chunk, Run, Sizes

S = TypeVar("S")

GIVE_BACK = 1.0
"""Seconds after which a worker gives back the items of its chunk that it has not begun."""

ALONE = 60.0
"""Seconds after which one gives up who has no worker any more."""

THREADS = 256
"""How many calls of each kind the host of services that has threads for both has under way."""

WAITING = ("ask", "take")
"""The calls of services that may wait for what somebody else has. Those that give it back must
not stand behind them."""


class OwnWords:
    """The words of a host that shares none: each process has its own, zero at first."""

    def __init__(self, count: int) -> None:
        self.view = memoryview(array("q", bytes(8 * count)))

    def __reduce__(self) -> tuple[type[OwnWords], tuple[int]]:
        return OwnWords, (len(self.view),)


class RemoteHost:
    """See `pattern.Host`. ``service`` is the engine's own."""

    is_shared = False

    def __init__(
        self, seats: int, serve: Callable[[Recipe], Service], store: Store | None = None
    ) -> None:
        self.slots = seats + 1
        self.store = store
        self._serve = serve

    def words(self, count: int) -> OwnWords:
        return OwnWords(count)

    def mutex(self, kind: str) -> Mutex:
        leases = importlib.import_module(
            "..patterns.leases", __package__
        )  # not there if nobody needs it
        mutex: Mutex = leases.LeaseMutex(self.service(leases.LeaseStore))
        return mutex

    def service(self, factory: Callable[..., object], *args: object) -> Service:
        return self._serve((factory, args))


class Task(NamedTuple):
    """What travels to a worker with a chunk.

    Attributes:
        seat: the one that it has.
        chunk: its number.
        origin: the number of its map, and that of its first item.
        news: what patterns have to hear before, by their places.
        job: pickled.
        items: pickled.
    """

    seat: int
    chunk: int
    origin: tuple[int, int]
    news: dict[int, Any]
    job: bytes
    items: bytes


class Reply(NamedTuple):
    """What comes back.

    Attributes:
        answer: what came of the items.
        unreadable: if nothing did, why they could not be read;
        unfit: or why this process can't have the state.
        records: what was logged.
    """

    answer: Answer | None = None
    unreadable: Failure | None = None
    unfit: Failure | None = None
    records: Sequence[bytes] = ()


@dataclass(frozen=True)
class Site:
    """What a worker must know of an engine before its first chunk.

    Attributes:
        engine: its name, like no other.
        state: pickled.
        handles: what the state refers to that only the engine's own pickling can send.
        levels: of loggers.
    """

    engine: str
    state: bytes
    handles: list[Any]
    levels: dict[str, int]


class _Pickler(cloudpickle.Pickler):
    """Pickles a state, and sets the handles in it apart."""

    def __init__(self, file: io.BytesIO, handles: tuple[type, ...]) -> None:
        super().__init__(file, protocol=5)
        self._types = handles
        self.handles: list[Any] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, self._types):
            return None
        self.handles.append(value)
        return len(self.handles) - 1


class _Unpickler(pickle.Unpickler):
    """Puts a state together again."""

    def __init__(self, site: Site) -> None:
        super().__init__(io.BytesIO(site.state))
        self._handles = site.handles

    def persistent_load(self, number: int) -> Any:
        return self._handles[number]


class _Desks(threading.local):
    """The desk of each engine in this thread: what a job keeps may belong to its thread."""

    def __init__(self) -> None:
        self.by_engine: dict[str, Desk] = {}


_desks = _Desks()


def work(site: Site, task: Task) -> Reply:
    """In a worker: what an engine has to run with a task."""
    records: list[bytes] = []
    try:
        desk = _desk_of(site)
    except BaseException as error:
        return Reply(unfit=describe(error))
    with _recording(records, f"worker-{task.seat}"):
        return _answer(desk, task, records)


def _desk_of(site: Site) -> Desk:
    desk = _desks.by_engine.get(site.engine)
    if desk is not None:
        return desk
    for name, level in site.levels.items():
        logging.getLogger(name).setLevel(level)
    line = memoryview(array("q", bytes(8 * LINE)))
    state = _Unpickler(site).load()
    desk = Desk(state, 1, line, give_back=GIVE_BACK, dumps=cloudpickle.dumps)
    desk.attach()
    _desks.by_engine[site.engine] = desk
    return desk


def _answer(desk: Desk, task: Task, records: list[bytes]) -> Reply:
    desk.slot = task.seat
    desk.begins(task.chunk)
    try:
        job, items = pickle.loads(task.job), pickle.loads(task.items)
    except BaseException as error:
        return Reply(unreadable=describe(error), records=records)
    for place, news in task.news.items():
        desk.patterns[place].hear(news)
    answer = desk.work(task.chunk, task.origin, False, {}, job, items)
    return Reply(answer, records=records)


def leave(engine: str) -> None:
    """In a worker, in a thread that worked for it: that engine has closed."""
    desk = _desks.by_engine.pop(engine, None)
    if desk is not None:
        desk.detach()


class _Recorder(logging.Handler):
    """Keeps what the jobs of this process log, for the parent."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        found = getattr(self._threads, "records", None)
        if found is None:
            return
        record.processName = self._threads.name
        record.message = record.msg = record.getMessage()
        record.args = None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        found.append(pickle.dumps(record, protocol=5))

    @contextlib.contextmanager
    def recording(self, records: list[bytes], name: str) -> Iterator[None]:
        self._threads.records, self._threads.name = records, name
        try:
            yield
        finally:
            self._threads.records = None


_recorder = _Recorder()


@contextlib.contextmanager
def _recording(records: list[bytes], name: str) -> Iterator[None]:
    root = logging.getLogger()
    if _recorder not in root.handlers:
        root.addHandler(_recorder)
    with _recorder.recording(records, name):
        yield


@dataclass
class Seat:
    """The right to have a chunk on its way.

    Attributes:
        number: from 1.
        chunk: the one that is, if one is.
        task: its number.
        since: when it was handed over, by the monotonic clock.
    """

    number: int
    chunk: Chunk | None = None
    task: int = 0
    since: float = 0.0


@dataclass(frozen=True)
class Gone:
    """A worker is gone with what it had.

    Attributes:
        how: such as "by SIGKILL".
        in_company: whether it may have been another chunk that ended it.
    """

    how: str
    in_company: bool = False


class RemoteEngine(Driver[S]):
    """See `Engine`. A subclass says what is abstract here, in the terms of its engine."""

    # The way of a chunk takes milliseconds, so there are to be few of them: also at first.
    _sizes = Sizes(items=1 << 20, seconds=0.2, least=0.25, growth=64)
    _handles: ClassVar[tuple[type, ...]] = ()
    """The types of what only the engine's own pickling can send."""
    _address: str | None = None
    """Of a cluster that runs already."""
    _no_timeout: ClassVar[str] = ""
    """Why an item can't be ended here that takes too long; "" where it can."""

    def __init__(self, state: S, workers: int) -> None:
        super().__init__(state, workers)
        self.name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._seats: dict[int, Seat] = {}
        self._news: dict[int, tuple[Run[Any], dict[int, Any]]] = {}
        self._alone_since: float | None = None

    # What an engine says

    @abstractmethod
    def _connect(self) -> Host:
        """Reach the cluster, or start one; set how many workers there are."""

    @abstractmethod
    def _open_seats(self, site: Site) -> None:
        """Called when the state can travel."""

    @abstractmethod
    def _send(self, seat: Seat, task: Task) -> None:
        """Have `work(site, task)` run on a worker that is idle."""

    @abstractmethod
    def _collect(self, timeout: float) -> list[tuple[Seat, Reply | Gone]]:
        """What has come back, after that many seconds at most."""

    @property
    def _where_it_is(self) -> str:
        return self._address or "this machine"

    def _give_up(self, what: str) -> StateLost:
        """Wait for nobody when it closes, since the cluster is gone: what to raise then."""
        self._dead = True
        return StateLost(f"{what}, and with it what the workers shared: run all of it again")

    def _look_whether_anybody_is_there(self, there: bool) -> None:
        """Raise if no worker has been for long: called now and then by engines that wait for one.

        Raises:
            SharingError: nobody has come.
        """
        if there:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > ALONE:
            raise SharingError(
                f"all workers of the cluster are gone, and none has come for {ALONE:g} s: see what "
                "has become of it, and run all of it again"
            )

    def _end(self, seat: Seat) -> None:
        """End the worker of a seat whose item takes too long."""
        raise NotImplementedError

    # Opening and closing

    def _start(self) -> None:
        host = self._connect()
        for pattern in self._patterns:
            pattern.open(host)
            pattern._is_open = True
        self._serve()
        for pattern in self._patterns:
            pattern.opened()
        self._seats = {number: Seat(number) for number in range(1, host.slots)}
        try:
            with travelling(), io.BytesIO() as file:
                pickler = _Pickler(file, self._handles)
                pickler.dump(self._state)
                state = file.getvalue()
        except SharingError:
            raise
        except Exception as error:  # any: a class may raise what it likes when it is pickled
            raise unfit_field(self._state, self._patterns, error) from None
        self._open_seats(Site(self.name, state, pickler.handles, levels_of_loggers()))

    def _serve(self) -> None:
        """Called when all that asks for a service has done so."""

    # Events

    def _pump(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while True:
            left = min(TICK, max(0.0, end - time.monotonic()))
            came = self._collect(self._until_late(left))
            with self._critical:
                try:
                    for seat, reply in came:
                        self._receive(seat, reply)
                    self._end_late()
                except BaseException:
                    self._dead = True  # nothing here can be relied on: don't listen again
                    raise
            if came or time.monotonic() >= end or not self._is_busy():
                return

    def _receive(self, seat: Seat, reply: Reply | Gone) -> None:
        chunk, seat.chunk = seat.chunk, None
        if chunk is None:
            return
        chunk.run.running -= 1
        if isinstance(reply, Gone):
            self._bury(seat, chunk, reply)
            return
        for record in reply.records:
            log_here(record)
        if reply.unfit is not None:
            error_type, text, trace = reply.unfit
            raise StartFailed(
                f"a worker can't have the state: {error_type}: {' '.join(text.split())}", trace
            )
        if reply.answer is None:
            assert reply.unreadable is not None
            self._take_unreadable(chunk, reply.unreadable)
            return
        ended, elapsed, deltas, refused, body = reply.answer
        self._take_results(chunk, seat.number, seat.task, body, ended, elapsed, deltas, refused)

    def _bury(self, seat: Seat, chunk: Chunk, gone: Gone) -> None:
        """A worker is gone, and perhaps for what it was given."""
        self._worker_died(seat.number, seat.task)
        if gone.in_company and not chunk.suspect:
            chunk.suspect = True  # who runs alone from now on: it costs him nothing yet
            chunk.run.put_back(chunk)
        elif not self._split(chunk):
            self._try_again(chunk, gone.how)

    @property
    def _suspects_wait(self) -> bool:
        """Whether there are chunks that have to run alone."""
        return any(chunk.suspect for run in self._runs for chunk in run.waiting)

    def _until_late(self, timeout: float) -> float:
        """Till when there is nothing to do but to wait."""
        now = time.monotonic()
        late = [
            seat.since + seat.chunk.run.timeout - now
            for seat in self._seats.values()
            if seat.chunk is not None and seat.chunk.run.timeout is not None
        ]
        return max(0.0, min([timeout, *late]))

    def _end_late(self) -> None:
        now = time.monotonic()
        for seat in self._seats.values():
            chunk = seat.chunk
            if chunk is None or chunk.run.timeout is None or now < seat.since + chunk.run.timeout:
                continue
            self._end(seat)
            seat.chunk = None
            chunk.run.running -= 1
            self._worker_died(seat.number, seat.task)
            reason = f"it ran for more than {chunk.run.timeout:g} s, and its worker was ended"
            self._fail(chunk, ItemTimeout(chunk.run.name, chunk.items[0], "ItemTimeout", reason))

    # Handing out

    def _idle(self) -> Seat | None:
        for seat in self._seats.values():
            if seat.chunk is None and self._is_free(seat):
                return seat
        return None

    def _is_free(self, seat: Seat) -> bool:
        """Whether a worker is there for it."""
        return True

    def _is_busy(self) -> bool:
        return any(seat.chunk is not None for seat in self._seats.values())

    def _dumps(self, items: list[Any]) -> bytes:
        return dumps(items)

    def _hand_over(self, worker: Seat, chunk: Chunk, number: int, packed: bytes) -> None:
        run = chunk.run
        news = self._news_of(run)
        task = Task(worker.number, number, (run.number, chunk.first), news, run.job, packed)
        worker.chunk, worker.task, worker.since = chunk, number, time.monotonic()
        self._send(worker, task)

    def _news_of(self, run: Run[Any]) -> dict[int, Any]:
        if run.number not in self._news:
            self._news = {n: one for n, one in self._news.items() if one[0] in self._runs}
            unread = getattr(run.fn, "unread", ())
            found = ((n, pattern.news(unread)) for n, pattern in enumerate(self._patterns))
            self._news[run.number] = run, {n: news for n, news in found if news is not None}
        return self._news[run.number][1]

    def _begin(self, fn: Any, items: Any, *options: Any) -> Run[Any]:
        run: Run[Any] = super()._begin(fn, items, *options)
        if run.timeout is not None:
            if self._no_timeout:
                raise SharingError(f"timeout can't be kept here: {self._no_timeout}")
            run.fixed = run.size = 1  # so that the time of a chunk is that of its item
        run.job = dumps(fn)
        return run


def dumps(value: object) -> bytes:
    """Pickle what a worker may not be able to import: what the main module has goes by value."""
    packed: bytes = cloudpickle.dumps(value, protocol=5)
    return packed
