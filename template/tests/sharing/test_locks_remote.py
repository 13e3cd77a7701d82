"""The contract of `Lock` and `Guarded` on the engines beside `processes`, where they are leases."""

import time
from array import array
from collections.abc import Iterator

import locks_remote_jobs as jobs
import pytest
from locks_remote_jobs import State, fresh_state
from locks_remote_leases import leases
from remote_engines import REMOTE, SOON, module_of, name_of, opened
from remote_jobs import Task, meet
from signs import Signs, wait_until
from under_test import sharing

Engine = sharing.Engine[State]


@pytest.fixture(scope="module", params=REMOTE)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One for all tests: what they find is what was there before and what they add."""
    with opened(request, fresh_state()) as engine:
        yield engine


def added(engine: Engine, before: "array[int]") -> list[int]:
    """What is there more than before."""
    now = engine.state.accounts.read()
    return [one - other for one, other in zip(now, before, strict=True)]


def test_each_section_commits_once_whoever_is_killed(engine: Engine, signs: Signs) -> None:
    before = engine.state.accounts.read()
    tasks = [Task(signs, n) for n in range(30)]
    assert list(engine.map(jobs.in_two_sections, tasks, chunk_size=3)) == list(range(30))
    assert all(signs.given(f"{n} died") for n in (2, 7, 12, 17))
    assert added(engine, before) == [30] * 4


def test_a_lock_lets_one_in(engine: Engine, signs: Signs) -> None:
    (signs.folder / "number").write_text("0")
    tokens = list(engine.map(jobs.count_in_a_file, [Task(signs)] * 60, chunk_size=5))
    assert (signs.folder / "number").read_text() == "60"
    assert len(set(tokens)) == 60  # each lease has one of its own


@pytest.mark.parametrize("which", [0, 1], ids=["lock", "section"])
def test_the_lock_of_a_dead_worker_is_free_soon(engine: Engine, signs: Signs, which: int) -> None:
    """And not when its lease ends."""
    alone = module_of(name_of(engine)).DIES_ALONE
    if alone:  # a worker that was killed may not be back: both would be with the other one
        wait_until(lambda: len(set(engine.map(meet, [Task(signs, 2)] * 2, chunk_size=1))) == 2)
    begun = time.monotonic()
    found = list(engine.map(jobs.die_holding, [Task(signs, which)] * 2, chunk_size=1))
    assert sorted(found) == (["again", "got it"] if alone else ["again", "again"])
    assert time.monotonic() - begun < SOON < leases.LEASE


def test_an_exception_rolls_a_section_back_and_the_order_is_kept(engine: Engine) -> None:
    before = engine.state.accounts.read()
    (outcome,) = engine.outcomes(jobs.change_and_raise, [1])
    assert not outcome.ok
    assert engine.state.accounts.read() == before
    with pytest.raises(sharing.JobFailed, match="'first' was asked for while 'accounts' is held"):
        list(engine.map(jobs.take_two, [0]))
    with engine.state.accounts as accounts:  # the parent's sections are as good
        accounts[3] += 5
    assert added(engine, before) == [0, 0, 0, 5]


def test_a_holder_that_outlives_its_lease_commits_nothing(
    request: pytest.FixtureRequest, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody has noticed that he lives: his token is older than that of the next."""
    monkeypatch.setattr(leases, "LeaseStore", jobs.BriefStore)
    for name in REMOTE:
        own = Signs(signs.folder / name)
        own.folder.mkdir()
        state = fresh_state()
        with opened(request, state, engine=name) as engine:
            tasks = [Task(own)] * 2
            outcomes = list(engine.outcomes(jobs.outlive_the_lease, tasks, chunk_size=1))
            (error,) = (outcome.error for outcome in outcomes if outcome.error)
            assert error.error_type == "LockLost"
            assert "the lease on 'accounts' ended before its section did" in error.message
        assert state.accounts.read().tolist() == [1000, 1001, 1000, 1000]


def test_guarded_values_that_are_lost_raise_state_lost(
    request: pytest.FixtureRequest, signs: Signs
) -> None:
    for name in REMOTE:
        lose = getattr(module_of(name), "lose_services", None)
        if lose is None:
            continue
        with (
            pytest.raises(sharing.SharingError, match="what locks protect is lost"),
            opened(request, fresh_state(), engine=name) as engine,
        ):
            lose(engine)
            (outcome,) = engine.outcomes(jobs.in_two_sections, [Task(signs)])
            assert outcome.error is not None
            assert outcome.error.error_type == "StateLost"
            engine.state.accounts.read()


def test_guarded_values_go_into_the_next_engine(
    request: pytest.FixtureRequest, signs: Signs
) -> None:
    state = fresh_state()
    for place, name in enumerate(REMOTE, 1):
        with opened(request, state, engine=name, workers=1) as engine:
            list(engine.map(jobs.in_two_sections, [Task(signs)]))
        assert state.accounts.read().tolist() == [1000 + place] * 4
    with state.accounts as accounts:
        accounts[0] = 0
    assert state.accounts.read()[0] == 0


# Faults


def test_goes_red_without_receipts(
    request: pytest.FixtureRequest, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LeaseMutex", jobs.NoReceipts)
    for name in REMOTE[:1]:
        with (
            opened(request, fresh_state(), engine=name) as engine,
            pytest.raises(AssertionError),
        ):
            test_each_section_commits_once_whoever_is_killed(engine, signs)


def test_goes_red_if_a_death_frees_nothing(
    engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [name for name in REMOTE if module_of(name).DIES_ALONE]
    if name_of(engine) not in alone[:1]:
        pytest.skip("it takes as long as a lease, so one engine has to do")
    monkeypatch.setattr(leases.LeaseMutex, "holder_died", lambda *_: None)
    with pytest.raises(AssertionError):
        test_the_lock_of_a_dead_worker_is_free_soon(engine, signs, 0)
