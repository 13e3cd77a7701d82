"""What every engine offers: `Engine`, and `open_engine`, which finds the one that was asked for."""

from __future__ import annotations

import importlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, SupportsIndex, TypeVar, Unpack, cast

from ..chosen import ENGINES, Extras
from ..errors import JobFailed, SharingError
from ..machine import limits
from ..options import MapOptions

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """What became of one item: a value, or the error that says why there is none."""

    item: T
    value: R | None = None
    error: JobFailed | None = None

    @property
    def ok(self) -> bool:
        """Whether the item has a value."""
        return self.error is None


class Engine(Extras[S], ABC):
    """Workers and the state that they share. Open it with ``with``; it closes whatever happens.

    It is driven by itself: results come in, timeouts are kept and deaths noticed whether anybody
    reads or not, and every method may be called from any thread. What is read ahead of a reader is
    bounded: by sixteen chunks a worker, and by 64 MiB.
    """

    def __init__(self, state: S, workers: int) -> None:
        self._state = state
        self._workers = workers

    @property
    def state(self) -> S:
        """The state that was given, its values readable at any time."""
        return self._state

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self._workers

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @abstractmethod
    def map(
        self, fn: Callable[[T, S], R], items: Iterable[T], **options: Unpack[MapOptions]
    ) -> Iterator[R]:
        """Run ``fn(item, state)`` for each item on the workers, and yield what it returns.

        Nothing begins before the first value is asked for. From then on the engine goes on by
        itself, as far ahead of its reader as `Engine` says; a map may be read in any thread, by
        one at a time.

        Args:
            fn: a job: a function at module level.
            items: any iterable, endless and blocking ones too, read little more than the workers
                need. A list, a tuple and a range are read by whoever reads the map, anything else
                by a thread of its own, unless ``source_thread`` says otherwise.
            options: see `MapOptions`.

        Raises:
            JobFailed: the first failure, an item's exception in the worker (which is not tried
                again), or one of the two below. Leaving early, so or by a ``break``, hands out
                nothing more and waits for the items that run.
            WorkerDied: an item's worker died, ``retries`` times more.
            ItemTimeout: an item took longer than ``timeout``.
            SharingError: the job or the options can't be used, or the engine has closed.
        """

    @abstractmethod
    def outcomes(
        self, fn: Callable[[T, S], R], items: Iterable[T], **options: Unpack[MapOptions]
    ) -> Iterator[Outcome[T, R]]:
        """The same as `map`, but a failed item comes as an outcome, and the others go on."""


def open_engine(
    state: S,
    *,
    engine: str = "processes",
    workers: int | None = None,
    start_method: str | None = None,
    address: str | None = None,
) -> Engine[S]:
    """An engine for this state, to be opened with ``with``.

    Args:
        state: an instance of a dataclass; its fields are what the workers share, and all
            other values in it travel to each worker as copies.
        engine: its name.
        workers: how many; left out, as many as this process has cores, or the cluster.
        start_method: how processes start: "spawn" (left out), "forkserver" or "fork".
        address: of a cluster that runs already; left out, one is started and ended with it.

    Raises:
        SharingError: a value above is not one that can be used, or so many workers can't be on
            this machine.
        StartFailed: the workers don't start (raised by ``with``).
    """
    if engine not in ENGINES:
        raise SharingError(
            f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}, or let "
            "`nox -s update -- -d 'engines=[…]'` add it to the project"
        )
    workers = None if workers is None else _above_zero(workers)
    if workers is not None and address is None:  # else they are elsewhere
        obstacle = limits.why_impossible(workers)
        if obstacle is not None:
            raise SharingError(str(obstacle))
    try:
        module = importlib.import_module(f".{engine}.engine", __package__)
    except ModuleNotFoundError as error:
        package = __name__.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] == package:
            raise
        raise SharingError(
            f"the engine {engine!r} needs {error.name}, which is not installed: "
            f"pip install '{package.replace('_', '-')}[{engine}]'"
        ) from None
    return cast("Engine[S]", module.open_engine(state, workers, start_method, address))


def _above_zero(workers: SupportsIndex) -> int:
    try:
        number = operator.index(workers)
    except TypeError:
        number = 0
    if isinstance(workers, bool) or number < 1:
        raise SharingError(f"workers must be a whole number above 0, not {workers!r}")
    return number


def available_cores() -> int:
    """How many cores this process may use: by its affinity, and by the quota of its container."""
    return limits.cores().usable
