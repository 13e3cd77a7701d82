"""Why a process did not start, or has ended, in words, and what to do about it."""

from __future__ import annotations

import errno
import signal
import sys
import tempfile
from multiprocessing import process as processes
from pathlib import Path

from . import lifeline

UNKNOWN = lifeline.UNKNOWN
"""The exit code of a process that has ended in a way that nobody can tell."""

NO_GUARD = 121
"""The exit code of a process that would open an engine while it imports the main module."""


def why_not_started(cause: Exception | int | None, method: str) -> str:
    """What is the matter, and what to do about it, in one line.

    Args:
        cause: what was raised when the process was started, or how it has ended.
        method: the start method.
    """
    if not isinstance(cause, Exception):
        return _why_it_ended(cause, method)
    text = " ".join(str(cause).split())
    if isinstance(cause, FileNotFoundError) and _folder_is_gone():
        return "the working folder has been removed: change to one that is there (os.chdir)"
    if "AF_UNIX path too long" in text:
        folder = tempfile.gettempdir()
        return (
            f"the path of the temporary folder is too long for a socket ({len(folder)} characters, "
            f"{folder[:40]}…): set TMPDIR to a shorter one"
        )
    if isinstance(cause, (EOFError, ConnectionError)) and method == "forkserver":
        if (about := about_main()) is not None:
            return about
        return f"the server of the start method ended ({text or type(cause).__name__}): try spawn"
    advice = {
        errno.EMFILE: "have fewer workers, or allow more open files (ulimit -n)",
        errno.ENFILE: "have fewer workers: the whole machine has no more open files",
        errno.EAGAIN: "have fewer workers, or allow more processes (ulimit -u)",
        errno.ENOMEM: "have fewer workers, or free some memory",
    }
    if isinstance(cause, OSError) and cause.errno in advice:
        return f"{cause.strerror}: {advice[cause.errno]}"
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _why_it_ended(code: int | None, method: str) -> str:
    how = death(code)
    if method == "fork":
        return how
    if code == NO_GUARD:
        return (
            "the main module opens the engine when a worker imports it: put what it is to run "
            "below if __name__ == '__main__':"
        )
    if code == 1 and (about := about_main()) is not None:
        return f"{how}: {about}"
    return f"{how}: what it had to say is on stderr" if code == 1 else how


def about_main(text: str = "__main__") -> str | None:
    """Why workers can't import what the main module defines, and what to do; None if they can.

    ``text``, of an error, says whether that is about the main module at all.
    """
    if "__main__" not in text:
        return None
    main = sys.modules.get("__main__")
    if getattr(main, "__spec__", None) is not None:  # python -m
        return None
    file = getattr(main, "__file__", None)
    folder = vars(processes)["ORIGINAL_DIR"] or ""
    if file is None or not Path(folder, file).is_file():
        return (
            "the main module is no file that workers could import (it came from stdin, -c or a "
            "notebook): put the state and the job into a module, or choose the start method fork"
        )
    try:
        source = Path(folder, file).read_text(errors="replace")
    except OSError:
        return None
    if "__name__" in source:
        return None
    return (
        f"the main module, {Path(file).name}, runs whole when a worker imports it: put what it is "
        "to run below if __name__ == '__main__':"
    )


def _folder_is_gone() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def death(code: int | None) -> str:
    """How a process ended, in words."""
    if code == UNKNOWN:
        return "in a way that nobody can tell"
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"by {name}{hint}"
    return f"with exit code {code}"
