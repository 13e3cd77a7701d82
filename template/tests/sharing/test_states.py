"""The contract of a state: what is shared is a field of it, and anything else is refused."""

from __future__ import annotations

import multiprocessing
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import states
from probe import Bare, Probe
from states import Aliased, Around, Frozen, Odd, OwnPickle, Slot, Slots, Unset, alias_of, slot_of
from under_test import base, sharing


@pytest.mark.parametrize("state", [Slots(Slot()), Frozen(Slot()), Unset(Slot())])
def test_a_state_with_slots_or_without_all_values_is_shared(
    start_method: str, state: Slots | Frozen | Unset
) -> None:
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        assert list(engine.map(slot_of, range(3))) == [1, 1, 1]


def test_a_field_that_stands_elsewhere_as_well_is_shared(start_method: str) -> None:
    slot = Slot()
    state = Aliased(slot, {"slot": slot})
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        assert list(engine.map(alias_of, range(3))) == [True] * 3


@pytest.mark.parametrize("name", states.MISPLACED)
def test_a_pattern_anywhere_but_in_a_field_is_refused(name: str) -> None:
    state, where = states.MISPLACED[name]
    message = f"^{re.escape(where)} of the state, a [A-Z][a-z]+, is no field of it"
    with (
        pytest.raises(sharing.SharingError, match=message),
        sharing.open_engine(state, workers=1, start_method="fork"),
    ):
        pytest.fail("it is open")


def test_a_refused_state_can_be_mended_and_used(start_method: str) -> None:
    state = Aliased(Slot(), {"slot": Slot()})
    with pytest.raises(sharing.SharingError, match="is no field"):
        sharing.open_engine(state, workers=1, start_method=start_method).__enter__()
    state.by_name.clear()
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        assert list(engine.map(slot_of, [1])) == [1]


def test_a_pattern_among_what_each_worker_makes_its_own_of_is_refused() -> None:
    state = Around(sharing.PerWorker(Around, [Probe()]))
    with (
        pytest.raises(sharing.SharingError, match=r"^value\.args\[0\]\[0\] of the state, a Probe"),
        sharing.open_engine(state, workers=1, start_method="fork"),
    ):
        pytest.fail("it is open")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pattern_that_only_a_pickle_knows_of_is_refused(method: str) -> None:
    with (
        pytest.raises(sharing.SharingError, match="a Probe reaches the workers as a field of the"),
        sharing.open_engine(Around(OwnPickle()), workers=1, start_method=method),
    ):
        pytest.fail("it is open")


def test_nothing_of_the_user_runs_when_patterns_are_looked_for() -> None:
    state = Around([Odd(), {"odd": Odd()}])
    assert base.patterns_of(state) == []


@pytest.mark.parametrize("open_it", [False, True], ids=["closed", "open"])
def test_a_process_of_somebody_else_is_given_no_pattern(open_it: bool) -> None:
    state = Bare(Probe())
    process = multiprocessing.get_context("spawn").Process(target=print, args=(state,))
    with pytest.raises(sharing.SharingError, match="a Probe reaches the workers as a field"):
        if open_it:
            with sharing.open_engine(state, workers=1, start_method="fork"):
                process.start()
        else:
            process.start()


# Numbers of workers


class Whole:
    """A whole number of a type of its own."""

    def __index__(self) -> int:
        return 2


def test_workers_are_any_whole_number(start_method: str) -> None:
    workers: Any = Whole()
    with sharing.open_engine(Bare(Probe()), workers=workers, start_method=start_method) as engine:
        assert engine.workers == 2
        assert type(engine.workers) is int
        assert list(engine.map(partial(max), [])) == []


@pytest.mark.parametrize("workers", [2.0, 0.5, "2", float("nan"), Path("2"), [2], b"2"], ids=repr)
def test_workers_that_are_no_whole_number_are_refused(workers: Any) -> None:
    message = f"^workers must be a whole number above 0, not {re.escape(repr(workers))}$"
    with pytest.raises(sharing.SharingError, match=message):
        sharing.open_engine(Bare(Probe()), workers=workers)
