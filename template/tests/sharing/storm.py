"""A storm: one engine, with all that this project's workers share, while they are killed.

Several threads run maps at once: one is read to its end, one feeds another, one comes in any order,
one is left early.

Each `*_storm.py` beside this file is the part of a pattern: the fields that it brings to the
state, what an item does with them, where it can die, and what has to hold whoever has.
"""

import contextlib
import importlib
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_threads
import leftovers
from probe import Probe, Step, kill_self
from signs import Signs
from storm_part import Ended, Part, Wrong, compare
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

FEW = 20
"""In one of several maps at once."""

LIMIT = 300.0
"""Seconds after which a thread that runs a map is taken to hang."""

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
    if step.left_early:
        step.signs.note("begun", step.number)
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
        ended: the items and maps that have.
        wrong: what is not as it should be.
        beginning: held from the numbering of items until their map has begun, since a log has
            the records of maps in the order in which these begin.
    """

    def __init__(self, engine: sharing.Engine[Any], dice: random.Random) -> None:
        self.engine = engine
        self.state = engine.state
        self.ended = Ended()
        self.wrong: list[Wrong] = []
        self._dice = dice
        self._some_stop = False
        self._count = 0  # of the items of all maps
        self._left: list[tuple[range, set[int]]] = []  # what was left early, and had begun by then
        self.beginning = threading.RLock()

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
                with self.others():
                    self._read(self._chance())
                self.look()
            self._some_stop = False

    @contextlib.contextmanager
    def others(self) -> Iterator[None]:
        """Have maps of other threads run meanwhile."""
        kinds = (self._read_unordered, self._feed, self._leave_early, self._run_beside)
        threads = [in_threads.start(kind, self._chance()) for kind in kinds]
        yield
        for thread in threads:
            thread.result(LIMIT)

    def _chance(self) -> random.Random:
        """What a thread has to itself, so that it does the same again for the same seed."""
        return random.Random(self._dice.randrange(1 << 32))

    # Maps, each in a thread of its own

    def _read(self, dice: random.Random) -> None:
        steps, results = self._begin(FEW, dice)
        self._add(steps, list(results))

    def _read_unordered(self, dice: random.Random) -> None:
        with self.beginning:
            steps = self.next_steps(FEW, one_in=10, dice=dice)
            outcomes = self.engine.outcomes(work, steps, ordered=False, retries=OFTEN)
        found = {outcome.item.number: outcome.value for outcome in outcomes}
        self._add(steps, [found.get(step.number) for step in steps])

    def _feed(self, dice: random.Random) -> None:
        """Each result of the first has an item of the second begin."""
        fed: list[object] = []

        def feed() -> Iterator[Step]:
            for result, step in zip(results, others, strict=True):
                fed.append(result)
                yield step

        with self.beginning:
            steps, results = self._begin(FEW, dice)
            others = self.next_steps(FEW, one_in=10, dice=dice)
            last = self.engine.map(work, feed(), retries=OFTEN)
        self._add(others, list(last))
        self._add(steps, fed)

    def _leave_early(self, dice: random.Random) -> None:
        steps, results = self._begin(ITEMS, dice, left_early=True)
        taken = list(itertools.islice(results, dice.randrange(FEW)))
        results.close()
        self._add(steps[: len(taken)], taken)
        numbers = range(steps[0].number, steps[-1].number + 1)
        self._left.append((numbers, self._begun().intersection(numbers)))

    def _run_beside(self, dice: random.Random) -> None:
        """Run the other maps, where there are any; somebody dies in each."""
        self.ended.maps += 1
        for part in PARTS:
            part.beside(self.engine, self._step(-self.ended.maps, part.points, dice))

    def _begin(
        self, count: int, dice: random.Random, *, left_early: bool = False
    ) -> tuple[list[Step], Any]:
        """Begin a map."""
        with self.beginning:
            steps = self.next_steps(count, one_in=10, dice=dice, left_early=left_early)
            items = iter(steps) if dice.random() < 0.5 else steps
            size = dice.choice((None, 1, 4))
            return steps, self.engine.map(work, items, chunk_size=size, retries=OFTEN)

    def next_steps(
        self,
        count: int,
        one_in: int = 0,
        *,
        dice: random.Random | None = None,
        left_early: bool = False,
    ) -> list[Step]:
        """Make items, of which one in so many is to die somewhere."""
        dice = dice or self._dice
        with self.beginning:
            numbers = range(self._count, self._count + count)
            self._count += count
        steps = []
        for n in numbers:
            dies = one_in and dice.randrange(one_in) == 0
            steps.append(self._step(n, (dice.choice(POINTS),) if dies else (), dice, left_early))
        return steps

    def _step(
        self, number: int, points: tuple[str, ...], dice: random.Random, left_early: bool = False
    ) -> Step:
        stops = self._some_stop and dice.random() < 0.25
        return Step(self.state.signs, number, points, stops, left_early)

    # What has come of them

    def take(self, steps: list[Step], results: list[object]) -> None:
        """Look at what these have returned, and at all that is shared."""
        self._add(steps, results)
        self.look()

    def _add(self, steps: list[Step], results: list[Any]) -> None:
        if results != [one.number for one in steps]:
            self.wrong += compare("results", len(results), len(steps))
            self.wrong.append(Wrong("torn", "the results are not those of the items"))
        self.ended.surely.update(step.number for step in steps)

    def map_beside(self) -> None:
        """Run the other maps, and look at all that is shared."""
        self._run_beside(self._dice)
        self.look()

    def look(self) -> None:
        """Look at all that is shared, while nothing runs."""
        begun = self._begun()
        for numbers, before in self._left:
            for number in sorted(begun.intersection(numbers) - before):
                self.wrong.append(Wrong("torn", f"item {number} began after its map was left"))
        self.ended.perhaps = begun - self.ended.surely
        for part in PARTS:
            self.wrong += part.look(self.state, self.ended)
        self.wrong += [Wrong("torn", line) for line in self.state.signs.notes("torn")]

    def _begun(self) -> set[int]:
        """The numbers of the items that began in maps that were left early."""
        return set(map(int, self.state.signs.notes("begun")))


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
