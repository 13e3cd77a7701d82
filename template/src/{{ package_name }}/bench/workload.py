"""A shape of work, measured with each pattern on each engine and in one process."""

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as numbers
from random import Random
from typing import Any, Generic, TypeVar

from .advice import HANDING_OVER
from .record import Group
from .timing import Role, Setting, Way, each, measuring
from .units import show_seconds, show_size

S = TypeVar("S")

LONGEST = 0.05
"""Seconds: a longer item is measured as one of these. What sharing adds to it is the same."""

RUN = 0.2
"""Seconds that one run shall take, about."""

LONG_ENOUGH = 2.0
"""Seconds after which a pattern gets no further round."""

BYTES = 64_000_000
"""What the values or rows of a pattern take at most, all together."""


@dataclass(frozen=True)
class Shape:
    """A workload.

    Attributes:
        payload: bytes that an item brings along, or that are kept under its key.
        keys: how many there are; an item has one of them, any with the same chance.
        reads: the part of the items that only read what is shared, from 0 to 1.
        item_cost: seconds of a core that an item takes beside.
    """

    payload: int = 1_000
    keys: int = 1_000
    reads: float = 0.9
    item_cost: float = 0.001

    @property
    def slots(self) -> int:
        """How many payloads are kept."""
        return max(1, min(self.keys, BYTES // max(1, self.payload)))


@dataclass(frozen=True)
class Item:
    """One piece of such work."""

    key: int
    reads: bool
    payload: bytes


@dataclass(frozen=True)
class Work(Generic[S]):
    """What a pattern makes of a shape.

    Attributes:
        state: what is shared.
        job: what is done with an item in a worker.
        alone: the same in one process, as one would write it there.
        carries: whether an item brings the payload along; else it is where the state is.
    """

    state: S
    job: Callable[[Item, S], object]
    alone: Callable[[Item], object]
    carries: bool


Maker = Callable[[Shape], Work[Any]]
Do = Callable[[Iterator[Item]], Iterable[object]]


@dataclass
class Nothing:
    """The state of those who share nothing."""


def limits(shape: Shape) -> str:
    """Say in what the work that is measured is less than what was asked for; "" if in nothing."""
    said = []
    if shape.item_cost > LONGEST:
        longest, asked = show_seconds(LONGEST), show_seconds(shape.item_cost)
        said.append(f"An item of {asked} is measured as one of {longest}.")
    if shape.slots < shape.keys:
        size = show_size(BYTES)
        said.append(f"What is kept by key is kept for {shape.slots:,} at a time, in {size}.")
    return " ".join(said)


def burn(seconds: float) -> None:
    """Keep a core busy; what others do on it does not count."""
    if seconds:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass


def items_of(shape: Shape, count: int, carries: bool, run: int = 0) -> Iterator[Item]:
    """Yield items, others in each run, and the same to all who ask for the same run.

    If each run had the same ones, all keys would be known after the first, however many there are.
    Each item has bytes of its own, since the same object is sent only once.
    """
    random = Random(run)
    size = shape.payload if carries else 0
    for _ in range(count):
        yield Item(random.randrange(shape.keys), random.random() < shape.reads, bytes(size))


def handing_over(shape: Shape) -> Work[Nothing]:
    """What there is before any work: empty items for the workers, pickled payloads alone."""

    def alone(item: Item) -> None:
        loaded = Item(item.key, item.reads, bytes(shape.payload))
        pickle.loads(pickle.dumps(loaded, pickle.HIGHEST_PROTOCOL))

    return Work(Nothing(), ignore, alone, carries=False)


def ignore(_item: Item, _state: Nothing) -> None:
    """Do nothing with an item."""


def measuring_shape(
    shape: Shape, makers: dict[str, Maker], settings: list[Setting], rounds: int, to: list[Group]
) -> Iterator[str]:
    """Measure a shape, a group a pattern; yield the pattern's name after each round.

    Args:
        shape: the workload.
        makers: what makes the work of each pattern.
        settings: one an engine.
        rounds: how many count; fewer, where they take long.
        to: where the groups go.
    """
    shape = replace(shape, item_cost=min(shape.item_cost, LONGEST))
    size = show_size(shape.payload)
    title = f"Before any work: an empty item to a worker, and {size} pickled and back."
    count = settings[0].times(_fitting(shape))
    for name, maker in {HANDING_OVER: handing_over, **makers}.items():
        with ExitStack() as stack:
            items = max(count, 2 * settings[0].workers)
            ways, carries = _ways(stack, maker, shape, settings, items)
            end = time.monotonic() + LONG_ENOUGH
            for number in measuring(ways, rounds):
                yield name
                if number and time.monotonic() > end:
                    break
        pattern = title if name == HANDING_OVER else f"An item of the shape, with {name}."
        to.append(Group.of(name, pattern, settings[0].workers, ways, carries))


def _fitting(shape: Shape) -> int:
    """Say how many items make a run that is neither too short nor too long."""
    alone = handing_over(shape).alone
    pickling = each(3, lambda times: _go_through(map(alone, items_of(shape, times, False))))
    return max(1, min(5_000, int(RUN / max(shape.item_cost, pickling, 20e-6))))


def _ways(
    stack: ExitStack, maker: Maker, shape: Shape, settings: list[Setting], count: int
) -> tuple[list[Way], bool]:
    """Open each engine, on a state of its own, beside the work in one process.

    Returns:
        The ways, and whether their items carry the payload.
    """

    def way(name: str, do: Do, carries: bool, role: Role = "ours") -> Way:
        runs = numbers()

        def run() -> float:
            items = items_of(shape, count, carries, next(runs))
            return each(count, lambda _times: _go_through(do(items)))

        return Way(name, run, role)

    work = maker(shape)
    alone = "pickled and back" if maker is handing_over else "one process"
    ways = [way(alone, partial(map, work.alone), work.carries, "floor")]
    for setting in settings:
        work = maker(shape)
        engine = stack.enter_context(setting.open(work.state))
        name = f"{setting.engine}, {setting.workers} worker{'s'[: setting.workers > 1]}"
        do = partial(engine.map, work.job)
        ways.append(way(name, do, work.carries))
    return ways, work.carries


def _go_through(results: Iterable[object]) -> None:
    for _ in results:
        pass
