"""The contract of `Engine`: every item is done once, and whoever fails is told from the others."""

import contextlib
import fcntl
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from engine_jobs import (
    Broken,
    BrokenState,
    Divide,
    Item,
    NoPickle,
    NoUnpickle,
    Two,
    Unpicklable,
    chunk_of,
    chunk_of_slow,
    die_after_all,
    die_at_first,
    die_on_four,
    die_once,
    divide,
    fail,
    get_stuck,
    give_back,
    give_much,
    leave_a_child,
    log_something,
    note_and_raise,
    note_both_ends,
    square,
    square_with_pid,
    take_long,
    to_text,
    wait_for_refusal,
    wait_for_the_last,
    wait_if_first,
)
from faults import assert_red
from probe import Bare, Probe
from signs import Signs, wait_until
from under_test import channel, chunks, desk, events, runs, scheduler, sharing

Engine = sharing.Engine[Bare]


@pytest.fixture(scope="module")
def engine(start_method: str) -> Iterator[Engine]:
    """One for all tests, so they leave it as it was."""
    with sharing.open_engine(Bare(Probe()), workers=2, start_method=start_method) as engine:
        yield engine


@pytest.fixture(scope="module")
def patient_engine(start_method: str) -> Iterator[Engine]:
    """One whose chunks stay whole, for what depends on where an item stands in its chunk."""
    state = Bare(Probe(patient=True))
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        yield engine


@pytest.fixture(scope="module")
def any_engine() -> Iterator[Engine]:
    """For what takes place in the parent, and so has nothing to do with how workers start."""
    with sharing.open_engine(Bare(Probe()), workers=2) as engine:
        yield engine


# What comes out


def test_results_come_in_the_order_of_the_items(engine: Engine) -> None:
    assert list(engine.map(square, range(3000))) == [n * n for n in range(3000)]
    assert list(engine.map(square, range(50), chunk_size=7)) == [n * n for n in range(50)]
    assert list(engine.map(square, iter(range(3000)))) == [n * n for n in range(3000)]
    assert list(engine.map(square, [])) == []


def test_unordered_results_come_as_they_are_there(engine: Engine, signs: Signs) -> None:
    results = engine.map(
        wait_if_first, [Item(signs, n) for n in range(8)], ordered=False, chunk_size=1
    )
    seen = [next(results) for _ in range(7)]
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]
    signs.give("go")
    assert list(results) == [0]


def test_items_behind_a_slow_first_one_run_meanwhile(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n) for n in range(8)]
    assert list(engine.map(wait_for_the_last, items, chunk_size=1)) == list(range(8))


def test_any_callable_that_can_be_pickled_is_a_job(any_engine: Engine) -> None:
    assert list(any_engine.map(partial(divide, by=2), [2, 4])) == [1, 2]
    assert list(any_engine.map(Divide(2), [2, 4])) == [1, 2]


def test_one_map_feeds_another(engine: Engine) -> None:
    results = engine.map(square, engine.map(square, range(500)))
    assert list(results) == [n**4 for n in range(500)]


def test_two_maps_are_read_in_turn(engine: Engine) -> None:
    pairs = zip(engine.map(square, range(500)), engine.map(to_text, range(500)), strict=True)
    assert list(pairs) == [(n * n, str(n)) for n in range(500)]


def test_a_job_is_had_though_it_came_with_an_unreadable_item(engine: Engine) -> None:
    """Also when it gets that together with an item that it can't read."""
    for job, expected in ((to_text, "1"), (square, 1)):
        outcomes = list(engine.outcomes(job, [1, NoUnpickle(), 1], chunk_size=3))  # type: ignore[arg-type]
        assert [outcome.value for outcome in outcomes] == [expected, None, expected]


def test_large_items_and_results_get_through(engine: Engine) -> None:
    items = [bytes([n]) * 10_000_000 + b"end" for n in range(3)]
    assert list(engine.map(give_back, items)) == [item[::-1] for item in items]


# What is read of the source, and when


def test_an_endless_source_is_read_a_little_ahead(any_engine: Engine) -> None:
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    ahead = []
    with contextlib.closing(any_engine.map(square, source(), chunk_size=3)) as results:  # type: ignore[type-var]
        for received, result in enumerate(itertools.islice(results, 600), 1):
            assert result == received * received
            ahead.append(read - received)
    assert max(ahead) <= 17 * 2 * 3  # sixteen chunks a worker, and what is on its way
    assert read <= 600 + 17 * 2 * 3


def test_what_waits_for_a_slow_first_item_is_bounded(
    any_engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read = runs.Run.may_read

    def read_or_refuse(self: runs.Run, workers: int) -> bool:
        allowed = may_read(self, workers)
        if not (allowed or self.fresh or self.fetching):
            signs.give("refused")  # somebody could be given more, and there is more to read
        return allowed

    monkeypatch.setattr(runs.Run, "may_read", read_or_refuse)
    items = (Item(signs, n) for n in itertools.count())
    with contextlib.closing(any_engine.map(wait_for_refusal, items, chunk_size=1)) as results:  # type: ignore[type-var]
        assert 10 < next(results) <= 17 * 2


def test_results_of_a_trickling_source_come_one_by_one(any_engine: Engine) -> None:
    asked = 0

    def source() -> Iterator[int]:
        nonlocal asked
        for asked in range(1, 25):
            time.sleep(0.025)  # this is how it trickles
            yield asked

    late = []
    # As they are there: in order, one that is late for another reason would hold up the others.
    for received, _ in enumerate(any_engine.map(square, source(), ordered=False), 1):
        late.append(asked - received)
    assert len(late) == 24
    assert max(late[4:]) <= 3


def test_a_source_that_ends_with_a_large_item_ends(any_engine: Engine) -> None:
    """Small items are asked for several at a time, so that it owes some when it ends."""
    for length in range(20, 80, 2):
        items = (bytes(1 << 15 if n == length else 0) for n in range(length + 1))
        results = list(any_engine.map(give_back, items, chunk_size=2))
        assert [len(result) for result in results] == [*[0] * length, 1 << 15]


def test_an_error_of_the_source_is_the_readers(any_engine: Engine) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(any_engine.map(square, source()))
    assert list(any_engine.map(square, [3])) == [9]


def test_leaving_early_waits_for_what_runs_and_hands_out_no_more(
    engine: Engine, signs: Signs
) -> None:
    results = engine.map(note_both_ends, (Item(signs, n) for n in itertools.count()), chunk_size=1)
    assert next(results) == 0
    wait_until(lambda: len(signs.notes("begun")) >= 2)
    signs.give("left")
    results.close()  # type: ignore[attr-defined]
    begun = signs.notes("begun")
    assert sorted(begun) == sorted(signs.notes("ended"))
    assert list(engine.map(square, range(100))) == [n * n for n in range(100)]
    assert signs.notes("begun") == begun


def test_leaving_early_closes_the_generator_that_is_the_source(any_engine: Engine) -> None:
    """As whoever reads a file in it expects."""
    ends = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ends.append("closed")

    for result in any_engine.map(square, source(), chunk_size=1):
        assert result == 0
        break
    assert ends == ["closed"]


def test_a_map_begins_when_its_first_value_is_asked_for(any_engine: Engine, signs: Signs) -> None:
    any_engine.map(note_both_ends, [Item(signs, 0)])
    assert list(any_engine.map(square, range(9))) == [n * n for n in range(9)]
    assert signs.notes("begun") == []


# Chunks


def test_a_chunk_has_as_many_items_as_told(patient_engine: Engine) -> None:
    chunks = list(patient_engine.map(chunk_of, range(24), chunk_size=5))
    lengths = [len(list(group)) for _, group in itertools.groupby(chunks)]
    assert lengths == [5, 5, 5, 5, 4]


def test_items_do_not_queue_behind_a_slow_one_of_their_chunk(engine: Engine) -> None:
    last_of_chunk = dict(engine.map(chunk_of_slow, range(4_000), chunk_size=500))
    assert set(range(400, 4_000, 1000)) <= set(last_of_chunk.values())


def test_an_item_may_wait_for_those_behind_it_in_its_chunk(engine: Engine, signs: Signs) -> None:
    """What came along with it goes to another worker while it runs."""
    items = [Item(signs, number) for number in range(8)]
    assert list(engine.map(wait_for_the_last, items, chunk_size=8)) == list(range(8))


def test_a_slow_reader_does_not_shrink_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, whose next chunk is always on its way while the reader is busy.

    By the worker's clock each item takes a microsecond, whatever else the machine does.
    """
    clock = partial(next, itertools.count(0, 1e-6))
    monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    longest = 0
    with sharing.open_engine(Bare(Probe()), workers=1, start_method="fork") as engine:
        results = engine.map(chunk_of, itertools.count())
        for _, group in itertools.islice(itertools.groupby(results), 10):
            longest = max(longest, len(list(group)))
            if longest > 500:
                break
            time.sleep(0.06)  # this is how slow
    assert longest > 500


# Failures


@pytest.mark.parametrize(
    ("item", "error_type", "message"),
    [
        ("raise", "HasArguments", "line 1 and line 2"),
        ("local", "ValueError", "holds a lambda"),
        ("unspeakable", "Unspeakable", "(its text can't be had)"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("result", "AttributeError", "its result, a function, can't be pickled: "),
        ("no pickle", "RuntimeError", "its result, a NoPickle, can't be pickled: stays where"),
        ("no unpickle", "RuntimeError", "its result can't be unpickled: can't be put together"),
        (NoPickle(), "RuntimeError", "it can't be pickled: stays where it is"),
        (NoUnpickle(), "RuntimeError", "a worker could not unpickle it: can't be put together"),
    ],
)
def test_an_item_that_fails_in_any_way_is_told_from_the_others(
    engine: Engine, item: object, error_type: str, message: str
) -> None:
    items = [0, 1, 2, item, 4, 5, 6, 7, 8, 9]
    outcomes = list(engine.outcomes(fail, items, chunk_size=7))
    assert [outcome.item for outcome in outcomes] == items
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, None, 4, 5, 6, 7, 8, 9]
    assert [outcome.ok for outcome in outcomes] == [True] * 3 + [False] + [True] * 6
    error = outcomes[3].error
    assert error is not None
    assert error.item is item
    assert error.job == "fail"
    assert error.error_type == error_type or error_type == "AttributeError"
    assert message in " ".join(error.message.split())
    assert "\n" not in str(error)
    assert str(error).startswith("fail failed on ")
    # Where nobody's code went wrong there is none to show.
    assert bool(error.traceback) == (item != "result")
    results = engine.map(fail, items, chunk_size=7)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(sharing.JobFailed, match="fail failed on"):
        next(results)


def test_a_failure_has_the_traceback_of_the_worker(engine: Engine) -> None:
    with pytest.raises(sharing.JobFailed) as caught:
        list(engine.map(fail, ["raise"]))
    error = caught.value
    assert type(error) is sharing.JobFailed
    assert "in fail" in error.traceback
    assert "raise HasArguments(1, 2)" in error.traceback
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.item, again.traceback) == (str(error), "raise", error.traceback)


def test_an_exception_is_an_answer_and_not_tried_again(any_engine: Engine, signs: Signs) -> None:
    (outcome,) = any_engine.outcomes(note_and_raise, [Item(signs, 0)], retries=5)
    assert not outcome.ok
    assert len(signs.notes("tried")) == 1


@pytest.mark.parametrize("job", [lambda item, state: item, "no function"])
def test_a_lambda_or_what_is_no_function_is_refused_as_a_job(any_engine: Engine, job: Any) -> None:
    with pytest.raises(sharing.SharingError, match=r"can't be pickled, so|must be a func"):
        any_engine.map(job, [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be a whole number above 0, not 0"),
        ({"chunk_size": 1.5}, "chunk_size must be a whole number above 0, not 1.5"),
        ({"retries": -1}, "retries must be a whole number, 0 or more, not -1"),
        ({"retries": None}, "retries must be a whole number, 0 or more, not None"),
        ({"timeout": 0}, "timeout must be above 0 seconds, not 0"),
        ({"timeout": "soon"}, "timeout must be above 0 seconds, not 'soon'"),
        ({"timeout": float("nan")}, "timeout must be above 0 seconds, not nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    any_engine: Engine, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(sharing.SharingError, match=message):
        any_engine.map(square, [1], **options)
    with pytest.raises(sharing.SharingError, match=message):
        any_engine.outcomes(square, [1], **options)


@pytest.mark.parametrize(
    "options",
    [{"chunk_size": 10**30}, {"timeout": 10**400}, {"timeout": 1e300}, {"retries": 10**30}],
    ids=["chunk_size", "timeout", "a float", "retries"],
)
def test_options_of_any_size_are_taken(engine: Engine, options: dict[str, Any]) -> None:
    assert list(engine.map(square, range(5), **options)) == [0, 1, 4, 9, 16]


# Deaths


def test_an_item_is_tried_again_when_its_worker_died(engine: Engine, signs: Signs) -> None:
    outcomes = list(engine.outcomes(die_at_first, [Item(signs, n) for n in range(4)], retries=2))
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, None]
    error = outcomes[3].error
    assert type(error) is sharing.WorkerDied
    assert "its worker died 3 times, the last by SIGKILL" in str(error)
    assert [len(signs.notes(f"tried {n}")) for n in range(4)] == [1, 2, 3, 3]


def test_only_the_item_that_ran_is_blamed(patient_engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n) for n in range(20)]
    outcomes = list(patient_engine.outcomes(die_on_four, items, chunk_size=10, retries=0))
    assert [outcome.item.number for outcome in outcomes if not outcome.ok] == [4]
    assert "its worker died once by SIGKILL" in str(outcomes[4].error)
    tried = [len(signs.notes(f"tried {n}")) for n in range(20)]
    # What had ended runs again, for its results died too; what had not begun runs once.
    assert tried == [2] * 4 + [1] * 16


def test_a_death_costs_nobody_else_a_try(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n) for n in range(9)]
    assert list(engine.map(die_once, items, chunk_size=9, retries=1)) == list(range(9))
    assert all(signs.given(f"died on {n}") for n in (2, 5, 8))


def test_a_death_behind_the_last_item_costs_no_item_a_try(
    patient_engine: Engine, signs: Signs
) -> None:
    items = [Item(signs, n) for n in range(20)]
    results = patient_engine.map(die_after_all, items, chunk_size=10, retries=0)
    assert list(results) == list(range(20))
    assert len(signs.notes("tried")) == 30


def test_a_worker_killed_while_it_answers_is_asked_again(
    engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = channel.Channel.drain

    def kill_and_drain(self: channel.Channel) -> list[channel.Frame]:
        arrived = fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4))
        # As much as the smallest pipe holds is of the answer, which is larger than any.
        if int.from_bytes(arrived, sys.byteorder) >= 1 << 16 and signs.first("killed"):
            os.kill(int(signs.notes("answers")[0]), signal.SIGKILL)
        return drain(self)

    monkeypatch.setattr(channel.Channel, "drain", kill_and_drain)
    # Without a retry: it had ended, so it is not to blame.
    assert list(engine.map(give_much, [Item(signs, 0)], retries=0)) == [b"again"]
    assert signs.given("killed")


def test_stuck_items_are_ended_by_the_timeout_and_the_others_go_on(engine: Engine) -> None:
    items = ["a", "sleeps", "b", "in C", "c", "is stopped", "d"]
    outcomes = list(engine.outcomes(get_stuck, items, chunk_size=7, timeout=600))
    assert [outcome.item for outcome in outcomes if outcome.ok] == ["a", "b", "c", "d"]
    for outcome in outcomes:
        if not outcome.ok:
            assert type(outcome.error) is sharing.ItemTimeout
            assert outcome.error.item == outcome.item
            assert "it ran for more than 600 s, and its worker was ended" in str(outcome.error)


def test_no_item_is_ended_before_its_timeout(engine: Engine) -> None:
    begun = time.monotonic()
    with pytest.raises(sharing.ItemTimeout):
        list(engine.map(take_long, [0], timeout=0.05))
    assert time.monotonic() - begun > 0.05


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_dead_worker_whose_child_lives_on_is_noticed(engine: Engine, signs: Signs) -> None:
    try:
        assert list(engine.map(leave_a_child, [Item(signs, 7)])) == [7]
    finally:
        for pid in signs.notes("child"):
            os.kill(int(pid), signal.SIGKILL)


def test_workers_killed_from_outside_change_nothing(engine: Engine) -> None:
    results = engine.map(square_with_pid, range(6_000), chunk_size=20, retries=30)
    squares = []
    for place, (result, pid) in enumerate(results):
        squares.append(result)
        if place in (500, 1500, 2500):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert squares == [n * n for n in range(6_000)]


# Records of the log


def test_log_records_arrive_whole_with_the_name_of_their_worker(
    start_method: str, signs: Signs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # the level is that of when the worker starts
    with sharing.open_engine(Bare(Probe()), workers=1, start_method=start_method) as own:
        list(own.map(log_something, [Item(signs, 42)]))
    records = [record for record in caplog.records if record.name == "tests.worker"]
    assert [record.levelname for record in records] == ["INFO", "ERROR"]
    assert records[0].getMessage() == f"item 42 is {'x' * 100_000}"
    assert {record.processName for record in records} == {"worker-1"}
    assert "ZeroDivisionError" in caplog.text


# Opening and closing


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"the state must be an instance of a dataclass, not \{\}"),
        (Unpicklable, "the state must be an instance of a dataclass, not <class"),
        (Unpicklable(), "the field 'event' of the state can't be pickled"),
        (Unpicklable(event=NoPickle()), "the field 'event' of the state can't be pickled"),
    ],
)
def test_a_state_that_can_not_be_shared_is_refused(state: object, message: str) -> None:
    with (
        pytest.raises(sharing.SharingError, match=message),
        sharing.open_engine(state, workers=1),
    ):
        pytest.fail("it is open")


def test_an_object_in_two_fields_or_in_two_engines_is_refused(any_engine: Engine) -> None:
    probe = Probe()
    with (
        pytest.raises(sharing.SharingError, match="'one' and 'other' hold the same object"),
        sharing.open_engine(Two(probe, probe), workers=1),
    ):
        pytest.fail("it is open")
    with (
        pytest.raises(sharing.SharingError, match="'probe' is in use by another open engine"),
        sharing.open_engine(any_engine.state, workers=1),
    ):
        pytest.fail("it is open")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be a whole number above 0, not 0"),
        ({"workers": -2}, "workers must be a whole number above 0, not -2"),
        ({"workers": True}, "workers must be a whole number above 0, not True"),
        ({"engine": "threads"}, "unknown engine 'threads': choose one of processes"),
        ({"start_method": "clone"}, "unknown start method 'clone': choose one of spawn, f"),
    ],
)
def test_an_unknown_engine_or_start_method_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(sharing.SharingError, match=message):
        sharing.open_engine(Bare(Probe()), **options)


def test_an_engine_opens_once(start_method: str) -> None:
    state = Bare(Probe())
    engine = sharing.open_engine(state, workers=1, start_method=start_method)
    assert engine.workers == 1
    assert engine.state is state
    with pytest.raises(sharing.SharingError, match="the engine is not open"):
        engine.map(square, [1])
    with engine:
        unread = engine.map(square, [1, 2])
        assert list(engine.map(square, [1, 2])) == [1, 4]
        with pytest.raises(sharing.SharingError, match="an engine opens once"):
            engine.__enter__()
    with pytest.raises(sharing.SharingError, match="the engine has closed"):
        next(unread)
    with pytest.raises(sharing.SharingError, match="the engine is not open"):
        engine.map(square, [1])
    with pytest.raises(sharing.SharingError, match="an engine opens once"), engine:
        pass


def test_an_exception_closes_the_engine_when_what_runs_has_ended(
    start_method: str, signs: Signs
) -> None:
    items = (Item(signs, n) for n in itertools.count())
    opened = sharing.open_engine(Bare(Probe()), workers=2, start_method=start_method)
    with contextlib.suppress(LookupError), opened as engine:
        results = engine.map(note_both_ends, items)
        assert next(results) == 0
        signs.give("left")
        raise LookupError
    assert sorted(signs.notes("begun")) == sorted(signs.notes("ended"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "failed while it started: LookupError: no such thing"),
        ("dies", "ended while .* started, .*with exit code 9"),
    ],
)
def test_a_worker_that_can_not_start_is_one_error(
    start_method: str, signs: Signs, how: str, message: str
) -> None:
    state = BrokenState(Broken(signs, how))
    with (
        pytest.raises(sharing.StartFailed, match=message) as caught,
        sharing.open_engine(state, workers=1, start_method=start_method),
    ):
        pytest.fail("it is open")
    assert len(signs.notes("attached")) <= 6
    assert ("in attach" in caught.value.traceback) == (how == "raises")


def test_importing_sharing_loads_nothing_but_the_standard_library() -> None:
    """Workers start the sooner for it."""
    source = f"""
import sys
before = set(sys.modules)
import {sharing.__name__}
print(*set(sys.modules) - before)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", source]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    package = sharing.__name__.partition(".")[0]
    assert loaded - sys.stdlib_module_names - {"__mp_main__"} == {package}
    assert "asyncio" not in loaded


# Faults


def nothing_is_given_back() -> None:
    """Have each worker work on all of its chunk."""
    desk.TICK = 3600


def given_back_is_kept() -> None:
    """Hand out what a worker has given back only when it has answered."""
    scheduler.Scheduler._gave_back = lambda *_: None  # type: ignore[method-assign]
    wait_until.__defaults__ = (2.0,)  # it would not come


def the_clock_of_the_parent() -> None:
    """Measure chunks from when they are handed out until their results are read."""
    sent: list[float] = []
    send, passed, learn = scheduler.Scheduler._send, scheduler.Scheduler._passed, runs.Sizer.learn

    def note_and_send(self: Any, member: Any, chunk: Any) -> None:
        sent.append(time.monotonic())
        send(self, member, chunk)

    def learn_now(self: Any, event: events.Passed) -> None:
        learn(event.run.sizer, event.items, time.monotonic() - sent.pop(0), event.nbytes)
        passed(self, event)

    scheduler.Scheduler._send = note_and_send  # type: ignore[method-assign]
    scheduler.Scheduler._passed = learn_now  # type: ignore[method-assign]
    runs.Sizer.learn = lambda *_: None  # type: ignore[method-assign]


def no_window() -> None:
    """Read the source as fast as workers can."""
    runs.WINDOW = 1 << 30


def the_whole_chunk_is_blamed() -> None:
    """Cost all items that came along a try."""
    original = chunks.Chunk.part

    def part(self: chunks.Chunk, start: int, stop: int, *, ended: bool = False) -> chunks.Chunk:
        found = original(self, start, stop, ended=ended)
        found.died = self.died + 1
        return found

    chunks.Chunk.part = part  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (nothing_is_given_back, test_items_do_not_queue_behind_a_slow_one_of_their_chunk, "fork"),
        (
            given_back_is_kept,
            test_an_item_may_wait_for_those_behind_it_in_its_chunk,
            "fork",
        ),
        (no_window, test_what_waits_for_a_slow_first_item_is_bounded, ""),
        (the_whole_chunk_is_blamed, test_a_death_costs_nobody_else_a_try, "fork"),
        (the_clock_of_the_parent, test_a_slow_reader_does_not_shrink_chunks, ""),
    ],
)
def test_each_fault_makes_a_test_fail(
    fault: Callable[[], None], test: Callable[..., None], variant: str
) -> None:
    assert_red(fault, test, variant)
