"""A script that is interrupted in one of many places: see test_interrupts.py.

Its arguments: the start method, the folder of signs, the place, and the grace. It gives the sign
"now" when it is there. What it prints is what it has come to, a word and a value a line.
"""

import asyncio
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from driven_jobs import FOR_EVER, Item, State, double, wait_to_go
from signs import Signs
from under_test import driver, sharing, sources


def sleep_on() -> None:
    """Sleep for ever, in parts: a signal that comes just before a sleep does not end that."""
    while True:
        time.sleep(0.05)


def record(item: Item, state: State) -> int:
    """Leave a trace of each kind; item 60 then hangs."""
    state.count.add()
    state.log.append(item.number)
    with state.total as total:
        total[0] += 1
    if item.number == 60:
        item.signs.give("now")
        sleep_on()
    return item.number


def say(word: str, value: object) -> None:
    print(word, value, flush=True)


def leave_traces(signs: Signs, open_engine: Callable[..., Any]) -> None:
    """Sixty items end, one hangs and is cut off; say what of them is there."""
    state = State()
    caught = "nothing"
    try:
        with open_engine(state, workers=1) as engine:
            try:
                items = [Item(signs, number) for number in range(100)]
                list(engine.map(record, items, chunk_size=100))
            finally:
                signs.give("interrupted")
    except BaseException as error:
        caught = type(error).__name__
    say("caught", caught)
    say("counts", state.count.value)
    say("records", list(state.log.records) == list(range(60)))
    say("sections", state.total.read()[0])


def in_next_of_source(signs: Signs, open_engine: Callable[..., Any], **options: Any) -> None:
    def source() -> Iterator[int]:
        yield 0
        signs.give("now")
        sleep_on()

    with open_engine(State()) as engine:
        for value in engine.map(double, source(), **options):
            say("value", value)


def in_source_of_reader(signs: Signs, open_engine: Callable[..., Any]) -> None:
    in_next_of_source(signs, open_engine, source_thread=False)


def in_own_code(signs: Signs, open_engine: Callable[..., Any]) -> None:
    with open_engine(State()) as engine:
        for _ in engine.map(double, itertools.count()):
            signs.give("now")
            sleep_on()


def in_first_next(signs: Signs, open_engine: Callable[..., Any]) -> None:
    with open_engine(State()) as engine:
        items = [Item(signs, number + 1) for number in range(4)]
        results = engine.map(wait_to_go, items, chunk_size=1)
        try:
            signs.give("now")
            next(results)
        finally:
            signs.give("go")


def between_maps(signs: Signs, open_engine: Callable[..., Any]) -> None:
    with open_engine(State()) as engine:
        say("values", list(engine.map(double, range(5))))
        signs.give("now")
        sleep_on()


def under_asyncio(signs: Signs, open_engine: Callable[..., Any]) -> None:
    """A map that blocks the loop: the first Ctrl-C cancels the main task, when that waits next."""

    async def main() -> None:
        with open_engine(State()) as engine:
            items = [Item(signs, number) for number in range(4)]
            results = engine.map(wait_to_go, items, chunk_size=1)
            found = [next(results)]  # the others wait
            signs.give("now")
            say("values", [*found, *results])
            try:
                await asyncio.sleep(FOR_EVER)
            except asyncio.CancelledError:
                say("cancelled", True)
                raise

    asyncio.run(main())


def under_asyncio_in_a_thread(signs: Signs, open_engine: Callable[..., Any]) -> None:
    """A map that is read in a thread: Ctrl-C cancels who waits for that."""

    async def main() -> None:
        with open_engine(State()) as engine:
            items = (Item(signs, number) for number in itertools.count())
            results = engine.map(wait_to_go, items, chunk_size=1)
            try:
                await asyncio.to_thread(read, results)
            except asyncio.CancelledError:
                say("cancelled", True)
                signs.give("go")
                raise

    def read(results: Iterator[int]) -> None:
        try:
            for _ in results:
                signs.give("now")
            say("reader", "short")
        except BaseException as error:
            say("reader", type(error).__name__)

    asyncio.run(main())


def of_a_thread(signs: Signs, open_engine: Callable[..., Any]) -> None:
    """The engine lives in a thread, which is told to leave by the main one."""
    leave = threading.Event()
    left = threading.Event()

    def work() -> None:
        with open_engine(State()) as engine:
            total = 0
            for value in engine.map(double, itertools.count()):
                total += value >= 0
                if total > 50:
                    signs.give("now")
                if leave.is_set():
                    break
            say("after", list(engine.map(double, range(3))))
        left.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        # No `join`: Python up to 3.12 takes a thread for ended when that is interrupted.
        while not left.wait(0.05):
            pass
    finally:
        leave.set()
        say("left", left.wait(60))


def handled(signs: Signs, open_engine: Callable[..., Any]) -> None:
    """A handler of the program's own, whose exception is caught inside the loop."""

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    caught, found = 0, []
    before = signal.signal(signal.SIGINT, stop)
    with open_engine(State()) as engine:
        for value in engine.map(double, range(200), chunk_size=3):
            found.append(value)
            try:
                if value == 20:
                    signs.give("now")
                    sleep_on()
            except Stop:
                caught += 1
    say("caught", caught)
    say("whole", found == [2 * n for n in range(200)])
    signal.signal(signal.SIGINT, before)


PLACES: dict[str, Callable[..., None]] = {
    place.__name__: place
    for place in (
        leave_traces,
        in_next_of_source,
        in_source_of_reader,
        in_own_code,
        in_first_next,
        between_maps,
        under_asyncio,
        under_asyncio_in_a_thread,
        of_a_thread,
        handled,
    )
}


def main(start_method: str, folder: str, place: str, grace: str) -> None:
    signs = Signs(Path(folder))
    driver.GRACE = float(grace)
    sources.PATIENCE = 0.2

    def open_engine(state: State, workers: int = 2) -> Any:
        return sharing.open_engine(state, workers=workers, start_method=start_method)

    try:
        PLACES[place](signs, open_engine)
    finally:
        signs.give("closed")


if __name__ == "__main__":
    main(*sys.argv[1:])
