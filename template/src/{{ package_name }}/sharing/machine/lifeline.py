"""How processes are started and ended: by whom, by which signals, and never as orphans."""

from __future__ import annotations

import fcntl
import importlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType

STARTS = 20
"""How often in a row a process is started that is killed before it is ready."""

UNKNOWN = 1 << 16
"""The exit code of a process that has ended in a way that nobody can tell."""

_PAUSE = 0.02
"""Seconds before another try: a server that ends takes some time until it is seen to have ended."""

_STARTS_IN_THE_DARK = 3
"""The same for a process that has ended with `UNKNOWN`."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_handler_of: Callable[[int], object] = getattr(
    sys.modules.get("_signal"), "getsignal", signal.getsignal
)
"""`signal.getsignal` without the enumeration around it, which would take as long as a write."""

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
    if exitcode == UNKNOWN:
        return deaths < _STARTS_IN_THE_DARK
    return exitcode == -signal.SIGKILL and deaths < STARTS


def ignores_broken_pipes() -> bool:
    """Whether writing to a pipe without a reader raises, as it does by default in Python."""
    return _handler_of(signal.SIGPIPE) == signal.SIG_IGN


@contextmanager
def broken_pipes_are_errors() -> Iterator[None]:
    """Have writes inside raise `BrokenPipeError`, whatever the program does with SIGPIPE.

    A program may have that signal end it when nobody reads its output any more. That a process of
    ours has died is no reason to end.
    """
    if ignores_broken_pipes():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        yield
    finally:
        if signal.SIGPIPE not in before:
            if signal.SIGPIPE in signal.sigpending():
                signal.sigwait([signal.SIGPIPE])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])


def start(process: BaseProcess) -> None:
    """Start a process that a signal can't end before it is able to handle one.

    Under forkserver it may be killed before it has read what it is started with, or the server
    may be: then there was no start, and another try has no traces of the first.
    """
    resource_tracker.ensure_running()  # here, for it would unblock what is blocked below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for left in reversed(range(STARTS)):
            try:
                with broken_pipes_are_errors():
                    return process.start()
            except (ConnectionError, EOFError):
                if not left:
                    raise
                time.sleep(_PAUSE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """In a child: leave it to the parent to stop in order, when a whole group is signalled.

    By a handler that does nothing, not by SIG_IGN, which programs that a job starts would
    inherit.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*STOP_SIGNALS, signal.SIGPIPE])


def do_nothing(number: int, frame: FrameType | None) -> None:
    """Be a handler of signals that does nothing."""


def end_with(sentinel: int) -> None:
    """In a child: end when the process that started it is gone, however it went.

    ``sentinel`` is the end of a pipe whose other end is open in that process alone. On Linux the
    kernel sends SIGKILL when that closes, so that a child ends in the middle of C code too. A
    parent-death signal would not do: under forkserver, and in a nursery, the parent is another
    process.
    """
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


def limit_threads(limits: Mapping[str, str]) -> None:
    """In a child: have numeric libraries use so many threads each (see `limits_of`).

    What is loaded later goes by the variables. What is loaded already, as in a process that was
    forked, does so only where threadpoolctl is installed.
    """
    os.environ.update(limits)
    if "numpy" not in sys.modules or set(limits) != set(THREAD_LIMITS):
        return
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return
    threadpoolctl.threadpool_limits(int(limits[THREAD_LIMITS[0]]))
