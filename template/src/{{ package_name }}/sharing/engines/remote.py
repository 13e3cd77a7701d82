"""What engines have in common whose workers share no memory with the parent.

How a chunk gets to a worker and back (`driver` has the rest of the way):

    Send ─▶ order_of ─▶ the engine's own way ─▶ work: a desk of that process ─▶ Reply
                                                                                  │
    poll ◀─ Arrivals ◀─ events_of ◀───────────────────────────────────────────────┘

A slot is the right to have one chunk on its way; the engine decides where that runs. There, each
thread has a desk of its own (the state, attached), for a process may work on several chunks at
once. What is shared beyond results and deltas is with services, which live where the run can't
survive anyway. Nobody sees how far a worker is in a chunk, so the item that ends it is found by
running the chunk again in parts.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pickle
import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import cloudpickle

from ..errors import SharingError, StartFailed, StateLost
from ..machine.primitives import Lease, Mutex, Service
from ..machine.service import Recipe
from ..patterns.base import Host, Pattern, Store, travelling
from .chunks import UNKNOWN, Chunk, ChunkId
from .crew import CrewEvent, Logged, Sighting
from .desk import LINE, Answer, Desk, Task
from .events import Answered, Unreadable
from .failure import Failure, describe
from .lifecycles import RunState
from .runs import Run, Settings, Sizes
from .setup import levels_of_loggers, unfit_field

A = TypeVar("A")

# The way of a chunk takes milliseconds, so there are to be few of them: also at first.
SIZES = Sizes(items=1 << 20, seconds=0.2, least=0.25, growth=64)

GIVE_BACK = 1.0
"""Seconds after which a worker gives back the items of its chunk that it has not begun."""

ALONE = 60.0
"""Seconds after which one gives up who has no worker any more."""

BLINK = 1.0
"""Seconds between two looks above which the one who looks was not there himself."""

THREADS = 256
"""How many calls of each kind the host of services that has threads for both has under way."""

WAITING = ("ask", "take")
"""The calls of services that may wait for what somebody else has. Those that give it back must
not stand behind them."""


def name_of_engine() -> str:
    """One like no other."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def dumps(value: object) -> bytes:
    """Pickle what a worker may not be able to import: what the main module has goes by value."""
    packed: bytes = cloudpickle.dumps(value, protocol=5)
    return packed


# Patterns and their host


class OwnWords:
    """The words of a host that shares none: each process has its own, zero at first."""

    def __init__(self, count: int) -> None:
        self.view = memoryview(array("q", bytes(8 * count)))

    def __reduce__(self) -> tuple[type[OwnWords], tuple[int]]:
        return OwnWords, (len(self.view),)


class RemoteHost:
    """See `patterns.base.Host`. ``service`` is the engine's own."""

    is_shared = False

    def __init__(
        self, workers: int, serve: Callable[[Recipe], Service], store: Store | None = None
    ) -> None:
        self.slots = workers + 1
        self.store = store
        self._serve = serve

    def words(self, count: int) -> OwnWords:
        return OwnWords(count)

    def mutex(self, kind: str) -> Mutex:
        return self.lease(b"")

    def lease(self, data: bytes) -> Lease:
        # Not there in a project that needs none.
        leases = importlib.import_module("..machine.leases", __package__)
        lease: Lease = leases.LeaseMutex(self.service(leases.LeaseStore, data))
        return lease

    def service(self, factory: Callable[..., object], *args: object) -> Service:
        return self._serve((factory, args))


def open_patterns(patterns: list[Pattern], host: Host, serve: Callable[[], None]) -> None:
    """Open them on a host; ``serve`` is called when all that asks for a service has done so."""
    for pattern in patterns:
        pattern.move_to(host)
    serve()
    for pattern in patterns:
        pattern.opened()


class News:
    """What workers have to hear of the patterns before the items of a map."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self._patterns = patterns
        self._of: dict[int, tuple[Run, dict[int, object]]] = {}

    def of(self, run: Run) -> dict[int, object]:
        """The news, by the places of the patterns: the same for all chunks of a map."""
        if run.number not in self._of:
            self._of = {n: one for n, one in self._of.items() if one[0].state is not RunState.DONE}
            found = ((n, pattern.news(run.unread)) for n, pattern in enumerate(self._patterns))
            self._of[run.number] = run, {n: news for n, news in found if news is not None}
        return self._of[run.number][1]

    def forget(self) -> None:
        """Ask the patterns again: a worker may have taken along what they had."""
        self._of.clear()


# From the parent to a worker and back


class Order(NamedTuple):
    """What travels to a worker with a chunk.

    Attributes:
        slot: the one that it has.
        task: what is to be done.
        news: what patterns have to hear before, by their places.
        job: pickled.
        items: pickled; the task says which of them.
    """

    slot: int
    task: Task
    news: dict[int, object]
    job: bytes
    items: bytes


def order_of(slot: int, chunk_id: ChunkId, chunk: Chunk, news: News) -> Order:
    """What a worker is sent for a chunk."""
    run, (body, _, apart) = chunk.run, chunk.packed
    where = chunk.start, chunk.stop, apart, run.careful
    # What sections an attempt before has committed, the services know by map and item.
    task = Task(chunk_id, run.number, chunk.first, False, {}, *where)
    return Order(slot, task, news.of(run), run.job, body)


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
    handles: list[object]
    levels: dict[str, int]


class _Pickler(cloudpickle.Pickler):
    """Pickles a state, and sets the handles in it apart."""

    def __init__(self, file: io.BytesIO, handles: tuple[type, ...]) -> None:
        super().__init__(file, protocol=5)
        self._types = handles
        self.handles: list[object] = []

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, self._types):
            return None
        self.handles.append(value)
        return len(self.handles) - 1


class _Unpickler(pickle.Unpickler):
    """Puts a state together again."""

    def __init__(self, site: Site) -> None:
        super().__init__(io.BytesIO(site.state))
        self._handles = site.handles

    def persistent_load(self, number: int) -> object:
        return self._handles[number]


class _Desks(threading.local):
    """The desk of each engine in this thread: what a job keeps may belong to its thread."""

    def __init__(self) -> None:
        self.by_engine: dict[str, Desk] = {}


_desks = _Desks()


def work(site: Site, order: Order) -> Reply:
    """In a worker: what an engine has to run with an order."""
    records: list[bytes] = []
    try:
        desk = _desk_of(site)
    except BaseException as error:
        return Reply(unfit=describe(error))
    with _recording(records, f"worker-{order.slot}"):
        return _answer(desk, order, records)


def _desk_of(site: Site) -> Desk:
    desk = _desks.by_engine.get(site.engine)
    if desk is not None:
        return desk
    for name, level in site.levels.items():
        logging.getLogger(name).setLevel(level)
    line = memoryview(array("q", bytes(8 * LINE)))
    state = _Unpickler(site).load()
    desk = Desk(state, 1, line, give_back=GIVE_BACK, dumps=cloudpickle.dumps, seen=False)
    desk.attach()
    _desks.by_engine[site.engine] = desk
    return desk


def _answer(desk: Desk, order: Order, records: list[bytes]) -> Reply:
    task = order.task
    desk.slot = order.slot
    desk.begins(task.chunk)
    try:
        job, items = pickle.loads(order.job), pickle.loads(order.items)
    except BaseException as error:
        return Reply(unreadable=describe(error), records=records)
    if len(items) > task.stop - task.start:
        items = items[task.start : task.stop]
    for place, news in order.news.items():
        desk.patterns[place].hear(news)
    return Reply(desk.work(task, job, items), records=records)


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


def site_of(
    engine: str, state: object, patterns: list[Pattern], handles: tuple[type, ...] = ()
) -> Site:
    """What workers must know, when the patterns are open.

    Args:
        engine: its name.
        state: what they share.
        patterns: of the state.
        handles: the types of what only the engine's own pickling can send.

    Raises:
        SharingError: the state can't be pickled.
    """
    try:
        with travelling(), io.BytesIO() as file:
            pickler = _Pickler(file, handles)
            pickler.dump(state)
            packed = file.getvalue()
    except SharingError:
        raise
    except Exception as error:  # any: a class may raise what it likes when it is pickled
        raise unfit_field(state, patterns, error, dumps) from None
    return Site(engine, packed, pickler.handles, levels_of_loggers())


def events_of(slot: int, chunk_id: ChunkId, reply: Reply) -> list[CrewEvent]:
    """What a worker has to say.

    Raises:
        StartFailed: it can't have the state.
    """
    events: list[CrewEvent] = [Logged(record) for record in reply.records]
    if reply.unfit is not None:
        kind, text, trace = reply.unfit
        said = f"a worker can't have the state: {kind}: {' '.join(text.split())}"
        raise StartFailed(said, trace)
    if reply.answer is not None:
        events.append(Answered(slot, chunk_id, *reply.answer))
    else:
        assert reply.unreadable is not None
        events.append(Unreadable(slot, chunk_id, reply.unreadable))
    return events


# In the parent


class Arrivals(Generic[A]):
    """What comes from the threads of an engine's library, for the one that polls."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[A | None] = queue.SimpleQueue()

    def put(self, arrival: A) -> None:
        """Something has come. Called by any thread."""
        self._queue.put(arrival)

    def wake(self) -> None:
        """Have `take` return. Called by any thread, and by handlers of signals."""
        self._queue.put(None)

    def take(self, timeout: float) -> list[A]:
        """All that has come, after so many seconds at most, or as soon as it is woken."""
        found: list[A] = []
        with contextlib.suppress(queue.Empty):
            one = self._queue.get(timeout > 0, timeout)
            while True:
                if one is not None:
                    found.append(one)
                one = self._queue.get_nowait()
        return found


def sighting(since: int) -> Sighting:
    """That of a chunk that was handed over then: nobody sees more of it."""
    return Sighting(UNKNOWN, since)


def without_timeout(settings: Settings, why: str) -> Settings:
    """The settings of a map, where an item can't be ended that takes too long.

    Raises:
        SharingError: it has a timeout.
    """
    if settings.timeout is not None:
        raise SharingError(f"timeout can't be kept here: {why}")
    return settings


class Company:
    """Knows since when an engine has no worker any more."""

    def __init__(self) -> None:
        self._alone = 0.0
        self._looked = time.monotonic()

    def look(self, there: bool) -> None:
        """Raise if no worker has been there for long: called now and then.

        Raises:
            SharingError: nobody has come.
        """
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        if there:
            self._alone = 0.0
            return
        self._alone += passed if passed < BLINK else 0.0
        if self._alone > ALONE:
            raise SharingError(
                f"all workers of the cluster are gone, and none has come for {ALONE:g} s: see what "
                "has become of it, and run all of it again"
            )


def lost(what: str) -> StateLost:
    """What to raise when that is gone, and what was shared with it."""
    return StateLost(f"{what}, and with it what the workers shared: run all of it again")
