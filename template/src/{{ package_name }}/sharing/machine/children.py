"""The start and the end of the processes of an engine: its workers, and what serves them.

A `Launcher` starts them, and a `Child` stands for one, whatever the start method is:

    launcher = Launcher("spawn")
    server = launcher.start(serve, (address,), "services")    # serve(address), in a process
    parcel = launcher.prepare((state, words))                 # what all that follow are given
    child = launcher.start(work, (parcel, ends), "worker-1")  # there, parcel.content has it
    selector.register(child, EVENT_READ)                      # readable when it has ended
    child.exitcode(), child.kill(), child.join(5.0), child.close()
    launcher.close()                                          # ends those that live

Under ``spawn`` and ``forkserver`` these are processes of `multiprocessing`. Under ``fork`` those
that start before `Launcher.prepare` are, too; those after come from the nursery: one process that
is forked then, before the engine has threads, and forks when it is asked to. What it was
forked with, they have from memory. If it is killed, those that it has started go on, and the
next start forks another one, beside what threads there are by then.

A child never outlives whoever started it. Each has one end of a pipe, and the other end is in the
parent alone: a fork of the parent closes its copy.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import select
import signal
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import StartFailed
from . import lifeline, owners
from .parcel import Parcel, Unfit
from .reasons import NO_GUARD, UNKNOWN, why_not_started

if TYPE_CHECKING:
    from .nursery import Nursery

T = TypeVar("T")

Limits = dict[str, str]
"""Variables of the environment that say how many threads numeric libraries may use."""

Target = Callable[..., object]

NEWS = 1.0
"""Seconds after the end of a process in which the server that forked it says how it ended."""

_GRACE = 5.0
"""Seconds that a killed process has to be gone, which only the kernel could delay."""


# A process that we have started


class Child(ABC):
    """A process that was started here. It has a descriptor, for a selector: see `fileno`.

    One thread uses it at a time. In a fork of the process that started it, its methods do
    nothing: nobody there can tell whether it lives.

    Attributes:
        pid: its process id.
        is_closed: whether `close` was called.
    """

    def __init__(self, pid: int, end: Connection) -> None:
        self.pid = pid
        self._end = end
        self._owner = os.getpid()
        self._code: int | None = None
        self._pidfd = _pidfd_of(pid)
        self.is_closed = False

    def fileno(self) -> int:
        """A descriptor that is readable when it has ended.

        On Linux, at once. Elsewhere, as long as a process that it has forked holds its
        descriptors, only `exitcode` tells: ask for that now and then.
        """
        return self._sentinel() if self._pidfd is None else self._pidfd

    def exitcode(self) -> int | None:
        """None while it lives; below 0 a signal has ended it; `UNKNOWN` where nobody can tell.

        Nobody can where the program ignores SIGCHLD, for one.
        """
        if self._code is None and os.getpid() == self._owner and self._has_ended():
            self._code = self._find_code()
        return self._code

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        if os.getpid() != self._owner or self.exitcode() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, for ``timeout`` seconds at most; whether it has."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.exitcode() is None:
            if os.getpid() != self._owner:
                return False
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return False
            if self._pidfd is not None:
                wait_for(self._pidfd, left)
            else:
                time.sleep(0.005)
        return True

    def close(self) -> None:
        """Let go of it, and end it if it lives."""
        if self.is_closed or os.getpid() != self._owner:
            return
        self.is_closed = True
        let_go(self._end)  # which ends it as well
        if self.exitcode() is None:
            self.kill()
            self.join(_GRACE)
        self._let_go()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _has_ended(self) -> bool:
        return self._seems_ended() if self._pidfd is None else wait_for(self._pidfd, 0)

    @abstractmethod
    def _sentinel(self) -> int:
        """A descriptor that is readable when it has ended, for systems without pidfd."""

    @abstractmethod
    def _seems_ended(self) -> bool:
        """Whether it has ended, on systems without pidfd."""

    @abstractmethod
    def _find_code(self) -> int:
        """The exit code of one that has ended."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close what is open for it."""


def _pidfd_of(pid: int) -> int | None:
    """A descriptor of the process itself, which no other process can hold up; if there is one."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel or a strict container; or the process has been waited for
        return None


def wait_for(descriptor: int, seconds: float | None) -> bool:
    """Wait until it is readable; whether it is."""
    poll = select.poll()  # `select` takes no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0, seconds) * 1000))


ends: set[Connection] = set()
"""Ends of pipes, each of which keeps a child alive as long as it is open. Forks close theirs."""


def let_go(end: Connection) -> None:
    ends.discard(end)
    end.close()


def _close_ends() -> None:
    for end in list(ends):
        with contextlib.suppress(OSError):
            end.close()
    ends.clear()


os.register_at_fork(after_in_child=_close_ends)


class _Own(Child):
    """A child that is a process of `multiprocessing`."""

    def __init__(self, process: Any, end: Connection, method: str) -> None:
        super().__init__(process.pid, end)
        self._process = process
        self._is_told = method == "forkserver"

    def _sentinel(self) -> int:
        return int(self._process.sentinel)

    def _seems_ended(self) -> bool:
        if self._process.exitcode is not None:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:  # SIGCHLD is ignored, so the kernel forgets who has ended
            return True
        except PermissionError:
            pass
        return False

    def _find_code(self) -> int:
        if self._is_told:
            self._process.join(NEWS)
        for _ in range(3):
            if (code := self._process.exitcode) is not None:
                # So `multiprocessing` says that the server has ended before it could tell.
                return UNKNOWN if self._is_told and code == 255 else int(code)
            time.sleep(0.001)  # another thread may just have asked, and will say it
        # `multiprocessing` takes what it can't wait for as alive, and would not close it.
        self._process._popen.returncode = UNKNOWN
        return UNKNOWN

    def _let_go(self) -> None:
        with contextlib.suppress(ValueError):  # it can't be ended, now
            self._process.close()


# Starting


class Launcher:
    """See the module."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.context: Any = multiprocessing.get_context(method)
        self._parcel: Parcel[object] | None = None
        self._nursery: Nursery | None = None
        self._children: list[Child] = []
        self._owner = os.getpid()

    def prepare(self, content: T) -> Parcel[T]:
        """Say what processes are given from here on: by the parcel, among their arguments.

        Under ``fork`` the nursery is forked here, and what is made later is not in its memory,
        nor in that of a process that it forks, but for what is among the arguments.

        Raises:
            StartFailed: there can be no nursery.
        """
        parcel = Parcel(content)
        self._parcel = parcel
        if self.method == "fork":
            from .nursery import Nursery

            with self.told("nursery"):
                self._nursery = Nursery(parcel, self._start_here)
        return parcel

    def start(
        self,
        target: Target,
        args: tuple[object, ...],
        name: str,
        *,
        threads: int | None = None,
    ) -> Child:
        """Start a process that calls ``target(*args)``; its name is that of the process.

        Args:
            target: a function at module level.
            args: pickled, or found in memory by a process that is forked directly. They may
                hold connections and shared memory. What may be large goes into a `Parcel`.
            threads: how many its numeric libraries may use each; left out, as many as they like.

        Raises:
            Unfit: what is in a parcel can't be pickled.
            StartFailed: it could not be started, for the reason that it says.
        """
        limits = {} if threads is None else lifeline.limits_of(threads)
        with self.told(name):
            try:
                how = self._start_here if self._nursery is None else self._nursery.start
                child = how(target, args, name, limits)
                self._children = [one for one in self._children if not one.is_closed] + [child]
                return child
            finally:
                for arg in args:
                    if isinstance(arg, Parcel):
                        arg.close()

    def close(self) -> None:
        """End all that it has started and that still live."""
        if os.getpid() != self._owner:
            return
        for child in self._children:
            child.close()
        if self._nursery is not None:
            self._nursery.close()
        self._nursery = self._parcel = None

    @contextlib.contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Turn what goes wrong inside into a `StartFailed` that says why, and what to do."""
        current = multiprocessing.current_process()
        if getattr(current, "_inheriting", False):
            raise SystemExit(NO_GUARD)  # it is for the parent to say so, in one line and once
        try:
            if current.daemon:
                raise StartFailed(
                    "a daemonic process may have no children: open the engine in one that is none, "
                    "or choose the engine 'threads'"
                )
            yield
        except (Unfit, StartFailed):
            raise
        except Exception as error:
            reason = why_not_started(error, self.method)
            raise StartFailed(f"the process {name!r} can't be started: {reason}") from error

    def _start_here(
        self, target: Target, args: tuple[object, ...], name: str, limits: Limits
    ) -> Child:
        reader, end = self.context.Pipe(duplex=False)
        ends.add(end)
        had_folder = _folder_of_sockets()
        try:
            with _no_warning_of_threads() as undo:
                given = (target, args, reader, limits, undo if self.method == "fork" else None)
                process = self.context.Process(target=begin, args=given, name=name)
                with _environment(limits):
                    lifeline.start(process)
            return _Own(process, end, self.method)
        except BaseException:
            let_go(end)  # which ends it, if it has started
            raise
        finally:
            reader.close()
            if had_folder is None and (folder := _folder_of_sockets()) is not None:
                # Whoever finds that when we were killed is to know whose it was.
                Path(folder, owners.name()).touch()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set some that were not set."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _no_warning_of_threads() -> Iterator[Callable[[], None]]:
    """Have Python not warn of a fork beside threads, which some make an error of.

    That would be raised when the child is there. Yields what is to be called in the child.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", ".* multi-threaded", DeprecationWarning)
        warnings.filterwarnings("ignore", ".* multi-threaded", RuntimeWarning)
        yield stack.close


def _folder_of_sockets() -> str | None:
    """The folder that `multiprocessing` has made for this process, which it removes at its end."""
    current: Any = multiprocessing.current_process()
    folder: str | None = current._config.get("tempdir")
    return folder


_held: Connection | None = None  # kept open as long as this process lives


def begin(
    target: Target,
    args: tuple[object, ...],
    reader: Connection,
    limits: Limits,
    undo: Callable[[], None] | None = None,
) -> None:
    """In the process that was started: what each of them begins with."""
    global _held
    _held = reader
    lifeline.end_with(reader.fileno())
    lifeline.ignore_stop_signals()
    if undo is not None:
        undo()
    # A crash leaves its stack, unless the user has seen to that.
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError):
            faulthandler.enable(sys.__stderr__.fileno())
    if limits:
        lifeline.limit_threads(limits)
    target(*args)
