"""How workers are killed in tests: by items at points, and where no job can, by a base."""

import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from signs import Signs
from under_test import base, desk, primitives


def kill_self() -> None:
    """End this process by SIGKILL, here and now."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Step:
    """An item that is to die at some points, once at each.

    With ``stops`` its worker is not killed there but stopped, for somebody else to kill: see
    killer.py. With ``left_early`` nobody reads its map to the end.
    """

    signs: Signs
    number: int
    points: tuple[str, ...] = ()
    stops: bool = False
    left_early: bool = False

    def may_die_at(self, point: str) -> bool:
        return point in self.points and self.signs.first(f"{self.number} died {point}")

    def die_at(self, point: str) -> None:
        if self.may_die_at(point):
            if self.stops:
                self.signs.note("stopped", os.getpid())
                os.kill(os.getpid(), signal.SIGSTOP)
            kill_self()


class Probe(base.Pattern):
    """A job sees its chunk by `chunk`, and has its worker killed later on by `die_at`.

    Args:
        patient: whether workers keep the items of a chunk that they have not begun, however long
            that takes. Else the load of the machine has a say in what a chunk is.

    Attributes:
        chunk: the number of the chunk that is worked on.
        slot: the worker's.
        die_at: "answer", after the last item of the chunk and before its results are sent, or
            "chunk", when they are on their way and the next chunk begins.
        refuses: whether what the chunk has done can't be kept.
    """

    _own_to_process: ClassVar[frozenset[str]] = frozenset(
        {"chunk", "slot", "die_at", "refuses", "_line"}
    )
    patient = False
    chunk = 0
    slot = 0
    die_at = ""
    refuses = False

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient

    def attach(self, worker: primitives.Worker) -> None:
        assert isinstance(worker, desk.Desk)
        self.slot = worker.slot
        self._line = worker._line
        if self.patient:
            worker._give_back = 3600

    def seem_late(self) -> None:
        """Have the item that runs seem to have begun an hour ago."""
        self._line[desk.SINCE] -= 3600 * 10**9

    def chunk_begins(self, chunk: int, left: int) -> None:
        self.chunk = chunk
        if self.die_at == "chunk":
            kill_self()

    def take_delta(self) -> object | None:
        if self.die_at == "answer":
            kill_self()
        if self.refuses:
            self.refuses = False
            raise ValueError("it can't be kept")
        return None


@dataclass
class Bare:
    """A state of nothing but a probe."""

    probe: Probe
