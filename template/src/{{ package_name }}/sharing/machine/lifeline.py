"""How processes are started and ended: by whom, by which signals, and never as orphans."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType

_STARTS = 20
"""How often in a row a process is started that is killed before it is ready."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""The variables by which numeric libraries are told how many threads to use."""


def worth_another_start(exitcode: int | None, deaths: int) -> bool:
    """Whether to start a process again that ended before it was ready, so many times in a row.

    One that was killed, yes, within bounds: that came from outside. All else would come again.
    """
    return exitcode == -signal.SIGKILL and deaths < _STARTS


def start(process: BaseProcess) -> None:
    """Start a process that a signal can't end before it is able to handle one.

    Under forkserver it may be killed before it has read what it is started with, or the server
    may be: then there was no start, and another try has no traces of the first.
    """
    resource_tracker.ensure_running()  # here, for it would unblock what is blocked below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        for left in reversed(range(_STARTS)):
            try:
                return process.start()
            except (ConnectionError, EOFError):
                if not left:
                    raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """In a child: leave it to the parent to stop in order, when a whole group is signalled.

    By a handler that does nothing, not by SIG_IGN, which programs that a job starts would
    inherit.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def end_with_parent() -> None:
    """In a child: end when the process that opened the engine is gone, however it went.

    On Linux the kernel sends SIGKILL when the parent's end of the sentinel closes, so that a
    child ends in the middle of C code too. A parent-death signal would not do: under
    forkserver the parent is another process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if sys.platform == "linux":
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([sentinel], [], [], 0)[0]:  # gone before it was watched
            os._exit(1)
    else:
        watch = threading.Thread(target=_exit_after, args=(sentinel,), daemon=True)
        watch.start()


def _exit_after(sentinel: int) -> None:
    select.select([sentinel], [], [])
    os._exit(1)


def limits_of(threads: int) -> dict[str, str]:
    """The variables for that many threads a process, but for those that the user has set."""
    return {name: str(threads) for name in THREAD_LIMITS if name not in os.environ}


@contextmanager
def thread_limits(threads: int) -> Iterator[None]:
    """Have processes that start inside run their numeric libraries on that many threads each.

    The variables must be there before the libraries are loaded. What the user has set stays.
    """
    ours = limits_of(threads)
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
