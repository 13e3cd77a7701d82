"""The contract of `Log`: each record once and in order, whatever happens, and not too many."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from counter_log_jobs import (
    Late,
    State,
    Unreadable,
    append,
    append_and_raise,
    append_and_wait,
    append_late,
    append_many,
    note,
    note_and_arm,
    note_and_be_refused,
    note_and_give_unreadable,
    note_and_kill_always,
    note_and_sign,
    note_but_die_once,
    note_slowly,
    notes_of,
    read,
)
from faults import assert_red
from signs import Signs
from under_test import desk, events, scheduler, sharing

Engine = sharing.Engine[State]


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests: each looks at what was appended since it began."""
    with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
        yield engine


class Since:
    """What was appended since."""

    def __init__(self, engine: Engine) -> None:
        self.log = engine.state.log
        self.begin = len(self.log)

    @property
    def records(self) -> list[Any]:
        return self.log.records[self.begin :]


@pytest.mark.parametrize("ordered", [True, False])
def test_records_stand_in_the_order_of_the_items(engine: Engine, ordered: bool) -> None:
    since = Since(engine)
    results = list(engine.map(note, range(400), ordered=ordered, chunk_size=7))
    assert sorted(results) == list(range(400))
    assert since.records == notes_of(range(400))


def test_a_late_item_has_its_place_before_those_that_came_before(
    engine: Engine, signs: Signs
) -> None:
    since = Since(engine)
    items = [(signs, number) for number in range(10)]
    for number in engine.map(append_and_wait, items, ordered=False, chunk_size=1):
        if number == 9:
            # It is live: all but the first have ended.
            assert 9 in since.records
            assert 0 not in since.records
            signs.give("go on")
    assert since.records == list(range(10))


def test_records_of_maps_stand_one_map_after_the_other(engine: Engine) -> None:
    since = Since(engine)
    engine.state.log.append("before")
    first = engine.map(note, range(40), chunk_size=3)
    second = engine.map(note, first, chunk_size=3)  # the two run at the same time
    for result in second:
        if result == 0:
            engine.state.log.append("meanwhile")
    engine.state.log.append("after")
    list(engine.map(note, range(4)))
    notes = notes_of(range(40))
    assert since.records == ["before", *notes, *notes, "meanwhile", "after", *notes_of(range(4))]


def test_the_records_of_an_item_that_raised_count(engine: Engine) -> None:
    since = Since(engine)
    outcomes = list(engine.outcomes(append_and_raise, [1, 20, 300]))
    assert not any(outcome.ok for outcome in outcomes)
    assert since.records == [1, 20, 300]


def test_leaving_early_keeps_what_ran(engine: Engine, signs: Signs) -> None:
    since = Since(engine)
    for result in engine.map(note_and_sign, ((signs, n) for n in itertools.count())):
        assert result == 0
        break
    assert since.records == sorted(map(int, signs.notes("ran"))) != []


# Deaths


def test_a_worker_killed_in_an_item_appends_once(engine: Engine, signs: Signs) -> None:
    since = Since(engine)
    items = [(signs, n) for n in range(40)]
    assert list(engine.map(note_but_die_once, items, chunk_size=20)) == list(range(40))
    assert signs.given("killed")
    assert since.records == [(n, which) for n in range(40) for which in ("first", "second")]


@pytest.mark.parametrize("where", ["before:answer", "after:answer", "before:chunk", "after:chunk"])
def test_a_worker_killed_between_items_appends_once(
    engine: Engine, signs: Signs, where: str
) -> None:
    since = Since(engine)
    # More than may wait for the first chunk, so that its worker gets another one.
    items = [(signs, n, where) for n in range(1_000)]
    assert list(engine.map(note_and_arm, items, chunk_size=20, retries=0)) == list(range(1_000))
    assert signs.given(f"killed {where}")
    assert since.records == notes_of(range(1_000))


def test_an_item_that_kills_every_worker_leaves_no_record(engine: Engine) -> None:
    since = Since(engine)
    outcomes = list(engine.outcomes(note_and_kill_always, range(40), chunk_size=20, retries=1))
    assert [outcome.item for outcome in outcomes if not outcome.ok] == [13]
    assert since.records == [record for record in notes_of(range(40)) if record[0] != 13]


def test_workers_killed_from_outside_change_nothing(engine: Engine) -> None:
    since = Since(engine)
    kills = 0
    results = engine.map(note_slowly, range(200), chunk_size=5, ordered=False, retries=30)
    for count, (_, pid) in enumerate(results):
        if count in (30, 60, 90):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1
    assert kills
    assert since.records == [(item, step) for item in range(200) for step in range(20)]


def test_a_chunk_whose_results_cannot_be_read_appends_once(engine: Engine) -> None:
    since = Since(engine)
    outcomes = list(engine.outcomes(note_and_give_unreadable, range(40), chunk_size=20))
    assert [outcome.item for outcome in outcomes if not outcome.ok] == [13]
    assert since.records == notes_of(range(40))


def test_a_chunk_that_runs_again_appends_once(engine: Engine) -> None:
    """One of its items has done what can't be kept, so it runs again in parts."""
    since = Since(engine)
    outcomes = list(engine.outcomes(note_and_be_refused, range(40), chunk_size=20))
    assert [outcome.item for outcome in outcomes if not outcome.ok] == [13]
    assert since.records == notes_of(range(40))


# Bounds, which are kept to in Python alone: however workers start, they are the same


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_a_log_keeps_the_first_records_and_counts_the_others(chunk_size: int) -> None:
    state = State(log=sharing.Log(max_records=25))
    with sharing.open_engine(state, workers=2, start_method="fork") as engine:
        state.log.append("mine")
        list(engine.map(note, range(400), ordered=False, chunk_size=chunk_size))
        assert state.log.records == ["mine", *notes_of(range(400))[:24]]
        assert state.log.dropped == 400 - 24
        list(engine.map(note, range(10)))
        assert len(state.log) == 25
        assert state.log.dropped == 400 - 24 + 10
    state.log.append("too late")
    assert state.log.records == ["mine", *notes_of(range(400))[:24]]
    assert state.log.dropped == 400 - 24 + 11


@pytest.mark.parametrize("late", [False, True])
def test_what_is_kept_does_not_depend_on_when_it_came(signs: Signs, late: bool) -> None:
    """A late first record takes the place of others; no small one slips in behind a large."""
    state = State(log=sharing.Log(max_bytes=1_000))
    items = [
        Late(signs if late else None, number, length)
        for number, length in enumerate((300, 300, 500, 10, 10))
    ]
    with sharing.open_engine(state, workers=1 + late, start_method="fork") as engine:
        for count, _ in enumerate(engine.map(append_late, items, ordered=False, chunk_size=1), 1):
            if late and count == 4:
                assert [number for number, _ in state.log.records] == [1, 2, 3, 4]
                signs.give("go on")
    assert [number for number, _ in state.log.records] == [0, 1]
    assert state.log.dropped == 3


def test_bytes_are_bounded_in_the_worker_too() -> None:
    state = State(log=sharing.Log(max_bytes=10_000))
    with sharing.open_engine(state, workers=2, start_method="fork") as engine:
        items = [(0, 1, 100), (1, 1, 20_000), (2, 30, 1_000), (3, 1, 100)]
        list(engine.map(append_many, items, chunk_size=2))
        found = [(number, turn) for number, turn, _ in state.log.records]
        assert found[0] == (0, 0)  # the large one is dropped alone
        assert found[1:] == [(2, turn) for turn in range(len(found) - 1)]
        assert len(found) in (9, 10)
        assert state.log.dropped == 33 - len(found)


# What a record may be


def test_a_record_that_cannot_be_pickled_is_refused_at_the_call(engine: Engine) -> None:
    since = Since(engine)
    engine.state.log.append("one")
    for what, message in (
        (threading.Lock(), "'log' can't take <unlocked _thread.lock .*: it does not stand being"),
        (Unreadable(), r"\(not to be had\): append its text, or a tuple of what matters"),
        (engine.state.log, "a Log reaches the workers as a field of the state only"),
    ):
        with pytest.raises(sharing.SharingError, match=message):
            engine.state.log.append(what)
    ((outcome,)) = engine.outcomes(append_lambda, [1])
    assert outcome.error is not None
    assert outcome.error.error_type == "SharingError"
    assert "can't take <function" in outcome.error.message
    assert since.records == ["one"]


def append_lambda(item: int, state: State) -> None:
    state.log.append(lambda: item)


def test_a_record_is_kept_as_it_was() -> None:
    state = State()
    record = [1]
    append(record, state)
    record.append(2)
    state.log.records[0].append(3)
    assert state.log.records == [[1]]


def test_a_job_only_appends(engine: Engine) -> None:
    for what in ("records", "dropped", "len"):
        with pytest.raises(sharing.JobFailed, match="'log' is read in the main process"):
            list(engine.map(read, [what]))


# Outside an engine, and from one to the next


def test_a_log_works_outside_an_engine() -> None:
    state = State()
    assert [note(n, state) for n in range(5)] == list(range(5))
    assert state.log.records == notes_of(range(5))
    assert len(state.log) == 4


def test_a_log_takes_its_records_into_the_next_engine(start_method: str) -> None:
    state = State()
    note(1, state)
    for turn in range(2):
        with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
            assert len(state.log) == 2 + 22 * turn
            list(engine.map(note, range(20)))
            state.log.append("in")
        state.log.append("out")
        start_method = "fork"
    notes = [*notes_of(range(20)), "in", "out"]
    assert state.log.records == [*notes_of(range(2)), *notes, *notes]


@pytest.mark.parametrize("name", ["max_records", "max_bytes"])
def test_a_bound_has_to_leave_room(name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be above 0, not 0"):
        sharing.Log(**options)


# Faults


def a_chunk_is_sent_twice() -> None:
    """Keep what has been sent."""
    take = sharing.Log.take_delta

    def take_and_keep(self: sharing.Log[Any]) -> object | None:
        kept = self._kept
        delta = take(self)
        self._kept = kept
        return delta

    sharing.Log.take_delta = take_and_keep  # type: ignore[method-assign]


def records_of_what_runs_again_count() -> None:
    """Keep what came with a chunk that can't be kept, and runs again."""
    answered = scheduler.Scheduler._answered

    def apply_and_answer(self: Any, event: events.Answered) -> None:
        if event.refused is not None and event.ended > 1:
            self._commands.append(events.Apply(event.slot, event.deltas))
        answered(self, event)

    scheduler.Scheduler._answered = apply_and_answer  # type: ignore[method-assign]


def an_answer_is_lost() -> None:
    """Don't keep what came with the results."""
    sharing.Log.receive_delta = lambda *_: None  # type: ignore[method-assign]


def in_the_order_of_arrival() -> None:
    """Give each record the next number."""
    numbers = itertools.count()

    def receive(self: sharing.Log[Any], slot: int, delta: tuple[Any, int, Any]) -> None:
        entries, dropped, end = delta
        self._kept.merge([((1, next(numbers), 0), data) for _, data in entries], dropped, end)

    sharing.Log.receive_delta = receive  # type: ignore[method-assign]


def each_chunk_begins_at_item_0() -> None:
    """Don't tell where a chunk is from."""
    desk.Desk.origin = property(lambda self: (1, 0), lambda self, _: None)  # type: ignore[assignment]


def the_first_to_come_are_kept() -> None:
    """Drop what comes when there is no more room."""
    put = type(sharing.Log()._kept).put

    def put_if_there_is_room(self: Any, key: Any, data: bytes) -> None:
        if len(self.entries) >= self._max_records or self._nbytes + len(data) > self._max_bytes:
            self.dropped += 1
        else:
            put(self, key, data)

    type(sharing.Log()._kept).put = put_if_there_is_room  # type: ignore[method-assign]


def what_fits_is_kept() -> None:
    """Keep small records behind a large one that does not fit."""
    drop = type(sharing.Log()._kept)._drop_from

    def drop_and_forget(self: Any, key: Any) -> None:
        end = self.end
        drop(self, key)
        self.end = end

    type(sharing.Log()._kept)._drop_from = drop_and_forget  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (a_chunk_is_sent_twice, test_records_stand_in_the_order_of_the_items, "fork-True"),
        (
            records_of_what_runs_again_count,
            test_a_chunk_that_runs_again_appends_once,
            "fork",
        ),
        (an_answer_is_lost, test_a_worker_killed_in_an_item_appends_once, "fork"),
        (
            in_the_order_of_arrival,
            test_a_late_item_has_its_place_before_those_that_came_before,
            "fork",
        ),
        (in_the_order_of_arrival, test_records_of_maps_stand_one_map_after_the_other, "fork"),
        (each_chunk_begins_at_item_0, test_records_stand_in_the_order_of_the_items, "fork-True"),
        (the_first_to_come_are_kept, test_what_is_kept_does_not_depend_on_when_it_came, "True"),
        (what_fits_is_kept, test_what_is_kept_does_not_depend_on_when_it_came, "False"),
    ],
)
def test_each_fault_makes_a_test_fail(
    fault: Callable[[], None], test: Callable[..., None], variant: str
) -> None:
    assert_red(fault, test, variant)
