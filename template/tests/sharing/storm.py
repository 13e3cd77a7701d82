"""A storm: one engine, with all that this project's workers share, while they are killed.

Each `*_storm.py` beside this file is the part of a pattern: the fields that it brings to the
state, what an item does with them, where it can die, and what has to hold whoever has.
"""

import contextlib
import importlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leftovers
from probe import Probe, Step, kill_self
from signs import Signs
from storm_part import Part, Wrong, compare
from under_test import channel, primitives, sharing

HERE = Path(__file__).parent
PARTS: list[Part] = [
    importlib.import_module(path.stem).PART for path in sorted(HERE.glob("*_storm.py"))
]
POINTS = tuple(
    point
    for points in (
        ("answer", "chunk", "half an answer", "while another starts"),
        *(p.points for p in PARTS),
    )
    for point in points
)
WORKERS = 3
ITEMS = 60
"""In a map of a storm."""

OFTEN = 1 << 20
"""Tries of an item: here nobody is to blame for a death."""


class Watch(Probe):
    """Knows who works and counts who has died; and some die while they start."""

    deaths = 0

    def __init__(self, signs: Signs) -> None:
        self.signs = signs

    def attach(self, worker: primitives.Worker) -> None:
        super().attach(worker)
        with contextlib.suppress(FileNotFoundError):
            (self.signs.folder / "dies while it starts").unlink()
            kill_self()
        self.signs.note("workers", os.getpid())

    def worker_died(self, slot: int, chunk: int, item: int) -> int:
        self.deaths += 1
        return 0


@dataclass
class Base:
    """What each storm has."""

    signs: Signs
    watch: Watch


State: Any = dataclass(
    type("State", (*(part.share for part in PARTS), Base), {"__module__": __name__})
)


def work(step: Step, state: Any) -> int | bytes:
    """A little with each of what is shared."""
    for part in PARTS:
        part.work(step, state)
    for moment in ("answer", "chunk"):
        if step.may_die_at(moment):
            state.watch.die_at = moment
    if step.may_die_at("while another starts"):
        step.signs.give("dies while it starts")
        kill_self()
    if step.may_die_at("half an answer"):
        channel.Channel.send = send_half  # type: ignore[method-assign]
        return bytes(300_000)
    return step.number


def send_half(self: channel.Channel, parts: list[bytes]) -> None:
    """Die when a part of this is in the pipe."""
    data = b"".join(parts)
    os.write(self.writer, data[: len(data) // 2])
    kill_self()


class Storm:
    """An engine, how far it has come, and what went wrong on the way.

    Attributes:
        items: how many have ended.
        maps: how many beside those of the items.
        wrong: what is not as it should be.
    """

    def __init__(self, engine: sharing.Engine[Any], dice: random.Random) -> None:
        self.engine = engine
        self.state = engine.state
        self.items = self.maps = 0
        self.wrong: list[Wrong] = []
        self._dice = dice
        self._some_stop = False

    @property
    def kills(self) -> int:
        """How many workers have died."""
        deaths: int = self.state.watch.deaths
        return deaths

    def blow(self, kills: int) -> None:
        """Run maps until so many more workers have died, or something is wrong."""
        end = self.kills + kills
        with killing(self.state.signs, self._dice):
            self._some_stop = True
            while self.kills < end and not self.wrong:
                steps = self.next_steps(ITEMS, one_in=10)
                self.take(steps, list(self.engine.map(work, steps, retries=OFTEN)))
                self.map_beside()
            self._some_stop = False

    def next_steps(self, count: int, one_in: int = 0) -> list[Step]:
        """Make items, of which one in so many is to die somewhere."""
        numbers = range(self.items, self.items + count)
        dice = self._dice
        return [
            self._step(n, (dice.choice(POINTS),) if one_in and dice.randrange(one_in) == 0 else ())
            for n in numbers
        ]

    def _step(self, number: int, points: tuple[str, ...]) -> Step:
        stops = self._some_stop and self._dice.random() < 0.25
        return Step(self.state.signs, number, points, stops)

    def take(self, steps: list[Step], results: list[object]) -> None:
        """Look at what these have returned, and at all that is shared."""
        self.items += len(steps)
        if results != [one.number for one in steps]:
            self.wrong += compare("results", len(results), len(steps))
            self.wrong.append(Wrong("torn", "the results are not those of the items"))
        self.look()

    def map_beside(self) -> None:
        """Run the other maps, where there are any; somebody dies in each."""
        self.maps += 1
        for part in PARTS:
            part.beside(self.engine, self._step(-self.maps, part.points))
        self.look()

    def look(self) -> None:
        """Look at all that is shared."""
        for part in PARTS:
            self.wrong += part.look(self.state, self.items, self.maps)
        self.wrong += [Wrong("torn", line) for line in self.state.signs.notes("torn")]


@contextlib.contextmanager
def open_storm(signs: Signs, start_method: str, dice: random.Random) -> Iterator[Storm]:
    """Open an engine with all that is shared."""
    state = State(signs, Watch(signs))
    with sharing.open_engine(state, workers=WORKERS, start_method=start_method) as engine:
        yield Storm(engine, dice)


@contextlib.contextmanager
def killing(signs: Signs, dice: random.Random) -> Iterator[None]:
    """Have workers killed from outside, about as fast as others start in their place."""
    workers = set(map(int, signs.notes("workers")))
    for process in leftovers.family(os.getpid()):
        if process.pid not in workers:
            signs.note("spared", process.pid)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [os.getpid(), signs.folder, dice.randrange(1 << 32), 0.02]
    with subprocess.Popen(
        [sys.executable, HERE / "killer.py", *map(str, arguments)], env=environment
    ) as killer:
        try:
            yield
        finally:
            signs.give("calm")
            killer.wait(10)
            killer.kill()
