"""What can't be shared (a database connection, a model): one in each worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast

from ..errors import SharingError
from ..machine.primitives import PARENT, Worker
from .base import Host, Pattern

T = TypeVar("T")
_MISSING: Any = object()


class PerWorker(Pattern, Generic[T]):
    """Made by ``factory(*args)`` in each worker at first use, and closed with the worker.

    The parent of an open engine never makes one, so nothing that can't stand a fork or a
    pickle crosses to a worker. Outside an engine it is made in the process that asks, so a
    job can be tested by calling it.

    Args:
        factory: a function or class at module level.
        args: what it is called with; copies of them travel to the workers.
    """

    _own_to_process: ClassVar[frozenset[str]] = frozenset({"_value"})
    _value: T = _MISSING

    def __init__(self, factory: Callable[..., T], *args: object) -> None:
        self._factory = factory
        self._args = args
        self._slot: int | None = None

    def get(self) -> T:
        """This worker's own.

        Raises:
            SharingError: asked in the parent while the engine is open.
        """
        if self._value is _MISSING:
            if self._slot == PARENT:
                raise SharingError(
                    f"{self.name!r} is made in the workers only: call get() in a job"
                )
            self._value = self._factory(*self._args)
        return self._value

    def copied(self) -> Mapping[str, object]:
        return {"factory": self._factory, "args": self._args}

    def open(self, host: Host) -> None:
        self.discard()
        self._slot = PARENT

    def attach(self, worker: Worker) -> None:
        self._slot = worker.slot

    def detach(self) -> None:
        self.discard()

    def close(self, *, whole: bool) -> None:
        self._slot = None

    def discard(self) -> None:
        """Close this process's own, if it made one: by its ``close()``, where it has one."""
        value, self._value = self._value, cast("T", _MISSING)
        if value is not _MISSING and callable(close := getattr(value, "close", None)):
            close()
