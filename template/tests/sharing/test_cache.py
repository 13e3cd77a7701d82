"""The contract of `Cache`: once a key, seen by all, and never a reason to fail."""

import os
import signal
from collections.abc import Callable, Iterator

import cache_jobs as jobs
import leftovers
import pytest
from cache_jobs import State, Task, fresh_state
from faults import assert_red
from signs import Signs, wait_until
from under_test import sharing

Engine = sharing.Engine[State]


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests; each has keys of its own."""
    with sharing.open_engine(fresh_state(), workers=2, start_method=start_method) as engine:
        yield engine


def both(engine: Engine, job: Callable[[Task, State], object], task: Task) -> list[object]:
    """What two workers return that have the same item."""
    return list(engine.map(job, [task, task], chunk_size=1))


# Once


def test_each_key_is_computed_once_over_all_workers(engine: Engine, signs: Signs) -> None:
    before = engine.state.results.stats().computed
    one, other = engine.map(jobs.get_all, [signs, signs], chunk_size=1)
    assert one == other == [(f"value {number}", number) for number in range(100)]
    assert sorted(map(int, signs.notes("computed"))) == list(range(100))
    assert engine.state.results.stats().computed == before + 100


def test_a_worker_waits_for_a_key_that_another_one_computes(engine: Engine, signs: Signs) -> None:
    assert both(engine, jobs.compute_and_wait, Task(signs, "wait")) == ["wait", "wait"]
    assert len(signs.notes("computing")) == 1


def test_none_is_a_value(engine: Engine, signs: Signs) -> None:
    tasks = [Task(signs, "none")] * 6
    assert list(engine.map(jobs.compute_once, tasks, chunk_size=1)) == [None] * 6
    assert len(signs.notes("computed")) == 1
    assert engine.state.results.get("none", "default") is None
    assert engine.state.results.get_many(["none", "not there"]) == {"none": None}
    assert engine.state.results.get("not there", "default") == "default"


def test_a_key_that_waits_for_itself_is_told(engine: Engine, signs: Signs) -> None:
    with pytest.raises(sharing.JobFailed, match=r"CacheLoopError: .*waits for itself: 'key"):
        list(engine.map(jobs.need_oneself, ["key of itself"]))
    tasks = [Task(signs, number=number) for number in range(2)]
    outcomes = list(engine.outcomes(jobs.need_each_other, tasks, chunk_size=1))
    errors = [outcome.error.error_type for outcome in outcomes if outcome.error]
    assert "CacheLoopError" in errors
    values = [outcome.value for outcome in outcomes if outcome.ok]
    assert set(values) <= {"nobody computes it twice"}


def test_threads_of_a_worker_compute_a_key_once(engine: Engine, signs: Signs) -> None:
    expected = sorted(list(range(30)) * 4)
    assert list(engine.map(jobs.in_threads, [signs] * 2, chunk_size=1)) == [expected] * 2
    assert len(signs.notes("computed")) == 30


def test_an_exception_of_compute_is_its_callers_and_the_next_computes(
    engine: Engine, signs: Signs
) -> None:
    tasks = [Task(signs, "raises")] * 2
    outcomes = list(engine.outcomes(jobs.compute_or_raise, tasks, chunk_size=1))
    (error,) = (outcome.error for outcome in outcomes if outcome.error)
    assert error.error_type == "LookupError"
    assert [outcome.value for outcome in outcomes if outcome.ok] == ["from the next"]


def test_a_value_that_cannot_be_pickled_is_returned_and_not_kept(engine: Engine) -> None:
    assert list(engine.map(jobs.compute_unpicklable, [1, 2])) == [[1, 1], [2, 2]]
    with pytest.raises(sharing.JobFailed, match="key 'bad' of 'results' can't be pickled"):
        list(engine.map(jobs.put_unpicklable, [0]))


# Seen by all


def test_changes_are_seen_by_all_at_once(engine: Engine, signs: Signs) -> None:
    seen = both(engine, jobs.in_turns, Task(signs, "turns"))
    (values,) = (each for each in seen if each)
    there = [(value, {"turns": value}, value) for value in ("put", "put over", "again")]
    gone: tuple[str, dict[str, str], str] = ("none", {}, "none")
    assert values == [there[0], there[1], gone, there[2], gone]


def test_the_main_process_uses_the_same_cache(engine: Engine, signs: Signs) -> None:
    engine.state.results.put("by the parent", 1)
    assert list(engine.map(jobs.compute_once, [Task(signs, "by the parent")])) == [1]
    assert engine.state.results.get_or_compute("parent's own", lambda: 2) == 2
    assert list(engine.map(jobs.compute_once, [Task(signs, "parent's own")])) == [2]
    assert signs.notes("computed") == []


def test_a_value_forgotten_while_it_is_computed_is_not_kept(engine: Engine) -> None:
    assert list(engine.map(jobs.compute_and_invalidate, ["outdated"])) == [["outdated", "fresh"]]


def test_max_entries_keeps_the_latest_used(engine: Engine) -> None:
    keys = list(range(6))
    list(engine.map(jobs.put_all, [{0: "a", 1: "b", 2: "c"}]))
    assert list(engine.map(jobs.get_small, [keys])) == [{0: "a", 1: "b", 2: "c"}]
    engine.state.small.get(0)
    list(engine.map(jobs.put_all, [{3: "d", 4: "e"}]))
    engine.state.small._belong_to(None)  # what a process remembers itself is its own
    assert set(engine.state.small.get_many(keys)) == {0, 3, 4}
    assert engine.state.small.stats().entries == 3
    assert engine.state.small.stats().evicted >= 2


def test_a_value_expires_after_its_ttl(engine: Engine, signs: Signs) -> None:
    def ask(number: int) -> set[int]:
        return set(engine.map(jobs.compute_brief, [Task(signs, "brief", number)] * 8, chunk_size=1))

    (first,) = ask(1)
    assert first == 1
    wait_until(lambda: engine.state.brief.stats().entries == 0)
    assert ask(2) == {2}


# Deaths


def test_the_next_worker_computes_when_the_computing_one_is_killed(
    engine: Engine, signs: Signs
) -> None:
    task = Task(signs, "killed")
    assert both(engine, jobs.compute_or_die, task) == ["alive", "alive"]
    assert len(signs.notes("computed")) == 1
    assert list(engine.map(jobs.compute_once, [task] * 2)) == ["alive"] * 2


def servers(engine: Engine) -> set[leftovers.Process]:
    """The process that serves the caches."""
    host = engine._crew._host  # type: ignore[attr-defined]
    process = host.services.process
    return {other for other in leftovers.everybody() if process and other.pid == process.pid}


def wait_for_another(engine: Engine, killed: leftovers.Process) -> None:
    """Wait until there is one; the engine looks after that while a map is read."""
    wait_until(lambda: (list(engine.map(jobs.nothing, [0])), servers(engine) - {killed})[1])


def test_a_cache_goes_on_when_its_process_is_killed(start_method: str, signs: Signs) -> None:
    state = fresh_state()
    state.results.put("before", "lost with the server")
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        for round_ in range(2):
            (server,) = servers(engine)
            results = []
            tasks = (Task(signs, ("round", round_, n % 50)) for n in range(2_000))
            for place, result in enumerate(engine.map(jobs.compute_once, tasks, chunk_size=5)):
                results.append(result)
                if place == 200:
                    os.kill(server.pid, signal.SIGKILL)
            assert results == [None] * 2_000
            wait_for_another(engine, server)
        assert state.results.get("before") is None
        list(engine.map(jobs.compute_once, [Task(signs, "after")] * 10, chunk_size=1))
        assert signs.notes("computed").count("after") == 1
        assert state.results.get("after", "default") is None


# Outside an engine, and from one to the next


def test_a_cache_works_outside_an_engine(signs: Signs) -> None:
    state = fresh_state()
    tasks = [Task(signs, key) for key in "aabab"]
    assert [jobs.compute_once(task, state) for task in tasks] == [None] * 5
    assert signs.notes("computed") == ["a", "b"]
    with pytest.raises(sharing.CacheLoopError):
        jobs.need_oneself("x", state)
    assert jobs.compute_and_invalidate("y", state) == ["outdated", "fresh"]
    jobs.put_all({n: n for n in range(9)}, state)
    assert state.small.stats().entries == 3
    state.small.clear()
    assert state.small.stats().entries == 0
    assert state.small.get_many(range(9)) == {}


def test_a_cache_takes_its_values_into_the_next_engine(start_method: str, signs: Signs) -> None:
    state = fresh_state()
    state.results.put("before", [1, 2])
    for _ in range(2):
        with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
            assert list(engine.map(jobs.compute_once, [Task(signs, "before")])) == [[1, 2]]
            list(engine.map(jobs.compute_once, [Task(signs, n) for n in range(10)]))
        assert state.results.get_many(range(20)) == dict.fromkeys(range(10))
        start_method = "fork"
    assert len(signs.notes("computed")) == 10
    assert state.results.get("before") == [1, 2]
    assert state.results.stats().entries == 11


def test_bad_bounds_of_a_cache_are_refused() -> None:
    with pytest.raises(ValueError, match="max_entries must be above 0, not 0"):
        sharing.Cache(max_entries=0)
    with pytest.raises(ValueError, match="ttl must be above 0 seconds, not -1"):
        sharing.Cache(ttl=-1)


# Faults


def nobody_waits() -> None:
    """Ask, and compute if there is nothing: as with a dictionary."""

    def ask(self: sharing.Cache, key: str, compute: Callable[[], object]) -> object:
        value = self.get(key, self)
        if value is self:
            value = compute()
            self.put(key, value)
        return value

    sharing.Cache.get_or_compute = ask  # type: ignore[method-assign, assignment]


def the_near_level_never_forgets() -> None:
    """Have each worker believe what it remembers."""
    sharing.Cache._refresh = lambda self: self._seen  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (nobody_waits, test_each_key_is_computed_once_over_all_workers, "fork"),
        (the_near_level_never_forgets, test_changes_are_seen_by_all_at_once, "fork"),
    ],
)
def test_each_fault_makes_a_test_fail(
    fault: Callable[[], None], test: Callable[..., None], variant: str
) -> None:
    assert_red(fault, test, variant)
