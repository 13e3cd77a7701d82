"""The contract of the engines beside `processes`: the same, wherever the workers are."""

import contextlib
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leftovers
import pytest
import remote_jobs as jobs
from engine_jobs import (
    Broken,
    BrokenState,
    Item,
    NoPickle,
    NoUnpickle,
    die_at_first,
    fail,
    give_back,
    log_something,
    square,
    take_long,
    to_text,
    wait_for_refusal,
    wait_if_first,
)
from probe import Bare, Probe
from remote_engines import (
    REMOTE,
    environment,
    files_in,
    jobs_give_the_same_files,
    module_of,
    name_of,
    opened,
    ready_to_serve,
)
from remote_jobs import ShopState, Task
from scripts import Script
from signs import LIMIT, Signs, wait_until
from under_test import driver, runs, sharing

Engine = sharing.Engine[Bare]


@pytest.fixture(scope="module", params=REMOTE)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One for all tests, so they leave it as it was."""
    with opened(request, Bare(Probe(patient=True))) as engine:
        yield engine


# What comes out


def test_results_come_in_the_order_of_the_items(engine: Engine) -> None:
    assert list(engine.map(square, range(3000))) == [n * n for n in range(3000)]
    assert list(engine.map(square, iter(range(50)), chunk_size=7)) == [n * n for n in range(50)]
    assert list(engine.map(square, [])) == []
    pairs = zip(engine.map(square, range(90)), engine.map(to_text, range(90)), strict=True)
    assert list(pairs) == [(n * n, str(n)) for n in range(90)]
    assert list(engine.map(square, engine.map(square, range(50)))) == [n**4 for n in range(50)]


def test_unordered_results_come_as_they_are_there(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n) for n in range(8)]
    results = engine.map(wait_if_first, items, ordered=False, chunk_size=1)
    seen = [next(results) for _ in range(7)]
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]
    signs.give("go")
    assert list(results) == [0]


def test_large_items_and_results_get_through(engine: Engine) -> None:
    items = [bytes([n]) * 3_000_000 + b"end" for n in range(3)]
    assert list(engine.map(give_back, items)) == [item[::-1] for item in items]


def test_an_endless_source_is_read_a_little_ahead(engine: Engine) -> None:
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    ahead = []
    with contextlib.closing(engine.map(square, source(), chunk_size=3)) as results:  # type: ignore[type-var]
        for received, result in enumerate(itertools.islice(results, 300), 1):
            assert result == received * received
            ahead.append(read - received)
    assert max(ahead) <= 17 * 2 * 3  # sixteen chunks a worker, and what is on its way
    assert read <= 300 + 17 * 2 * 3


def test_the_results_that_wait_for_a_slow_first_item_are_bounded(
    engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read = runs.Run.may_read

    def read_or_refuse(self: runs.Run, workers: int) -> bool:
        allowed = may_read(self, workers)
        if not (allowed or self.fresh or self.fetching):
            signs.give("refused")  # somebody could be given more, and there is more to read
        return allowed

    monkeypatch.setattr(runs.Run, "may_read", read_or_refuse)
    items = (Item(signs, n) for n in itertools.count())
    with contextlib.closing(engine.map(wait_for_refusal, items, chunk_size=1)) as results:  # type: ignore[type-var]
        assert 10 < next(results) <= 17 * 2


# Failures


def test_an_item_that_fails_is_told_from_the_others(engine: Engine) -> None:
    bad = {
        "raise": "line 1 and line 2",
        "exit": "3",
        "result": "",  # it goes by value, where it can
        "no pickle": "its result, a NoPickle, can't be pickled: stays where",
        "no unpickle": "its result can't be unpickled: can't be put together",
        NoPickle(): "it can't be pickled: stays where it is",
        NoUnpickle(): "a worker could not unpickle it: can't be put together",
    }
    items: list[object] = [0, *itertools.chain.from_iterable((one, 1) for one in bad)]
    outcomes = list(engine.outcomes(fail, items, chunk_size=5))
    assert [outcome.item for outcome in outcomes] == items
    for outcome in outcomes:
        if outcome.item in (0, 1):
            assert outcome.value == outcome.item
        elif outcome.item == "result":
            assert outcome.ok
        else:
            assert isinstance(outcome.error, sharing.JobFailed)
            assert bad[outcome.item] in " ".join(outcome.error.message.split())
            assert "\n" not in str(outcome.error)
    with pytest.raises(sharing.JobFailed) as caught:
        list(engine.map(fail, [0, "raise"]))
    assert "raise HasArguments(1, 2)" in caught.value.traceback


def test_a_worker_that_cannot_have_the_state_is_a_failure_to_start(
    request: pytest.FixtureRequest, engine: Engine, signs: Signs
) -> None:
    name = name_of(engine)
    state = BrokenState(Broken(signs, "raises"))
    address = ready_to_serve(request.config, name)
    with (
        pytest.raises(sharing.StartFailed, match="LookupError: no such thing") as caught,
        sharing.open_engine(state, engine=name, workers=1, address=address) as broken,
    ):
        list(broken.map(square, [1]))
    assert "in attach" in caught.value.traceback


# Deaths


def test_a_worker_killed_from_outside_costs_no_result(engine: Engine, signs: Signs) -> None:
    def source() -> Iterator[Task]:
        for number in range(8):
            if number == 4:
                wait_until(lambda: len(signs.notes("pids 1")) == 1)
                os.kill(int(signs.notes("pids 1")[0]), signal.SIGKILL)
            yield Task(signs, number)

    for other in (0, *range(2, 8)):
        signs.note(f"pids {other}", "is not to wait")
    assert list(engine.map(jobs.note_and_wait, source(), chunk_size=1)) == list(range(8))
    assert len(signs.notes("pids 1")) == 2


def test_an_item_is_tried_again_when_its_worker_died(engine: Engine, signs: Signs) -> None:
    items = [Item(signs, n) for n in range(3)]
    assert list(engine.map(die_at_first, items, retries=2)) == [0, 1, 2]


def test_an_item_that_kills_each_time_fails_and_the_others_complete(
    engine: Engine, signs: Signs
) -> None:
    """Also where the cluster itself would begin a task of a dead worker again."""
    tasks = [Task(signs, n) for n in range(8)]
    outcomes = list(engine.outcomes(jobs.die_on_three, tasks, chunk_size=1, retries=1))
    assert [outcome.item.number for outcome in outcomes if not outcome.ok] == [3]
    error = outcomes[3].error
    assert type(error) is sharing.WorkerDied
    assert "its worker died 2 times, the last " in str(error)
    assert len(signs.notes("tried 3")) <= 2 + module_of(name_of(engine)).TRIES_IN_COMPANY


def test_an_item_that_kills_while_it_is_unpickled_fails_alone(engine: Engine) -> None:
    """Though it had travelled in one piece with others."""
    items: list[object] = [1, 2, jobs.KillsWhoReads(), 4, 5, 6]
    outcomes = list(engine.outcomes(jobs.nothing, items, chunk_size=6, retries=0))
    assert [place for place, outcome in enumerate(outcomes) if not outcome.ok] == [2]
    assert type(outcomes[2].error) is sharing.WorkerDied


def test_an_item_that_does_not_end_holds_up_no_engine_that_closes(
    request: pytest.FixtureRequest, engine: Engine, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it closes by an exception, and the grace is over."""
    monkeypatch.setattr(driver, "GRACE", 0.5)
    signs.note("pids 1", "is not to wait")
    begun = 0.0
    with (
        pytest.raises(ValueError, match="enough"),
        opened(request, Bare(Probe()), engine=name_of(engine)) as own,
    ):
        options: Any = {"chunk_size": 1, "ordered": False}
        values = own.map(jobs.note_and_wait, [Task(signs, 0), Task(signs, 1)], **options)
        assert next(values) == 1
        wait_until(lambda: len(signs.notes("pids 0")) == 1)
        begun = time.monotonic()
        raise ValueError("enough")
    assert time.monotonic() - begun < LIMIT / 3
    signs.give("never")  # where it could not be ended, it ends now
    assert list(engine.map(square, range(9))) == [n * n for n in range(9)]


def test_a_stuck_item_ends_or_timeout_is_refused(engine: Engine) -> None:
    if not module_of(name_of(engine)).KEEPS_TIMEOUTS:
        with pytest.raises(sharing.SharingError, match=r"timeout can't be kept here: .*can't"):
            engine.map(square, [1], timeout=5)
        return
    outcomes = list(engine.outcomes(take_long, [0], timeout=0.2))
    assert type(outcomes[0].error) is sharing.ItemTimeout
    assert list(engine.map(square, range(9), timeout=600)) == [n * n for n in range(9)]


# What goes with it


def test_log_records_arrive(engine: Engine, signs: Signs, caplog: pytest.LogCaptureFixture) -> None:
    list(engine.map(log_something, [Item(signs, n) for n in range(4)], chunk_size=1))

    def records() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "tests.worker"]

    wait_until(lambda: len(records()) == 4)  # they are handled by a thread of their own
    assert [record.getMessage() for record in records()] == ["went wrong"] * 4  # by the level
    assert {record.processName for record in records()} <= {"worker-1", "worker-2"}
    assert "ZeroDivisionError" in caplog.text


def test_per_worker_values_are_closed_with_their_worker(
    request: pytest.FixtureRequest, engine: Engine, signs: Signs
) -> None:
    """Beside another engine of its kind, and after it."""
    state = ShopState(sharing.PerWorker(jobs.Shop, signs))
    with opened(request, state, engine=name_of(engine)) as own:
        list(own.map(jobs.use, [Task(signs, 2)] * 2, chunk_size=1))
        assert len(signs.notes("opened")) == 2
        assert signs.notes("closed") == []
        assert list(engine.map(square, [3])) == [9]
    wait_until(lambda: len(signs.notes("closed")) == 2)
    assert list(engine.map(square, [4])) == [16]


# Without an address: started and ended by the run


@contextlib.contextmanager
def running(engine: str, signs: Signs, count: int = 0) -> Iterator[Script]:
    """Start `remote_work.py`, with a folder of its own for what is left."""
    file = Path(__file__).with_name("remote_work.py")
    command = [sys.executable, str(file), engine, str(signs.folder), str(count)]
    pipe = subprocess.PIPE
    with (
        # Of a short name: there are sockets in it.
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as temporary,
        subprocess.Popen(
            command,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=environment() | {"TMPDIR": temporary},
            start_new_session=True,
        ) as process,
    ):
        script = Script(process, signs)
        try:
            yield script
            wait_until(lambda: not segments(script))
            if process.returncode != -signal.SIGKILL:
                assert files_in(Path(temporary)) == []
        finally:
            for other in leftovers.alive(script.family):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other.pid, signal.SIGKILL)
            process.kill()


def segments(script: Script) -> list[Path]:
    """What lies in shared memory, by names that have the id of one of its processes."""
    pids = {str(other.pid) for other in script.family} | {str(script.process.pid)}
    found = leftovers.SEGMENTS.glob("*") if leftovers.SEGMENTS.exists() else ()
    return [path for path in found if pids & set(re.split(r"[-_.]", path.name))]


@pytest.mark.parametrize("engine_name", REMOTE)
def test_an_exception_ends_the_cluster_that_the_run_started(engine_name: str, signs: Signs) -> None:
    """And the jobs of a script, which no worker can import, run."""
    signs.give("go on")
    with running(engine_name, signs, count=6) as script:
        wait_until(lambda: len(signs.notes("begun")) == 6)
        script.family = leftovers.family(script.process.pid)
        errors = script.ends(1)
        assert script.said.split() == ["0", "1", "2", "3", "4", "5"]
        assert errors.splitlines()[-1] == "ValueError: enough"
        assert errors.count("Traceback") == 1, errors
        assert signs.given("closed")


@pytest.mark.parametrize("engine_name", REMOTE)
def test_a_signal_to_all_processes_is_handled_by_the_main_one(
    engine_name: str, signs: Signs
) -> None:
    """As Ctrl-C on a terminal is, which every process of the group gets."""
    with running(engine_name, signs) as script:
        script.is_at_work()
        os.killpg(script.process.pid, signal.SIGINT)
        signs.wait("interrupted")
        signs.give("go on")
        errors = script.ends(-signal.SIGINT)
        assert sorted(signs.notes("begun")) == sorted(signs.notes("ended"))
        assert signs.given("closed")
        assert errors.count("Traceback") == 1, errors
        assert script.said == ""


@pytest.mark.parametrize("engine_name", REMOTE)
def test_nobody_outlives_the_main_process(engine_name: str, signs: Signs) -> None:
    with running(engine_name, signs) as script:
        script.is_at_work()
        lingering = module_of(engine_name).lingering(script.family)
        script.family -= lingering
        script.process.kill()
        try:
            script.ends(-signal.SIGKILL)
        finally:
            script.family |= lingering


@pytest.mark.parametrize("engine_name", REMOTE)
def test_two_runs_stand_side_by_side(engine_name: str, tmp_path: Path) -> None:
    """No port, folder or cluster of the one is in the way of the other."""
    folders = tmp_path / "one", tmp_path / "other"
    with contextlib.ExitStack() as stack:
        scripts = []
        for folder in folders:
            folder.mkdir()
            scripts.append(stack.enter_context(running(engine_name, Signs(folder), count=4)))
            scripts[-1].is_at_work()
        for script in scripts:
            script.signs.give("go on")
            errors = script.ends(1)
            assert errors.splitlines()[-1] == "ValueError: enough"
            assert errors.startswith("Traceback")
            assert script.said.split() == ["0", "1", "2", "3"]


# The jobs that come with the project


@pytest.mark.parametrize("engine_name", REMOTE)
def test_the_jobs_give_the_same_files(
    request: pytest.FixtureRequest, engine_name: str, tmp_path: Path
) -> None:
    address = ready_to_serve(request.config, engine_name)
    jobs_give_the_same_files(engine_name, address, tmp_path)
