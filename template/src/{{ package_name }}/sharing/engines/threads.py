"""The threads of an engine, and how those that wait for it are woken."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable


class Bell:
    """Wakes one thread that waits, or lets the next wait end at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake it. Called by any thread, and by handlers of signals."""
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self._lock.release()

    def wait(self, timeout: float) -> None:
        """Wait until it is rung, for so many seconds at most."""
        self._lock.acquire(timeout=timeout)


class Errands:
    """A thread that does what may take its time, one after the other; there is none until then.

    Args:
        name: of the thread.
        failed: is told what an errand has raised.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], None]) -> None:
        self._name = name
        self._failed = failed
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, errand: Callable[[], None]) -> None:
        """Have it done soon."""
        self._queue.put(errand)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    thread.start()
                    self._thread = thread

    def __len__(self) -> int:
        """How many wait."""
        return self._queue.qsize()

    def _run(self) -> None:
        while (errand := self._queue.get()) is not None:
            try:
                errand()
            except BaseException as error:
                self._failed(error)
            del errand

    def close(self, timeout: float) -> bool:
        """Wait until all is done, for so many seconds at most; whether it is."""
        thread = self._thread
        if thread is None:
            return True
        self._queue.put(None)
        if thread is threading.current_thread():  # it ends when it is done with what calls this
            return True
        thread.join(timeout)
        return not thread.is_alive()
