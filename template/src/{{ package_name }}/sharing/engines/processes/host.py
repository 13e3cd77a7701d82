"""The four primitives of this engine, made while it is open, and cleaned up when it closes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...machine import owners
from ...machine.children import Launcher
from ...machine.memory import Words
from ...machine.mutex import FileMutex, RLockMutex, RobustMutex
from ...machine.primitives import Mutex
from ...machine.primitives import Service as ServiceProtocol
from ...machine.service import Services


class ProcessHost:
    """See `patterns.base.Host`."""

    def __init__(self, launcher: Launcher, slots: int) -> None:
        self._context = launcher.context
        self._slots = slots
        self._folder: Path | None = None
        self._mutexes = 0
        self.services = Services(launcher, self._own_folder)

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def is_shared(self) -> bool:
        return True

    @property
    def store(self) -> None:
        return None

    def words(self, count: int) -> Words:
        return Words(count)

    def mutex(self, kind: str) -> Mutex:
        if kind == "rlock":
            return RLockMutex(self._context, self._slots)
        if RobustMutex.supported():
            return RobustMutex()
        self._mutexes += 1
        return FileMutex(self._own_folder() / f"mutex-{self._mutexes}")

    def lease(self, data: bytes) -> None:
        return None

    def service(self, factory: Callable[..., object], *args: object) -> ServiceProtocol:
        return self.services.add((factory, args))

    def _own_folder(self) -> Path:
        """For what needs a path: nothing does on Linux."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{owners.PREFIX}{owners.me()}-"))
        return self._folder

    def close(self) -> None:
        """End the services, and remove what has a path."""
        self.services.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
