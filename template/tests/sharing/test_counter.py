"""The contract of `Counter`: exact whatever happens, and live."""

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from operator import index
from types import SimpleNamespace
from typing import Any, cast

import pytest
from counter_jobs import (
    State,
    add_and_die,
    add_and_raise,
    add_and_wait,
    add_much,
    add_what_it_is,
    add_with_the_other,
    fresh_state,
    give_counter,
    subtract,
    tally,
    tally_and_arm,
    tally_and_kill_always,
    tally_and_note,
    tally_but_break_the_first,
    tally_but_die_once,
    tally_in_steps,
)
from faults import assert_red
from signs import LIMIT, Signs, wait_until
from under_test import chunks, desk, events, primitives, pump, sharing

Engine = sharing.Engine[State]

SOON = LIMIT / 2
"""Seconds within which an add is seen, at the latest; the worker waits longer."""


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests: what they find is what was there before and what they add."""
    with sharing.open_engine(fresh_state(), workers=2, start_method=start_method) as engine:
        yield engine


def test_no_add_is_lost_when_all_add_at_once(engine: Engine, signs: Signs) -> None:
    before = engine.state.lines.value
    list(engine.map(add_with_the_other, [signs, signs], chunk_size=1))
    assert engine.state.lines.value == before + 100_000


def test_counts_by_label(engine: Engine) -> None:
    before = engine.state.kinds.values
    assert list(before) == ["even", "odd"]
    assert sum(engine.map(tally, range(1001))) == 500_500
    after = engine.state.kinds.values
    assert after == {"even": before["even"] + 501, "odd": before["odd"] + 500}
    assert engine.state.kinds.value == sum(after.values())


def test_a_counter_adds_any_whole_number(engine: Engine) -> None:
    before = engine.state.lines.value
    list(engine.map(subtract, [5, 0, 2**40]))
    assert engine.state.lines.value == before - 5 - 2**40
    engine.state.lines.add(7)
    assert engine.state.lines.value == before + 2 - 2**40


def test_the_adds_of_an_item_that_raised_count(engine: Engine) -> None:
    before = engine.state.lines.value
    outcomes = list(engine.outcomes(add_and_raise, [1, 20, 300]))
    assert not any(outcome.ok for outcome in outcomes)
    assert engine.state.lines.value == before + 321


def test_a_counter_is_live_while_an_item_runs(engine: Engine, signs: Signs) -> None:
    before, odd = engine.state.lines.value, engine.state.kinds.values["odd"]
    live = False

    def is_seen() -> bool:
        lines, kinds = engine.state.lines, engine.state.kinds
        return lines.value == before + 3 and kinds.values["odd"] == odd + 4

    def source() -> Iterator[Signs]:
        nonlocal live
        yield signs
        signs.wait("added")  # asked for the next one while the first runs
        with contextlib.suppress(TimeoutError):
            wait_until(is_seen, SOON)
            live = True
        signs.give("seen")

    assert list(engine.map(add_and_wait, source())) == [None]
    assert live
    assert is_seen()


def test_leaving_early_counts_what_ran(engine: Engine, signs: Signs) -> None:
    before = engine.state.lines.value
    for result in engine.map(tally_and_note, ((signs, n) for n in count())):
        assert result == 0
        break
    assert engine.state.lines.value == before + len(signs.notes("ran")) > before


# Deaths


def test_a_worker_killed_in_an_item_counts_it_once(engine: Engine, signs: Signs) -> None:
    before = engine.state.lines.value
    assert list(engine.map(tally, range(100), chunk_size=10)) == list(range(100))
    items = [(signs, n) for n in range(40)]
    assert list(engine.map(tally_but_die_once, items, chunk_size=20)) == list(range(40))
    assert signs.given("killed")
    assert engine.state.lines.value == before + 140
    # And what comes after builds on that.
    assert list(engine.map(tally, range(100), chunk_size=10)) == list(range(100))
    assert engine.state.lines.value == before + 240


@pytest.mark.parametrize("where", ["before:answer", "after:answer", "before:chunk", "after:chunk"])
def test_a_worker_killed_between_items_counts_each_once(
    engine: Engine, signs: Signs, where: str
) -> None:
    before = engine.state.lines.value
    # More than may wait for the first chunk, so that its worker gets another one.
    items = [(signs, n, where) for n in range(1_000)]
    # Without a retry: nobody was running, so nobody is to blame.
    results = engine.map(tally_and_arm, items, chunk_size=20, retries=0)
    assert list(results) == list(range(1_000))
    assert signs.given(f"killed {where}")
    assert engine.state.lines.value == before + 1_000


def test_an_item_that_kills_every_worker_does_not_count(engine: Engine) -> None:
    before = engine.state.kinds.values
    outcomes = list(engine.outcomes(tally_and_kill_always, range(40), chunk_size=20, retries=1))
    assert [outcome.item for outcome in outcomes if not outcome.ok] == [13]
    after = engine.state.kinds.values
    assert after == {"even": before["even"] + 20, "odd": before["odd"] + 19}


def test_workers_killed_from_outside_change_nothing(engine: Engine) -> None:
    before = engine.state.lines.value
    kills = 0
    seen = []
    for item, pid in engine.map(
        tally_in_steps, range(200), chunk_size=5, ordered=False, retries=30
    ):
        seen.append(item)
        if len(seen) in (30, 60, 90):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1
    assert kills
    assert sorted(seen) == list(range(200))
    assert engine.state.lines.value == before + 200_000


def test_a_counter_steps_back_to_what_is_certain_when_a_worker_dies(engine: Engine) -> None:
    before = engine.state.lines.value
    (outcome,) = engine.outcomes(add_and_die, [1000], retries=0)
    assert isinstance(outcome.error, sharing.WorkerDied)
    assert engine.state.lines.value == before


# Outside an engine, and from one to the next


def test_a_counter_works_outside_an_engine() -> None:
    state = fresh_state()
    assert [tally(n, state) for n in range(5)] == list(range(5))
    assert state.lines.value == 5
    assert state.lines.values == {}
    assert state.kinds.values == {"even": 3, "odd": 2}


def test_a_counter_takes_its_values_into_the_next_engine(start_method: str) -> None:
    state = fresh_state()
    tally(0, state)
    for total in (101, 201):
        with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
            assert state.lines.value == total - 100
            assert sum(1 for _ in engine.map(tally, range(100))) == 100
        assert state.lines.value == state.kinds.value == total
        start_method = "fork"
    tally(1, state)
    assert state.lines.value == 202
    assert state.kinds.values == {"even": 101, "odd": 101}


def test_a_counter_holds_64_bits_a_worker() -> None:
    state = fresh_state()
    state.lines.add(2**63 - 1)
    with sharing.open_engine(state, workers=1, start_method="fork") as engine:
        outcomes = list(engine.outcomes(add_much, [2**62, 2**62, 2**62 - 1, 1]))
        assert [outcome.ok for outcome in outcomes] == [True, False, True, False]
        assert state.lines.value == 2**63 - 1 + 2**63 - 1
    assert state.lines.value == 2**63 - 1 + 2**63 - 1
    with pytest.raises(ValueError, match=r"'lines' can't count to .* of 64 bits"):
        sharing.open_engine(state, workers=1).__enter__()


def test_an_item_that_adds_no_whole_number_fails_alone(engine: Engine, signs: Signs) -> None:
    """Whatever its chunk has shown meanwhile is taken back, and what its neighbours add counts."""
    before = engine.state.lines.value, engine.state.kinds.value
    items: list[object] = [1, 2, 0.5, 3, Signs(signs.folder), True]
    outcomes = list(engine.outcomes(add_what_it_is, items, chunk_size=6))
    assert [outcome.ok for outcome in outcomes] == [True, True, False, True, False, True]
    message = str(outcomes[2].error)
    assert "'lines' can't count to " in message
    assert "it is for whole numbers of 64 bits" in message
    assert (engine.state.lines.value, engine.state.kinds.value) == (before[0] + 7, before[1] + 6)
    state = fresh_state()
    state.lines.add(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="can't count to a float"):
        assert state.lines.value
    with pytest.raises(ValueError, match=r"'lines' can't count to a float"):
        sharing.open_engine(state, workers=1).__enter__()


class Narrow:
    """A whole number of 8 bits, as is what comes of adding it."""

    def __init__(self, n: int) -> None:
        self.n = n % 256

    def __index__(self) -> int:
        return self.n

    def __radd__(self, other: object) -> "Narrow":
        if not 0 <= index(cast("int", other)) < 256:
            raise OverflowError(f"{other} is too large")
        return Narrow(index(cast("int", other)) + self.n)

    __add__ = __radd__


def test_adds_numbers_of_a_fixed_width_exactly(engine: Engine) -> None:
    before = engine.state.lines.value, engine.state.kinds.values["even"]
    assert list(engine.map(add_what_it_is, [Narrow(200)] * 30)) == [None] * 30
    assert engine.state.lines.value == before[0] + 6000
    assert engine.state.kinds.values["even"] == before[1] + 30
    state = fresh_state()
    for _ in range(3):
        state.kinds.add(Narrow(200), "odd")
    assert state.kinds.value == 600
    with pytest.raises(ValueError, match="counts even, odd, not 'none'"):
        state.kinds.add(Narrow(200), "none")


def test_a_chunk_that_runs_again_counts_once(engine: Engine) -> None:
    """What its worker does next has not begun when it is known that it has to."""
    before = engine.state.lines.value, engine.state.kinds.value
    outcomes = list(engine.outcomes(tally_but_break_the_first, range(8), chunk_size=2))
    assert [one.item for one in outcomes if not one.ok] == [0]
    assert (engine.state.lines.value, engine.state.kinds.value) == (before[0] + 7, before[1] + 8)


def test_an_unknown_label_is_refused_with_the_known_ones() -> None:
    state = fresh_state()
    state.kinds.name = "kinds"
    with pytest.raises(ValueError, match="'kinds' counts even, odd, not 'none'"):
        state.kinds.add(1, "none")
    with pytest.raises(ValueError, match="'kinds' counts even, odd, not None"):
        state.kinds.add()
    with pytest.raises(ValueError, match="counts without labels, not 'even'"):
        state.lines.add(1, "even")
    with pytest.raises(ValueError, match="the label 'a' is there twice"):
        sharing.Counter(labels=("a", "b", "a"))
    assert state.kinds.value == state.lines.value == 0


def test_a_counter_as_item_or_result_is_refused(engine: Engine) -> None:
    for job, item in ((tally, engine.state.lines), (give_counter, 0)):
        with pytest.raises(sharing.JobFailed, match="a Counter reaches the workers as a field"):
            list(engine.map(job, [item]))  # type: ignore[arg-type]
    with pytest.raises(sharing.SharingError, match="as a field of the state only"):
        pickle.dumps(sharing.Counter())


# Faults


def a_rerun_counts_again() -> None:
    """Keep what an attempt that died had added."""
    sharing.Counter.worker_died = lambda *_: 0  # type: ignore[method-assign]


def an_answer_is_lost() -> None:
    """Don't keep what came with the results."""
    sharing.Counter.receive_delta = lambda *_: None  # type: ignore[method-assign]


def two_share_a_slot() -> None:
    """Have all workers add to one slot, which takes a lock that there is not."""

    def attach(self: sharing.Counter, worker: primitives.Worker) -> None:
        original(self, cast("primitives.Worker", SimpleNamespace(slot=1)))

    original = sharing.Counter.attach
    sharing.Counter.attach = attach  # type: ignore[method-assign]


def counts_from_zero() -> None:
    """Have numbers of a fixed width near enough to take part."""
    module: Any = sys.modules[sharing.Counter.__module__]
    module._FAR = 0


def nobody_shows() -> None:
    """Show what was added only when the chunk has ended."""
    global SOON
    desk.TICK = 3600
    SOON = 0.2


def what_was_shown_stays() -> None:
    """Go on from what the worker itself has, and not from what the parent has left."""
    begins = sharing.Counter.chunk_begins

    def chunk_begins(self: sharing.Counter, chunk: int, left: int) -> None:
        own = self._counts if self.labels else self._n
        begins(self, chunk, left)
        if isinstance(own, list):
            self._counts = own
        else:
            self._n = own

    sharing.Counter.chunk_begins = chunk_begins  # type: ignore[method-assign]


def the_next_chunk_begins_before() -> None:
    """Have a worker at its next chunk before what it answered is known to stay."""
    carry_out = pump.Pump._carry_out

    def send_first(self: Any, commands: list[events.Command]) -> None:
        sends = [one for one in commands if isinstance(one, events.Send)]
        carry_out(self, list(sends))
        for send in sends:
            wait_until(partial(has_begun, self._crew, send))
        carry_out(self, [one for one in commands if one not in sends])

    def has_begun(crew: Any, send: events.Send) -> bool:
        return bool(crew.sight(send.slot, send.id).place.phase > chunks.Phase.READING)

    pump.Pump._carry_out = send_first  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (the_next_chunk_begins_before, test_a_chunk_that_runs_again_counts_once, "fork"),
        (a_rerun_counts_again, test_a_worker_killed_in_an_item_counts_it_once, "fork"),
        (
            a_rerun_counts_again,
            test_a_worker_killed_between_items_counts_each_once,
            "fork-before:answer",
        ),
        (an_answer_is_lost, test_a_worker_killed_in_an_item_counts_it_once, "fork"),
        (counts_from_zero, test_adds_numbers_of_a_fixed_width_exactly, "fork"),
        (nobody_shows, test_a_counter_is_live_while_an_item_runs, "fork"),
        (what_was_shown_stays, test_an_item_that_adds_no_whole_number_fails_alone, "fork"),
        (two_share_a_slot, test_no_add_is_lost_when_all_add_at_once, "fork"),
    ],
)
def test_each_fault_makes_a_test_fail(
    fault: Callable[[], None], test: Callable[..., None], variant: str
) -> None:
    assert_red(fault, test, variant)
