"""What the processes of test_children.py do, apart from it: they need not import pytest."""

import ctypes
import faulthandler
import importlib.util
import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from signs import LIMIT, Signs
from under_test import parcel


def end(code: int) -> None:
    """End with this exit code, or by this signal where it is below 0."""
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def live(signs: Signs, name: str = "alive") -> None:
    """Live until it is told to end, or ended."""
    signs.note(name, os.getpid())
    end_of_test = time.monotonic() + LIMIT
    while not signs.given("end") and time.monotonic() < end_of_test:
        time.sleep(0.01)


def stay_in_c(signs: Signs) -> None:
    """Live in C code that lets no Python run."""
    signs.note("alive", os.getpid())
    ctypes.PyDLL(None).sleep(int(LIMIT))


def leave_a_child(signs: Signs) -> None:
    """Die, and leave a child that holds all that was open here."""
    if os.fork() == 0:
        live(signs, "left")
        os._exit(0)
    signs.wait("left")
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    ctypes.string_at(0)


def say(answers: Connection, *words: Any) -> None:
    """Send back what it was started with."""
    answers.send(words)


def unpack(sent: "parcel.Parcel[Any]", answers: Connection) -> None:
    """Send back what is in a parcel, or why it can't be had."""
    try:
        content = sent.content
        answers.send(content() if callable(content) else content)
    except Exception as error:
        answers.send(repr(error))


def describe_self(answers: Connection) -> None:
    """Send back what a process sees of itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    answers.send(
        {
            "parent": (parent.pid, parent.name, parent.is_alive()),
            "name": multiprocessing.current_process().name,
            "thread": threading.current_thread() is threading.main_thread(),
            "daemon": multiprocessing.current_process().daemon,
            "children": multiprocessing.active_children(),
            "faulthandler": faulthandler.is_enabled(),
            "stop signals": [
                callable(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)
            ],
            "SIGCHLD": signal.getsignal(signal.SIGCHLD),
            "SIGPIPE": signal.getsignal(signal.SIGPIPE),
            "wakeup": signal.set_wakeup_fd(-1),
            "warnings": [str(message) for _, message, *_ in warnings.filters],
            "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        }
    )


def list_pipes(answers: Connection) -> None:
    """Send back which pipes and sockets are open, by their inodes; Linux only."""
    answers.send(pipes())


def pipes() -> set[int]:
    """The inodes of the pipes and sockets that are open here."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            status = path.stat()
        except OSError:  # the one by which the folder is read
            continue
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            found.add(status.st_ino)
    return found


def tell_threads(answers: Connection) -> None:
    """Send back what numeric libraries would use of threads."""
    pools = None
    if "numpy" in sys.modules and importlib.util.find_spec("threadpoolctl"):
        threadpoolctl = importlib.import_module("threadpoolctl")
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    answers.send((os.environ.get("OMP_NUM_THREADS"), pools))


class Raises:
    """Can't be pickled."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("stays here")


class Falls:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fall, ()


def fall() -> NoReturn:
    raise LookupError("fell apart")
