"""The jobs of test_processes.py, apart from it: workers need not import pytest."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from probe import kill_self
from signs import LIMIT
from under_test import base, primitives, sharing


def sees_default_signals(item: int, state: object) -> str:
    """Ask a program what it would do at Ctrl-C."""
    source = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def die_and_die(item: int, state: object) -> None:
    kill_self()


def name_self(item: int, state: object) -> str:
    return threading.current_thread().name


@dataclass
class Bulky:
    bulk: bytes


def weigh(item: int, state: Bulky) -> int:
    return len(state.bulk)


class Tally:
    """An object to be served."""

    def __init__(self, start: int) -> None:
        self.number = start

    def add(self, n: int) -> int:
        self.number += n
        return self.number

    def nap(self) -> str:
        time.sleep(0.3)
        return "slept"

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise LookupError("not here")


class Served(base.Pattern):
    """A tally in a process of its own."""

    def open(self, host: base.Host) -> None:
        self.service = host.service(Tally, 100)

    def attach(self, worker: primitives.Worker) -> None:
        self.service.attach()


@dataclass
class State:
    tally: Served


def call(item: tuple[Any, ...], state: State) -> Any:
    return state.tally.service.call(*item)


def call_until_answered(item: tuple[Any, ...], state: State) -> Any:
    """Call, and do without while there is no server."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(sharing.errors.ServiceLost):
            return call(item, state)
    return None
