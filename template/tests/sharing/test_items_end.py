"""An item ends when its answer is on its way: what goes wrong before is its own, and nobody else's.

In each map of many there is a special item in the first, in a middle and in the last place of a
chunk of eight. All others have their values, and are counted once.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from driven_jobs import (
    BadToUnpickle,
    Item,
    State,
    answer_badly,
    answer_with_an_end,
    do_as_told,
    double,
    fork_and_come_back,
    number_of,
)
from signs import Signs
from under_test import channel, sharing

# By a thread, which ends a test whose engine goes on retrying while it closes, too.
pytestmark = pytest.mark.timeout(100, method="thread")

Engine = sharing.Engine[State]

SPECIAL = {8: (0, 12, 23), 1: (1,)}
"""The numbers of the special items, by the size of chunks."""

ITEMS = {8: 24, 1: 4}
"""How many items there are."""

HALVINGS = {8: 3, 1: 0}
"""How many tries more it takes at most to find one item of a chunk of which nothing is known."""


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests, which leave it as it was."""
    with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
        yield engine


@pytest.fixture(params=[1, 8])
def chunk_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def answers(engine: Engine, signs: Signs, how: str, chunk_size: int, **options: Any) -> Any:
    """The outcomes of items, of which the special ones answer like this."""
    special = SPECIAL[chunk_size]
    items = [Item(signs, n, how if n in special else "") for n in range(ITEMS[chunk_size])]
    return list(engine.outcomes(answer_badly, items, chunk_size=chunk_size, **options))


def unread(engine: Engine, signs: Signs, how: str, chunk_size: int, **options: Any) -> Any:
    """The outcomes of items, of which the special ones do this when they are unpickled."""
    special = SPECIAL[chunk_size]
    items = [
        BadToUnpickle(signs, n, how) if n in special else Item(signs, n)
        for n in range(ITEMS[chunk_size])
    ]
    return list(engine.outcomes(number_of, items, chunk_size=chunk_size, **options))


def assert_only_these_fail(outcomes: Any, chunk_size: int, error: type[Exception]) -> None:
    """The special items have that error, the others their number for a value."""
    special = SPECIAL[chunk_size]
    assert [type(one.error) for one in outcomes] == [
        error if n in special else type(None) for n in range(ITEMS[chunk_size])
    ]
    assert [one.value for one in outcomes] == [
        None if n in special else n for n in range(ITEMS[chunk_size])
    ]
    assert [one.error.item is one.item for one in outcomes if one.error] == [True] * len(special)


def assert_counted(engine: Engine, before: int | None, chunk_size: int, special: int) -> None:
    """Each of the others once; of the special ones that many."""
    if before is not None:
        others = ITEMS[chunk_size] - len(SPECIAL[chunk_size])
        assert engine.state.counted() == before + others + special


def tries(signs: Signs, chunk_size: int, what: str = "tried") -> list[int]:
    """How often each of the special items was tried."""
    return [len(signs.notes(f"{what} {n}")) for n in SPECIAL[chunk_size]]


def assert_tried(signs: Signs, chunk_size: int, times: int) -> None:
    """So often, or once more: behind results of plain types it is first pickled along with them."""
    found = tries(signs, chunk_size)
    assert found[0] == times
    assert set(found) <= {times, times + 1}


# Results


@pytest.mark.parametrize("how", ["kills", "exits"])
def test_a_result_whose_pickling_ends_the_worker(
    engine: Engine, signs: Signs, chunk_size: int, how: str
) -> None:
    before = engine.state.counted()
    outcomes = answers(engine, signs, how, chunk_size, retries=1)
    assert_only_these_fail(outcomes, chunk_size, sharing.WorkerDied)
    assert_tried(signs, chunk_size, 2)
    assert_counted(engine, before, chunk_size, 0)


def test_a_result_whose_pickling_kills_is_tried_once_without_retries(
    engine: Engine, signs: Signs, chunk_size: int
) -> None:
    outcomes = answers(engine, signs, "kills", chunk_size, retries=0)
    assert_only_these_fail(outcomes, chunk_size, sharing.WorkerDied)
    assert_tried(signs, chunk_size, 1)


def test_a_result_whose_pickling_hangs(engine: Engine, signs: Signs, chunk_size: int) -> None:
    before = engine.state.counted()
    outcomes = answers(engine, signs, "hangs", chunk_size, timeout=0.4)
    assert_only_these_fail(outcomes, chunk_size, sharing.ItemTimeout)
    assert_tried(signs, chunk_size, 1)
    assert_counted(engine, before, chunk_size, 0)


@pytest.mark.parametrize(
    "how", ["raises", "raises SystemExit", "raises KeyboardInterrupt", "is too deep"]
)
def test_a_result_that_can_not_be_pickled(
    engine: Engine, signs: Signs, chunk_size: int, how: str
) -> None:
    """It is an answer: no item runs again for it, and what each has added counts."""
    before = engine.state.counted()
    outcomes = answers(engine, signs, how, chunk_size)
    assert_only_these_fail(outcomes, chunk_size, sharing.JobFailed)
    assert [len(signs.notes(f"ran {n}")) for n in range(ITEMS[chunk_size])] == [1] * len(outcomes)
    assert_counted(engine, before, chunk_size, len(SPECIAL[chunk_size]))


def test_a_result_that_can_not_be_unpickled(engine: Engine, signs: Signs, chunk_size: int) -> None:
    """It is an answer: no item runs again for it, and what each has added counts."""
    before = engine.state.counted()
    outcomes = answers(engine, signs, "can't be rebuilt", chunk_size)
    assert_only_these_fail(outcomes, chunk_size, sharing.JobFailed)
    assert [len(signs.notes(f"ran {n}")) for n in range(ITEMS[chunk_size])] == [1] * len(outcomes)
    assert_counted(engine, before, chunk_size, len(SPECIAL[chunk_size]))
    for number in SPECIAL[chunk_size]:
        error = outcomes[number].error
        assert error is not None
        assert error.error_type == "LookupError"
        assert "can't be unpickled" in error.message
        assert f"can't be put together: {number}" in error.message


def test_nothing_but_results_that_can_not_be_unpickled(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n, "can't be rebuilt") for n in range(16)]
    outcomes = list(engine.outcomes(answer_badly, items, chunk_size=8))
    assert [type(one.error) for one in outcomes] == [sharing.JobFailed] * 16
    assert [len(signs.notes(f"ran {n}")) for n in range(16)] == [1] * 16


@pytest.mark.parametrize("name", ["SystemExit", "GeneratorExit"])
def test_a_result_that_ends_a_program_when_it_is_unpickled(
    engine: Engine, name: str, chunk_size: int
) -> None:
    """Neither does the program end nor the map, as if it were whole."""
    items = [(n, name) for n in range(12)]
    outcomes = list(engine.outcomes(answer_with_an_end, items, chunk_size=chunk_size))
    assert [one.value for one in outcomes] == [None if n == 3 else n for n in range(12)]
    error = outcomes[3].error
    assert isinstance(error, sharing.JobFailed)
    assert error.error_type == name
    assert list(engine.map(answer_with_an_end, items[:3])) == [0, 1, 2]


# The job itself


@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_child_that_a_job_forks_and_that_comes_back(
    engine: Engine, how: str, chunk_size: int
) -> None:
    """The worker answers, and nobody else: not with a value of the child, nor twice."""
    before = engine.state.counted()
    items = [(n, how) for n in range(12)]
    assert list(engine.map(fork_and_come_back, items, chunk_size=chunk_size)) == [*range(12)]
    if before is not None:
        assert engine.state.counted() == before + len(items)


def test_a_job_that_closes_all_descriptors(engine: Engine, signs: Signs, chunk_size: int) -> None:
    """Its worker can't say anything any more, which is as good as dead, and to be found first."""
    before = engine.state.counted()
    outcomes = answers(engine, signs, "closes all", chunk_size, retries=1, timeout=30)
    assert_only_these_fail(outcomes, chunk_size, sharing.WorkerDied)
    for tried in tries(signs, chunk_size, "ran"):
        assert 2 <= tried <= 2 + HALVINGS[chunk_size]
    assert_counted(engine, before, chunk_size, 0)


def test_a_worker_that_finds_its_pipe_closed_when_it_answers_has_not_answered(
    signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its answer seems to be on its way when the parent finds the pipe closed."""
    send = channel.Channel.send

    def take_time_and_send(self: channel.Channel, parts: list[bytes]) -> None:
        if signs.given("ran 1"):
            time.sleep(0.05)  # the parent finds it closed meanwhile
        send(self, parts)

    monkeypatch.setattr(channel.Channel, "send", take_time_and_send)
    with sharing.open_engine(State(), workers=1, start_method="fork") as engine:
        outcomes = answers(engine, signs, "closes all", 1, retries=1)
    assert_only_these_fail(outcomes, 1, sharing.WorkerDied)
    assert tries(signs, 1, "ran") == [2]


def test_an_item_that_dies_once_costs_the_others_of_its_chunk_nothing(
    engine: Engine, signs: Signs, chunk_size: int
) -> None:
    before = engine.state.counted()
    special = SPECIAL[chunk_size]
    items = [Item(signs, n, "dies once" if n in special else "") for n in range(ITEMS[chunk_size])]
    results = engine.map(do_as_told, items, chunk_size=chunk_size, retries=1)
    assert list(results) == list(range(ITEMS[chunk_size]))
    assert tries(signs, chunk_size) == [2] * len(special)
    assert_counted(engine, before, chunk_size, len(special))


# Items


def test_an_item_whose_unpickling_kills(engine: Engine, signs: Signs, chunk_size: int) -> None:
    before = engine.state.counted()
    outcomes = unread(engine, signs, "kills", chunk_size, retries=1)
    assert_only_these_fail(outcomes, chunk_size, sharing.WorkerDied)
    for tried in tries(signs, chunk_size):
        assert 2 <= tried <= 2 + HALVINGS[chunk_size]
    assert_counted(engine, before, chunk_size, 0)


def test_an_item_whose_unpickling_hangs(engine: Engine, signs: Signs, chunk_size: int) -> None:
    before = engine.state.counted()
    outcomes = unread(engine, signs, "hangs", chunk_size, timeout=0.4)
    assert_only_these_fail(outcomes, chunk_size, sharing.ItemTimeout)
    for tried in tries(signs, chunk_size):
        assert 1 <= tried <= 1 + HALVINGS[chunk_size]
    assert_counted(engine, before, chunk_size, 0)


@pytest.mark.parametrize("how", ["raises", "raises SystemExit", "raises KeyboardInterrupt"])
def test_an_item_whose_unpickling_raises(
    engine: Engine, signs: Signs, chunk_size: int, how: str
) -> None:
    before = engine.state.counted()
    outcomes = unread(engine, signs, how, chunk_size)
    assert_only_these_fail(outcomes, chunk_size, sharing.JobFailed)
    others = [n for n in range(ITEMS[chunk_size]) if n not in SPECIAL[chunk_size]]
    assert [len(signs.notes(f"ran {n}")) for n in others] == [1] * len(others)
    assert_counted(engine, before, chunk_size, 0)


# The first failure of a map, and what comes after


@pytest.mark.parametrize("how", ["kills", "hangs", "raises", "can't be rebuilt", "closes all"])
def test_a_map_raises_it_and_the_engine_goes_on(engine: Engine, signs: Signs, how: str) -> None:
    items = [Item(signs, n, how if n == 2 else "") for n in range(6)]
    results = engine.map(answer_badly, items, chunk_size=3, retries=0, timeout=0.5)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(sharing.JobFailed) as caught:
        next(results)
    assert caught.value.item == items[2]
    assert list(engine.map(double, range(20))) == [2 * n for n in range(20)]
