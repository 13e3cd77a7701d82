"""The contract of `Lock` and `Guarded`: one at a time, whole, and once, whoever is killed."""

import contextlib
import os
import signal
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from faults import assert_red
from in_threads import SOON, start
from locks_jobs import (
    TURNS,
    State,
    Task,
    change_and_raise,
    change_in_threads,
    count_in_a_file,
    die_holding,
    die_waiting,
    enter_and_leave,
    fresh_state,
    hang_in_a_section,
    in_two_sections,
    keep_the_view,
    leave_in_another_thread,
    move_half,
    move_to_and_fro,
    read_in_a_section,
    release_what_is_not_held,
    take_again,
    take_two,
    transfer,
    try_in_vain,
)
from probe import Step
from signs import LIMIT, Signs
from under_test import chunks, desk, mutex, sharing
from under_test import engine as engines

locks: Any = sys.modules[sharing.Guarded.__module__]
"""The module that is tested, from within."""

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


def test_a_read_waits_for_nobody_in_a_section(engine: Engine, signs: Signs) -> None:
    before = engine.state.accounts.read()

    def source() -> Iterator[Signs]:
        yield signs
        signs.wait("inside")
        try:
            seen.append(engine.state.accounts.read())
        finally:
            signs.give("read")

    seen: list[array[int]] = []
    list(engine.map(hang_in_a_section, source()))
    assert seen == [before]
    assert engine.state.accounts.read()[0] == before[0] + 7
    with engine.state.accounts as accounts:
        accounts[0] -= 7
        reader = threading.Thread(target=lambda: seen.append(engine.state.accounts.read()))
        reader.start()
        reader.join(LIMIT)
        assert seen[1][0] == engine.state.accounts.read()[0] == before[0] + 7
    ((inside, after),) = engine.map(read_in_a_section, [5])
    assert (inside[0], after[0]) == (before[0], before[0] + 5)


def test_a_read_in_a_section_outside_an_engine_gives_what_was_committed() -> None:
    state = fresh_state()
    assert read_in_a_section(3, state) == ([1000] * 8, [1003] + [1000] * 7)
    with state.accounts as accounts:
        accounts[0] = 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(state.accounts.read).result(LIMIT)[0] == 1003


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_a_read_looks_again_if_others_commit_meanwhile(
    monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """A section that begins after the commit changes the copy that is being read."""
    guarded = sharing.Guarded("q", [0, 0])

    class Slow(array):  # type: ignore[type-arg]
        def frombytes(self, data: Any) -> None:
            halfway = len(data) // 2
            super().frombytes(data[:halfway])
            for _ in range(commits if len(tries) < 2 else 0):
                with guarded as b:
                    b[0] += 1
                    b[1] -= 1
            tries.append(self)
            super().frombytes(data[halfway:])

    tries: list[object] = []
    monkeypatch.setattr(locks, "array", Slow)
    assert guarded.read().tolist() == [2 * commits, -2 * commits]
    assert len(tries) == 3


def test_a_read_keeps_others_out_when_they_never_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = sharing.Guarded("q", [0, 0])
    looks = 0

    def is_current(self: object, flip: int) -> bool:
        nonlocal looks
        looks += 1
        assert looks < 100
        with ThreadPoolExecutor(1) as pool:
            is_free = pool.submit(lock_is_free, guarded).result(LIMIT)
        return not is_free

    monkeypatch.setattr(locks._Copies, "_is_current", is_current)
    assert guarded.read().tolist() == [0, 0]
    assert looks == locks._LOOKS + 1
    assert lock_is_free(guarded)


def lock_is_free(guarded: sharing.Guarded) -> bool:
    if guarded._try_lock():
        return False
    guarded._unlock()
    return True


def test_reads_are_whole_while_all_workers_commit(start_method: str) -> None:
    state = replace(fresh_state(), other=sharing.Guarded("d", [0.0] * 400))
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                numbers = state.other.read()
                seen.add(sum(numbers))
                seen.add(len(set(numbers[:200])) + len(set(numbers[200:])) - 2)

        seen: set[float] = set()
        readers = [threading.Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            list(engine.map(move_half, [400] * 4, chunk_size=1))
        finally:
            done.set()
            for reader in readers:
                reader.join(LIMIT)
        assert seen == {0}
    assert state.other.read().tolist() == [-1600.0] * 200 + [1600.0] * 200


# Threads


@pytest.mark.parametrize("lock", ["first", "accounts", "last"])
def test_a_section_left_in_another_thread_fails_and_is_free(
    engine: Engine, signs: Signs, lock: str
) -> None:
    expected = f"a section of '{lock}' is left in another thread than it was entered in"
    before = engine.state.accounts.read()
    for said in engine.map(leave_in_another_thread, [Task(signs, lock, 5)] * 2, chunk_size=1):
        assert [text[: len(expected)] for text in said] == [expected] * 5
    assert engine.state.accounts.read() == before
    enter_and_leave(getattr(engine.state, lock))  # in a process that was in none of these
    state = fresh_state()
    assert len(leave_in_another_thread(Task(signs, lock, 100), state)) == 100
    assert state.accounts.read() == fresh_state().accounts.read()


def test_what_waits_goes_on_when_a_section_is_left_in_another_thread(
    engine: Engine, signs: Signs
) -> None:
    for state in (engine.state, fresh_state()):
        for lock in (state.first, state.accounts, state.last):
            with ThreadPoolExecutor(2) as pool:
                section = contextlib.ExitStack()
                pool.submit(section.enter_context, lock).result()
                waiting = threading.Event()

                def wait(lock: Any = lock, waiting: threading.Event = waiting) -> None:
                    waiting.set()
                    enter_and_leave(lock)

                waiter = threading.Thread(target=wait)
                waiter.start()
                assert waiting.wait(LIMIT)
                with pytest.raises(sharing.SharingError, match="left in another thread"):
                    section.close()
                waiter.join(LIMIT)
                assert not waiter.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_commits_nothing_of_its_parents_section() -> None:
    state = fresh_state()
    with state.accounts as accounts, state.first:
        accounts[0] += 1
        child = os.fork()
        if not child:
            said = 0
            for lock in (state.first, state.accounts):
                try:
                    lock.__exit__(None, None, None)
                except sharing.SharingError:
                    said += 1
            os._exit(said + 10 * (state.accounts.read()[0] == 1000))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 12
    assert state.accounts.read()[0] == 1001


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
    monkeypatch.setattr(locks, "_SMALL", 0)
    monkeypatch.setattr(locks, "_BLOCK", 16)


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


def test_a_slice_of_large_data_takes_numbers_of_the_same_kind_and_width() -> None:
    guarded = sharing.Guarded("q", [0] * 10_000)
    other = "l" if array("l").itemsize == 8 else "q"
    with guarded as b:
        b[:2] = array("q", [1, 2])
        b[2:4] = array(other, [3, 4])
        b[4:8:2] = memoryview(array(other, [5, 0, 6, 0]))[::2]
    assert guarded.read()[:8].tolist() == [1, 2, 3, 4, 5, 0, 6, 0]
    for wrong in (array("d", [1, 2]), array("Q", [1, 2]), array("i", [1, 2]), b"ab"):
        refused = pytest.raises(TypeError, match="don't fit into those of a section, which are 'q'")
        with refused, guarded as b:
            b[:2] = wrong
    with pytest.raises(ValueError, match="different structures"), guarded as b:
        b[:2] = array(other, [1, 2, 3])
    with pytest.raises(ValueError, match="released memoryview"):
        b[:2] = array(other, [1, 2])
    assert guarded.read()[:8].tolist() == [1, 2, 3, 4, 5, 0, 6, 0]


@pytest.mark.usefixtures("large")
def test_a_section_of_large_data_copies_what_was_touched() -> None:
    guarded = sharing.Guarded("q", range(1000))
    with guarded as b:
        b[17] += 1
        b[18] += 1
        b[990:992] = array("q", [0, 0])
        assert b[5:5].tolist() == []
    copies = guarded._data
    assert isinstance(copies, locks._Copies)
    assert copies._changed[:4].tolist() == [3, 8, 9, 495]
    with guarded as b:
        assert b[17] == 18
    assert copies._changed[0] == 0


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
        kind.unlock = lambda *_: 0  # type: ignore[method-assign]


def no_receipts() -> None:
    """Have each attempt of an item commit its sections."""
    begins = locks._Copies.chunk_begins
    locks._Copies.chunk_begins = lambda self, chunk, _: begins(self, chunk, 0)


def ended_is_not_begun() -> None:
    """Say of a chunk whose items have all ended that none has begun."""
    original = desk.place_in

    def place_in(line: memoryview, chunk: int) -> chunks.Place:
        place = original(line, chunk)
        return place if place.phase is chunks.Phase.RUNNING else chunks.UNBEGUN

    engines.place_in = place_in  # type: ignore[attr-defined]


def one_copy() -> None:
    """Change the data where they are."""
    original = locks._Copies._lay_out

    def lay_out(self: Any, *worker: Any) -> None:
        original(self, *worker)
        self._copies = (self._copies[0], self._copies[0])
        self._numbers = (self._numbers[0], self._numbers[0])
        self._sides = (self._sides[1], self._sides[1])

    locks._Copies._lay_out = lay_out


def no_second_look() -> None:
    """Take what was read for whole."""
    locks._Copies._is_current = lambda *_: True


def reads_take_the_lock() -> None:
    """Wait for whoever is in a section."""

    def read(self: sharing.Guarded) -> "array[int]":
        if not self._take(0.5):
            raise TimeoutError
        try:
            return original(self)
        finally:
            self._drop()

    original = sharing.Guarded.read
    sharing.Guarded.read = read  # type: ignore[method-assign]


def changes_are_not_noted() -> None:
    """Let a section of large data begin from what the one before last has left."""
    locks._LargeView._note = lambda *_: None


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (nobody_locks, test_a_lock_lets_one_in, "fork-first"),
        (nobody_locks, test_a_lock_lets_one_in, "fork-last"),
        (no_second_look, test_a_read_looks_again_if_others_commit_meanwhile, "1"),
        (reads_take_the_lock, test_a_read_waits_for_nobody_in_a_section, "fork"),
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


ROUNDS = 10_000


@dataclass
class Both:
    guarded: sharing.Guarded
    lock: sharing.Lock


def test_threads_that_take_two_locks_one_after_the_other_are_not_refused() -> None:
    """Whoever has left a section is not taken for its holder, whoever has got it since."""
    guarded, lock = sharing.Guarded("q", [0]), sharing.Lock()
    state = Both(guarded, lock)

    def work() -> None:
        for _ in range(ROUNDS):
            with state.guarded as numbers:
                numbers[0] += 1
            with state.lock:
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with sharing.open_engine(state, workers=1, start_method="fork"):
            threads = [start(work) for _ in range(6)]
            for one in threads:
                one.result(SOON)
    finally:
        sys.setswitchinterval(before)
    assert guarded.read()[0] == 6 * ROUNDS
