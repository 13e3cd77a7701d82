"""The contract of `PerWorker`: made in each worker at first use, and closed with it."""

import threading
from pathlib import Path

import per_worker_jobs as jobs
import pytest
from per_worker_jobs import State, fresh_state
from signs import Signs
from under_test import sharing


def test_each_worker_makes_its_own_value_at_first_use(start_method: str, signs: Signs) -> None:
    state = fresh_state(signs)
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        assert list(engine.map(jobs.nothing, range(10))) == [None] * 10
        assert signs.notes("opened") == []
        pids = set(engine.map(jobs.meet_and_use, [signs] * 2, chunk_size=1))
        assert len(pids) == 2
        assert set(engine.map(jobs.use, range(50), chunk_size=1)) <= pids
        assert sorted(signs.notes("opened")) == sorted(pids)
        assert signs.notes("closed") == []
        with pytest.raises(sharing.SharingError, match="'shop' is made in the workers only"):
            state.shop.get()
    assert sorted(signs.notes("closed")) == sorted(pids)


def test_a_new_worker_makes_its_own_value(start_method: str, signs: Signs) -> None:
    with sharing.open_engine(fresh_state(signs), workers=1, start_method=start_method) as engine:
        results = list(engine.map(jobs.use_and_die_once, [signs] * 2))
        assert len(set(results)) == 1
        assert len(signs.notes("opened")) == 2
    assert signs.notes("closed") == signs.notes("opened")[1:]


def test_a_factory_that_fails_is_asked_again(signs: Signs) -> None:
    state = fresh_state(Signs(signs.folder / "not there"))
    with sharing.open_engine(state, workers=1, start_method="fork") as engine:
        for _ in range(2):
            with pytest.raises(sharing.JobFailed, match="FileNotFoundError"):
                list(engine.map(jobs.use, [0]))
        state.shop.name = "shop"
        (signs.folder / "not there").mkdir()
        assert len(list(engine.map(jobs.use, [0]))) == 1


def test_a_value_is_made_in_this_process_outside_an_engine(signs: Signs, tmp_path: Path) -> None:
    state = fresh_state(signs)
    assert jobs.use(0, state) == jobs.use(1, state)
    assert len(signs.notes("opened")) == 1
    with sharing.open_engine(state, workers=1, start_method="fork") as engine:
        assert signs.notes("closed") == signs.notes("opened")  # no worker gets a copy of it
        list(engine.map(jobs.use, [0]))
    assert len(signs.notes("opened")) == 2
    state.shop.discard()
    jobs.use(0, state)
    assert len(signs.notes("opened")) == 3


def test_a_value_without_close_is_dropped() -> None:
    plain: sharing.PerWorker[list[int]] = sharing.PerWorker(list, (1, 2))
    assert plain.get() == [1, 2]
    assert plain.get() is plain.get()
    plain.discard()
    assert plain.get() == [1, 2]


def test_a_value_that_cannot_be_pickled_may_be_per_worker(start_method: str, signs: Signs) -> None:
    state = State(sharing.PerWorker(threading.Event), sharing.PerWorker(jobs.Shop, signs))
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        assert list(engine.map(jobs.set_event, [0])) == [True]
