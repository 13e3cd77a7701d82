"""The contract of `Cache` on the engines beside `processes`."""

import time
from collections.abc import Iterator

import cache_remote_jobs as jobs
import pytest
from cache_remote_jobs import State
from remote_engines import REMOTE, SOON, module_of, name_of, opened
from remote_jobs import Task
from signs import Signs
from under_test import sharing

Engine = sharing.Engine[State]


@pytest.fixture(scope="module", params=REMOTE)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One for all tests, with four workers; each has keys of its own."""
    with opened(request, State(sharing.Cache()), workers=4) as engine:
        yield engine


def test_each_key_is_computed_once_over_all_workers(engine: Engine, signs: Signs) -> None:
    tasks = [Task(signs, number) for number in range(4)]
    found = list(engine.map(jobs.get_all, tasks, chunk_size=1))
    assert found == [[f"value {number}" for number in range(100)]] * 4
    assert sorted(map(int, signs.notes("computed"))) == list(range(100))


def test_the_main_process_uses_the_same_cache(engine: Engine, signs: Signs) -> None:
    engine.state.results.put(777, 7)
    assert list(engine.map(jobs.compute_once, [Task(signs, 777)])) == [7]
    list(engine.map(jobs.put, [Task(signs, 1)]))
    assert engine.state.results.get(("put", 1)) == 1
    engine.state.results.invalidate(777)
    assert list(engine.map(jobs.compute_once, [Task(signs, 777)])) == [777]
    assert signs.notes("computed") == ["777"]


def test_the_next_worker_computes_when_the_computing_one_is_killed(
    engine: Engine, signs: Signs
) -> None:
    begun = time.monotonic()
    values = list(engine.map(jobs.compute_or_die, [Task(signs)] * 2, chunk_size=1))
    assert values == ["alive"] * 2
    assert time.monotonic() - begun < SOON
    assert 1 <= len(signs.notes("computed")) <= 2  # twice where the waiting one was ended, too


def test_a_cache_goes_on_when_its_process_is_killed(engine: Engine, signs: Signs) -> None:
    lose = getattr(module_of(name_of(engine)), "lose_services", None)
    if lose is None:
        pytest.skip("it lives where the run can't survive anyway")
    list(engine.map(jobs.compute_once, [Task(signs, n) for n in range(10)]))
    lose(engine)
    for _ in range(2):
        found = list(engine.map(jobs.compute_once, [Task(signs, n) for n in range(10)]))
        assert found == list(range(10))
    assert set(signs.notes("computed")) == set(map(str, range(10)))


def test_a_cache_takes_its_values_into_the_next_engine(
    request: pytest.FixtureRequest, signs: Signs
) -> None:
    state = State(sharing.Cache())
    state.results.put(0, "before")
    for name in REMOTE:
        with opened(request, state, engine=name, workers=1) as engine:
            found: list[object] = list(engine.map(jobs.compute_once, [Task(signs, 0)]))
            assert found == ["before"]
            list(engine.map(jobs.compute_once, [Task(signs, n) for n in range(3)]))
    assert state.results.get_many(range(9)) == {0: "before", 1: 1, 2: 2}
    assert signs.notes("computed") == ["1", "2"]
