"""What goes wrong in one item, or beside the workers, and is nobody else's loss."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from typing import Any

import pytest
from signs import Signs, wait_until
from storm import ITEMS, OFTEN, WORKERS, Storm, open_storm
from trouble_jobs import (
    PerWorkerState,
    Trouble,
    Unmakable,
    use_shop,
    wait_and_work,
    work_or_trouble,
)
from under_test import sharing

HANGS = ["hangs", "hangs_in_c", "stops"]
FAILS = {
    "raises": "HasArguments",
    "raises_what_holds_a_lambda": "ValueError",
    "returns_what_cannot_be_pickled": "RuntimeError",
    "returns_what_cannot_be_unpickled": "RuntimeError",
}


@pytest.fixture(scope="module")
def long_storm(start_method: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    """One for all tests, which leave it as it is."""
    signs = Signs(tmp_path_factory.mktemp("signs"))
    with open_storm(signs, start_method, random.Random(5)) as storm:
        yield storm


def weather(storm: Storm, kind: str, **options: Any) -> Any:
    """Make such trouble in the middle of a map; what became of it, where all else went well."""
    signs, half = storm.state.signs, ITEMS // 4
    steps = storm.next_steps(2 * half)
    items = [*steps[:half], Trouble(signs, kind), *steps[half:]]
    outcomes = list(storm.engine.outcomes(work_or_trouble, items, chunk_size=5, **options))
    trouble = outcomes.pop(half)
    storm.take(steps, [outcome.value for outcome in outcomes])
    storm.map_beside()
    assert storm.wrong == []
    return trouble


@pytest.mark.parametrize("kind", HANGS)
def test_a_job_that_hangs_is_ended(long_storm: Storm, kind: str) -> None:
    outcome = weather(long_storm, kind, timeout=1.0)
    assert isinstance(outcome.error, sharing.ItemTimeout)


@pytest.mark.parametrize("kind", FAILS)
def test_a_job_that_fails_is_an_answer(long_storm: Storm, kind: str) -> None:
    outcome = weather(long_storm, kind)
    assert outcome.error.error_type == FAILS[kind]


def test_a_job_that_kills_its_worker_is_given_up(long_storm: Storm) -> None:
    for kind, how in (("segfaults", "SIGSEGV"), ("is_out_of_memory", "SIGKILL")):
        outcome = weather(long_storm, kind, retries=1)
        assert isinstance(outcome.error, sharing.WorkerDied)
        assert how in str(outcome.error)


@pytest.mark.parametrize("kind", ["asks_for_too_much_memory", "returns_too_much"])
def test_a_job_without_memory_fails(long_storm: Storm, kind: str) -> None:
    outcome = weather(long_storm, kind)
    assert outcome.error.error_type == "MemoryError"


def test_a_job_without_descriptors_fails(long_storm: Storm) -> None:
    outcome = weather(long_storm, "opens_too_many_files")
    assert outcome.error.error_type == "OSError"
    assert "Too many open files" in str(outcome.error)


@pytest.mark.parametrize("kind", ["forks", "forks_and_dies"])
def test_a_job_that_forks_holds_nobody_up(long_storm: Storm, kind: str) -> None:
    signs = long_storm.state.signs
    try:
        assert weather(long_storm, kind).value == "forked"
    finally:
        for line in signs.notes("children"):  # whose processes they are is the job's to say
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)
        (signs.folder / "children").unlink()


def test_what_cannot_be_made_is_the_failure_of_those_who_ask(start_method: str) -> None:
    state = PerWorkerState(sharing.Counter(), sharing.PerWorker(Unmakable))
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        outcomes = list(engine.outcomes(use_shop, range(40)))
        assert [one.item for one in outcomes if not one.ok] == list(range(0, 40, 5))
        assert {one.error.error_type for one in outcomes if one.error} == {"LookupError"}
        assert state.lines.value == 40


def in_the_middle(storm: Storm, do: Callable[[], object]) -> None:
    """Do something while a map runs; all comes out, but for what a cache may do without."""
    steps = storm.next_steps(2 * ITEMS)
    results = []
    for result in storm.engine.map(work_or_trouble, steps, retries=OFTEN):
        results.append(result)
        if len(results) in (ITEMS // 2, ITEMS):
            do()
    storm.take(steps, results)
    storm.map_beside()


def test_a_server_that_is_killed_is_replaced(start_method: str, signs: Signs) -> None:
    with open_storm(signs, start_method, random.Random(6)) as storm:
        services = storm.engine._host.services  # type: ignore[attr-defined]
        in_the_middle(storm, lambda: os.kill(services.process.pid, signal.SIGKILL))
        # Meanwhile each computed for himself.
        assert [one for one in storm.wrong if "computed twice at once" not in one.what] == []


def test_a_forkserver_that_is_killed_takes_its_workers_along(
    signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine takes them for dead, so they must not go on beside those in their place."""
    worker_died = sharing.Counter.worker_died

    def worker_died_and_work_goes_on(self: sharing.Counter, *args: int) -> int:
        """When it is known how far they came they come no further, though they may."""
        signs.give("go on")
        time.sleep(0.1)
        return worker_died(self, *args)

    def kill() -> None:
        wait_until(lambda: len(signs.notes("waits")) == WORKERS)
        pid: int = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009
        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(sharing.Counter, "worker_died", worker_died_and_work_goes_on)
    with open_storm(signs, "forkserver", random.Random(7)) as storm:
        steps = storm.next_steps(2 * WORKERS)
        killer = threading.Thread(target=kill)
        killer.start()
        storm.take(steps, list(storm.engine.map(wait_and_work, steps, chunk_size=1)))
        killer.join()
        in_the_middle(storm, lambda: None)
        assert storm.wrong == []
        assert storm.kills >= WORKERS
