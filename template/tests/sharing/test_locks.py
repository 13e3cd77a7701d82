"""The contract of `Lock` and `Guarded`: one at a time, whole, and once, whoever is killed."""

import contextlib
import os
import signal
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from faults import assert_red
from locks_jobs import (
    TURNS,
    State,
    Task,
    change_and_raise,
    change_in_threads,
    count_in_a_file,
    die_holding,
    die_waiting,
    fresh_state,
    in_two_sections,
    keep_the_view,
    move_to_and_fro,
    release_what_is_not_held,
    take_again,
    take_two,
    transfer,
    try_in_vain,
)
from probe import Step
from signs import Signs
from under_test import engine as engines
from under_test import mutex, sharing

Engine = sharing.Engine[State]


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests, so they leave the accounts as they are, or count from there."""
    with sharing.open_engine(fresh_state(), workers=2, start_method=start_method) as engine:
        yield engine


@pytest.fixture
def own_engine(start_method: str) -> Iterator[Engine]:
    """One whose locks may be spoilt."""
    with sharing.open_engine(fresh_state(), workers=2, start_method=start_method) as engine:
        yield engine


# One at a time


def lets_one_in(engine: Engine, task: Task) -> None:
    task.file.write_text("0")
    list(engine.map(count_in_a_file, [task, task], chunk_size=1))
    assert int(task.file.read_text()) == 2 * (TURNS + task.number)


def loses_no_update(engine: Engine, task: Task) -> None:
    before = engine.state.accounts.read()
    list(engine.map(move_to_and_fro, [task, task], chunk_size=1))
    after = engine.state.accounts.read()
    assert [b - a for a, b in zip(before, after, strict=True)] == [2 * (TURNS + task.number)] * 8


@pytest.mark.parametrize("lock", ["first", "last"])
def test_a_lock_lets_one_in(engine: Engine, signs: Signs, lock: str) -> None:
    lets_one_in(engine, Task(signs, lock, 1_000))


def test_a_section_loses_no_update(engine: Engine, signs: Signs) -> None:
    loses_no_update(engine, Task(signs, number=5_000))


@pytest.mark.parametrize("lock", ["first", "last"])
def test_acquire_waits_no_longer_than_its_timeout(engine: Engine, signs: Signs, lock: str) -> None:
    tried = engine.map(try_in_vain, [Task(signs, lock)] * 2, chunk_size=1)
    assert sorted(tried) == [[], [False, False, True]]


@pytest.mark.parametrize("lock", ["first", "last"])
def test_a_lock_is_reentrant_and_excludes_threads(engine: Engine, signs: Signs, lock: str) -> None:
    (free,) = engine.map(take_again, [Task(signs, lock)])
    assert free == [False, False, False, True]
    assert take_again(Task(signs, lock), fresh_state()) == free


def test_threads_exclude_each_other_in_sections(engine: Engine) -> None:
    before = engine.state.other.read()
    list(engine.map(change_in_threads, range(2), chunk_size=1))
    assert engine.state.other.read()[0] == before[0] + 3000
    state = fresh_state()
    change_in_threads(0, state)
    assert state.other.read().tolist() == [1500.5, 1.5, 2.5]


@pytest.mark.parametrize("lock", ["first", "last"])
def test_only_the_holder_gives_it_back(engine: Engine, signs: Signs, lock: str) -> None:
    with pytest.raises(sharing.JobFailed, match=f"'{lock}' is released, but this thread does not"):
        list(engine.map(release_what_is_not_held, [Task(signs, lock)]))


# Two at once


@pytest.mark.parametrize(
    ("one", "two"),
    [("first", "accounts"), ("accounts", "other"), ("first", "last"), ("other", "last")],
)
def test_two_locks_are_taken_in_the_order_of_the_fields(engine: Engine, one: str, two: str) -> None:
    for _ in range(2):  # a refusal leaves nothing held
        assert list(engine.map(take_two, [(one, two)])) == [True]
        with pytest.raises(sharing.JobFailed) as caught:
            list(engine.map(take_two, [(two, one)]))
        assert caught.value.error_type == "LockOrderError"
        assert f"{one!r} was asked for while {two!r} is held" in str(caught.value)


def test_the_order_of_locks_holds_in_the_main_process_too(engine: Engine) -> None:
    assert take_two(("first", "last"), engine.state)
    with pytest.raises(sharing.LockOrderError, match="'first' was asked for while 'last' is held"):
        take_two(("last", "first"), engine.state)


def test_a_section_does_not_nest_in_itself(engine: Engine) -> None:
    before = engine.state.accounts.read()
    with pytest.raises(sharing.JobFailed, match="LockOrderError: 'accounts' is entered while"):
        list(engine.map(take_two, [("accounts", "accounts")]))
    with pytest.raises(sharing.LockOrderError):
        take_two(("accounts", "accounts"), fresh_state())
    assert engine.state.accounts.read() == before


# All or nothing


def test_an_exception_rolls_a_section_back(engine: Engine) -> None:
    before = engine.state.accounts.read()
    with pytest.raises(sharing.JobFailed, match="ValueError: 3"):
        list(engine.map(change_and_raise, [3]))
    assert engine.state.accounts.read() == before


def test_a_view_ends_with_its_section(engine: Engine) -> None:
    before = engine.state.accounts.read()
    with pytest.raises(sharing.JobFailed, match="released memoryview"):
        list(engine.map(keep_the_view, [slice(0)]))
    before[0] += 1
    assert engine.state.accounts.read() == before
    with pytest.raises(sharing.JobFailed, match="still refers to the memory of the section"):
        list(engine.map(keep_the_view, [slice(2)]))
    assert engine.state.accounts.read() == before


def test_a_reader_in_the_middle_sees_whole_sections(engine: Engine) -> None:
    total = sum(engine.state.accounts.read())
    seen = set()
    for _, in_worker in engine.map(transfer, range(5_000)):
        seen |= {in_worker, sum(engine.state.accounts.read())}
    assert seen == {total}


# Deaths


def test_a_lock_is_free_when_its_holder_is_killed(engine: Engine, signs: Signs) -> None:
    results = engine.map(die_holding, [Task(signs)] * 2, chunk_size=1)
    assert sorted(results) == ["again", "got it"]
    assert list(engine.map(take_two, [("first", "last")])) == [True]


def test_waiting_for_an_rlock_of_a_dead_holder_raises_lock_lost(
    own_engine: Engine, signs: Signs
) -> None:
    outcomes = list(own_engine.outcomes(die_holding, [Task(signs, "last")] * 2, chunk_size=1))
    assert sorted(str(outcome.value) for outcome in outcomes) == ["None", "again"]
    (error,) = (outcome.error for outcome in outcomes if outcome.error)
    assert error.error_type == "LockLost"
    assert "the holder of 'last' died" in error.message
    with pytest.raises(sharing.LockLost):
        own_engine.state.last.acquire()
    assert own_engine.state.first.acquire()
    own_engine.state.first.release()


@pytest.mark.parametrize("lock", ["first", "last"])
def test_a_worker_that_dies_waiting_leaves_the_lock_usable(
    engine: Engine, signs: Signs, lock: str
) -> None:
    results = engine.map(die_waiting, [Task(signs, lock)] * 2, chunk_size=1)
    assert sorted(results) == ["after all", "held"]


POINTS = [
    "at first",
    "in the first section",
    "between the sections",
    "before the commit",
    "after the commit",
    "at last",
    "answer",
    "chunk",
]


@pytest.mark.parametrize("point", [*POINTS, "everywhere"])
def test_each_section_commits_once_whenever_its_worker_dies(
    engine: Engine, signs: Signs, point: str
) -> None:
    points = POINTS[:-2] if point == "everywhere" else [point]
    # More than may wait for the first chunk, so that its worker gets another one.
    steps = [Step(signs, n) for n in range(200)]
    steps[3] = replace(steps[3], points=tuple(points))
    before = engine.state.accounts.read()
    # Only who dies in an item is tried again: as often as it dies.
    retries = len(set(points) - {"answer", "chunk"})
    results = engine.map(in_two_sections, steps, chunk_size=5, retries=retries)
    assert list(results) == list(range(200))
    assert all(signs.given(f"3 died {point}") for point in points)
    after = engine.state.accounts.read()
    assert [b - a for a, b in zip(before, after, strict=True)] == [200] * 4 + [0] * 4


def test_workers_killed_from_outside_change_nothing(engine: Engine) -> None:
    before = engine.state.accounts.read()
    results = engine.map(transfer, range(3_000), chunk_size=20, ordered=False, retries=30)
    for place, (pid, total) in enumerate(results):
        assert total == sum(before)
        if place in (300, 900, 1500):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    expected = before.tolist()
    for item in range(3_000):
        expected[item % 8] -= item
        expected[(item * 5 + 3) % 8] += item
    assert engine.state.accounts.read().tolist() == expected


def test_leaving_early_keeps_what_has_committed(engine: Engine, signs: Signs) -> None:
    before = engine.state.accounts.read()
    for result in engine.map(in_two_sections, (Step(signs, n) for n in count())):
        assert result == 0
        break
    after = engine.state.accounts.read()
    gains = [b - a for a, b in zip(before, after, strict=True)]
    assert gains[0] > 0
    assert gains == [gains[0]] * 4 + [0] * 4


def test_locks_that_are_files_keep_the_same_promises(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no robust mutexes, as on macOS, locks are files."""
    monkeypatch.setattr(mutex.RobustMutex, "supported", lambda: False)

    def fresh_signs(name: str) -> Signs:
        (tmp_path / name).mkdir()
        return Signs(tmp_path / name)

    with sharing.open_engine(fresh_state(), workers=2, start_method=start_method) as engine:
        lets_one_in(engine, Task(fresh_signs("a"), "first", 200))
        loses_no_update(engine, Task(fresh_signs("b"), number=1_000))
        test_acquire_waits_no_longer_than_its_timeout(engine, fresh_signs("c"), "first")
        test_a_lock_is_reentrant_and_excludes_threads(engine, fresh_signs("d"), "first")
        test_a_lock_is_free_when_its_holder_is_killed(engine, fresh_signs("e"))
        test_each_section_commits_once_whenever_its_worker_dies(
            engine, fresh_signs("f"), "after the commit"
        )


# Large data, of which a section copies what was touched


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all data for large, and two numbers for a block."""
    module = sys.modules[sharing.Guarded.__module__]
    monkeypatch.setattr(module, "_SMALL", 0)
    monkeypatch.setattr(module, "_BLOCK", 16)


@pytest.mark.usefixtures("large")
def test_a_section_of_large_data_commits_whole(start_method: str, tmp_path: Path) -> None:
    """Most of the above once more."""

    def fresh_signs(name: str) -> Signs:
        (tmp_path / name).mkdir()
        return Signs(tmp_path / name)

    with sharing.open_engine(fresh_state(), workers=2, start_method=start_method) as engine:
        loses_no_update(engine, Task(fresh_signs("a"), number=500))
        test_an_exception_rolls_a_section_back(engine)
        test_a_view_ends_with_its_section(engine)
        test_a_reader_in_the_middle_sees_whole_sections(engine)
        for place, point in enumerate(POINTS):
            test_each_section_commits_once_whenever_its_worker_dies(
                engine, fresh_signs(str(place)), point
            )
        test_workers_killed_from_outside_change_nothing(engine)


@pytest.mark.usefixtures("large")
def test_every_way_to_change_large_data_is_kept_or_undone() -> None:
    guarded = sharing.Guarded("d", range(10))
    changes: list[Callable[[Any], object]] = [
        lambda b: b.__setitem__(0, 7),
        lambda b: b.__setitem__(-1, 7),
        lambda b: b.__setitem__(slice(3, 5), array("d", [7, 8])),
        lambda b: b.__setitem__(slice(None), array("d", [7] * 10)),
        lambda b: b[2:9].__setitem__(0, 7),
        lambda b: b[8:1:-3].__setitem__(1, 7),
        lambda b: b.cast("B").__setitem__(slice(8), bytes(8)),
    ]
    if sys.version_info >= (3, 12):
        changes.append(lambda b: memoryview(b).__setitem__(4, 7))
    for change in changes:
        before = guarded.read()
        expected = array("d", before)
        change(memoryview(expected))
        with contextlib.suppress(LookupError), guarded as b:
            change(b)
            assert b == expected
            raise LookupError
        with guarded as b:  # what was undone is not there in the other copy, either
            assert b == before
        with guarded as b:
            change(b)
        assert guarded.read() == expected
        with guarded as b:
            assert b.tolist() == list(b) == list(expected)
            assert (len(b), b[1], b[-1]) == (10, expected[1], expected[-1])
        with guarded as b:
            change(b)
        assert guarded.read() == expected
    with pytest.raises(IndexError), guarded as b:
        b[10] = 1


@pytest.mark.usefixtures("large")
def test_a_section_of_large_data_copies_what_was_touched() -> None:
    guarded = sharing.Guarded("q", range(1000))
    with guarded as b:
        b[17] += 1
        b[18] += 1
        b[990:992] = array("q", [0, 0])
        assert b[5:5].tolist() == []
    assert guarded._changed[:4].tolist() == [3, 8, 9, 495]
    with guarded as b:
        assert b[17] == 18
    assert guarded._changed[0] == 0


# Outside an engine, and from one to the next


def test_locks_work_outside_an_engine(signs: Signs) -> None:
    state = fresh_state()
    assert in_two_sections(Step(signs, 7), state) == 7
    assert state.accounts.read() == array("q", [1001] * 4 + [1000] * 4)
    assert take_two(("last", "first"), state)  # no engine, no order
    with pytest.raises(ValueError, match="3"):
        change_and_raise(3, state)
    assert state.accounts.read()[0] == 1001


def test_guarded_values_go_into_the_next_engine(start_method: str, signs: Signs) -> None:
    state = fresh_state()
    with state.other as other:
        other[1] = -0.25
    for round_ in (1, 2):
        with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
            list(engine.map(in_two_sections, [Step(signs, n) for n in range(10)]))
            with state.other as other:  # the parent's sections are as good
                other[2] += 1
            assert state.accounts.read()[0] == 1000 + 10 * round_
        start_method = "fork"
    assert state.accounts.read().tolist() == [1020] * 4 + [1000] * 4
    assert state.other.read().tolist() == [0.5, -0.25, 4.5]


def test_bad_arguments_of_locks_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be 'lock' or 'rlock', not 'mutex'"):
        sharing.Lock(kind="mutex")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="typecode must be one of"):
        sharing.Guarded("u", [])
    with pytest.raises(ValueError, match="guards nothing"):
        sharing.Guarded("d", [])
    assert len(sharing.Guarded("B", range(5))) == 5


# Faults


def nobody_locks() -> None:
    """Let everybody in at any time."""
    mutex._trylock = mutex._unlock = lambda *_: 0  # type: ignore[assignment]
    for kind in (mutex.FileMutex, mutex.RLockMutex):
        kind.try_lock = lambda *_: 0  # type: ignore[method-assign]
        kind.unlock = lambda *_: None  # type: ignore[method-assign]


def no_receipts() -> None:
    """Have each attempt of an item commit its sections."""
    sharing.Guarded._is_new_section = lambda *_: True  # type: ignore[method-assign]


def ended_is_not_begun() -> None:
    """Say of a chunk whose items have all ended that none has begun."""
    original = engines._Worker.running_item

    def running_item(self: engines._Worker) -> int:
        return max(original(self), ~0)

    engines._Worker.running_item = running_item  # type: ignore[method-assign]


def one_copy() -> None:
    """Change the data where they are."""
    original = sharing.Guarded._lay_out

    def lay_out(self: sharing.Guarded, words: memoryview, slots: int) -> None:
        original(self, words, slots)
        self._copies = (self._copies[0], self._copies[0])
        self._data = (self._data[0], self._data[0])
        self._sources = (self._sources[0], self._sources[0])

    sharing.Guarded._lay_out = lay_out  # type: ignore[method-assign]


def changes_are_not_noted() -> None:
    """Let a section of large data begin from what the one before last has left."""
    view = sys.modules[sharing.Guarded.__module__]._LargeView
    view._note = lambda *_: None


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (nobody_locks, test_a_lock_lets_one_in, "fork-first"),
        (nobody_locks, test_a_lock_lets_one_in, "fork-last"),
        (changes_are_not_noted, test_a_section_of_large_data_commits_whole, "fork"),
        (changes_are_not_noted, test_every_way_to_change_large_data_is_kept_or_undone, ""),
        (nobody_locks, test_a_section_loses_no_update, "fork"),
        (
            no_receipts,
            test_each_section_commits_once_whenever_its_worker_dies,
            "fork-between the sections",
        ),
        (no_receipts, test_each_section_commits_once_whenever_its_worker_dies, "fork-answer"),
        (
            ended_is_not_begun,
            test_each_section_commits_once_whenever_its_worker_dies,
            "fork-answer",
        ),
        (
            one_copy,
            test_each_section_commits_once_whenever_its_worker_dies,
            "fork-in the first section",
        ),
        (one_copy, test_an_exception_rolls_a_section_back, "fork"),
    ],
)
def test_each_fault_makes_a_test_fail(
    fault: Callable[[], None], test: Callable[..., None], variant: str
) -> None:
    assert_red(fault, test, variant)
