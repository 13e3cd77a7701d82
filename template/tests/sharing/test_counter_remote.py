"""The contract of `Counter` and `Log` on the engines beside `processes`: as exact."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import counter_remote_jobs as jobs
import pytest
from counter_remote_jobs import State, fresh_state, tally
from remote_engines import REMOTE, opened
from remote_jobs import Task
from signs import Signs, wait_until
from under_test import sharing

Engine = sharing.Engine[State]


@pytest.fixture(scope="module", params=REMOTE)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One for all tests: what they find is what was there before and what they add."""
    with opened(request, fresh_state()) as engine:
        yield engine


def seen(engine: Engine) -> tuple[int, int, int, int]:
    """What has been counted and noted so far."""
    kinds = engine.state.kinds.values
    return engine.state.lines.value, kinds["even"], kinds["odd"], len(engine.state.log)


def records_since(engine: Engine, before: tuple[int, ...]) -> list[Any]:
    return engine.state.log.records[before[-1] :]


def test_counts_and_notes_in_the_order_of_the_items(engine: Engine) -> None:
    before = seen(engine)
    assert sum(engine.map(tally, range(1001))) == 500_500
    engine.state.lines.add(-1)
    after = (before[0] + 1000, before[1] + 501, before[2] + 500, before[3] + 1001)
    assert seen(engine) == after
    assert records_since(engine, before) == list(range(1001))


def test_a_worker_killed_in_an_item_counts_it_once(engine: Engine, signs: Signs) -> None:
    before = seen(engine)
    tasks = [Task(signs, n) for n in range(40)]
    assert list(engine.map(jobs.tally_but_die_once, tasks, chunk_size=10)) == list(range(40))
    assert signs.given("killed 13")
    assert signs.given("killed 31")
    assert seen(engine) == (before[0] + 40, before[1] + 20, before[2] + 20, before[3] + 40)
    assert records_since(engine, before) == list(range(40))


def test_a_worker_killed_from_outside_changes_nothing(engine: Engine, signs: Signs) -> None:
    def source() -> Iterator[Task]:
        for number in range(20):
            if number == 12:
                wait_until(lambda: signs.notes("pid"))
                os.kill(int(signs.notes("pid")[0]), signal.SIGKILL)
            yield Task(signs, number)

    before = seen(engine)
    assert list(engine.map(jobs.tally_and_wait, source(), chunk_size=2)) == list(range(20))
    assert seen(engine) == (before[0] + 20, before[1] + 10, before[2] + 10, before[3] + 20)
    assert records_since(engine, before) == list(range(20))


def test_an_item_that_kills_every_worker_does_not_count(engine: Engine, signs: Signs) -> None:
    before = seen(engine)
    tasks = [Task(signs, n) for n in range(20)]
    outcomes = list(engine.outcomes(jobs.tally_and_kill_always, tasks, chunk_size=4, retries=0))
    assert [outcome.item.number for outcome in outcomes if not outcome.ok] == [13]
    assert isinstance(outcomes[13].error, sharing.WorkerDied)
    assert seen(engine) == (before[0] + 19, before[1] + 10, before[2] + 9, before[3] + 19)
    assert records_since(engine, before) == [n for n in range(20) if n != 13]


def test_the_adds_of_an_item_that_raised_count(engine: Engine) -> None:
    before = seen(engine)
    outcomes = list(engine.outcomes(jobs.tally_and_raise, range(20)))
    assert [outcome.ok for outcome in outcomes] == [n % 2 == 0 for n in range(20)]
    assert seen(engine) == (before[0] + 20, before[1] + 10, before[2] + 10, before[3] + 20)


# Faults


def test_goes_red_if_what_rides_back_counts_twice(
    engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = sharing.Counter.receive_delta

    def twice(self: sharing.Counter, slot: int, delta: list[int]) -> None:
        receive(self, slot, delta)
        receive(self, slot, delta)

    monkeypatch.setattr(sharing.Counter, "receive_delta", twice)
    with pytest.raises(AssertionError):
        test_counts_and_notes_in_the_order_of_the_items(engine)


def test_goes_red_if_nothing_rides_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing.Log, "receive_delta", lambda *_: None)
    with pytest.raises(AssertionError):
        test_counts_and_notes_in_the_order_of_the_items(engine)
