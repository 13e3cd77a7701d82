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
from under_test import children, sharing

HANGS = ("hangs", "hangs_in_c", "stops")
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


def weather(storm: Storm, *kinds: str, **options: Any) -> list[Any]:
    """Make such troubles in the middle of a map, and of those of other threads.

    Returns what became of them, where all else went well.
    """
    signs, half = storm.state.signs, ITEMS // 4
    with storm.others():
        with storm.beginning:
            steps = storm.next_steps(2 * half)
            items = [*steps[:half], *(Trouble(signs, kind) for kind in kinds), *steps[half:]]
            found = storm.engine.outcomes(work_or_trouble, items, **{"chunk_size": 5} | options)
        outcomes = list(found)
    troubles, outcomes[half : half + len(kinds)] = outcomes[half : half + len(kinds)], []
    storm.take(steps, [outcome.value for outcome in outcomes])
    storm.map_beside()
    assert storm.wrong == []
    return troubles


@pytest.mark.proves(
    "items",
    "hangs",
    "The item ends as `ItemTimeout`, in C code too, without another try; the others go on",
    within="its `timeout` and a worker's start",
    but="Without a `timeout` a map waits for ever.",
)
@pytest.mark.proves(
    "counter log cache", "hangs", "Exact for all other items; the item that hung does not count"
)
@pytest.mark.proves(
    "arrays", "hangs", "The item's block is put back as it was; all others are written once"
)
@pytest.mark.proves(
    "locks",
    "hangs",
    "The sections of all other items commit once",
    but="A section that the item had left before it hung has committed. An item that waits for "
    "what the hung one holds waits as long, and may reach the `timeout` too.",
)
@pytest.mark.proves("rest", "hangs", "The item's worker is gone")
def test_a_job_that_hangs_is_ended(long_storm: Storm) -> None:
    outcomes = weather(long_storm, *HANGS, timeout=3.0, chunk_size=1)
    assert [type(outcome.error) for outcome in outcomes] == [sharing.ItemTimeout] * len(HANGS)


@pytest.mark.proves(
    "items",
    "fails",
    "The item ends as `JobFailed`, without another try; the others go on",
    but="The exception itself does not travel: `JobFailed` has its name, its text and the "
    "worker's traceback.",
)
@pytest.mark.proves(
    "counter", "fails", "Exact; what the failed item had added before it failed counts"
)
@pytest.mark.proves(
    "log", "fails", "Complete; what the failed item had appended before it failed is there"
)
@pytest.mark.proves(
    "cache", "fails", "What `compute` raises goes to its caller; the next caller computes"
)
@pytest.mark.proves(
    "arrays", "fails", "The item's block is put back as it was; all others are written once"
)
@pytest.mark.proves(
    "locks",
    "fails",
    "The section that raised is rolled back",
    but="A section that the item had left before it failed has committed.",
)
@pytest.mark.proves("rest", "fails", "The item's worker goes on")
def test_a_job_that_fails_is_an_answer(long_storm: Storm) -> None:
    outcomes = weather(long_storm, *FAILS)
    assert [outcome.error.error_type for outcome in outcomes] == list(FAILS.values())


@pytest.mark.proves(
    "items",
    "crashes",
    "The item ends as `WorkerDied`, which names the signal; the others go on",
    within="`retries` + 1 tries",
)
@pytest.mark.proves("counter log cache arrays locks", "crashes", "Exact for all other items")
@pytest.mark.proves("rest", "crashes", "Nothing is left when the engine has closed")
def test_a_job_that_kills_its_worker_is_given_up(long_storm: Storm) -> None:
    outcomes = weather(long_storm, "segfaults", "is_out_of_memory", retries=1)
    for outcome, how in zip(outcomes, ("SIGSEGV", "SIGKILL"), strict=True):
        assert isinstance(outcome.error, sharing.WorkerDied)
        assert how in str(outcome.error)


@pytest.mark.proves(
    "items",
    "memory",
    "In a job, the item fails with `MemoryError`; in the main process, the map raises",
    but="The error in the main process is `MemoryError`, or that of what failed for want of "
    "memory. A kernel that has no memory left kills a process instead: see the rows on "
    "killed ones.",
)
@pytest.mark.proves(
    "counter log cache arrays locks", "memory", "Exact for all other items of a job"
)
def test_a_job_without_memory_fails(long_storm: Storm) -> None:
    outcomes = weather(long_storm, "asks_for_too_much_memory", "returns_too_much")
    assert [outcome.error.error_type for outcome in outcomes] == ["MemoryError"] * 2


@pytest.mark.proves(
    "items",
    "descriptors",
    "In a job, the item fails with `OSError`; in the main process, the map may end",
    but="The map ends with `StartFailed` when a worker that is needed can't be replaced.",
)
@pytest.mark.proves(
    "counter log cache arrays locks", "descriptors", "Exact for all other items of a job"
)
def test_a_job_without_descriptors_fails(long_storm: Storm) -> None:
    (outcome,) = weather(long_storm, "opens_too_many_files")
    assert outcome.error.error_type == "OSError"
    assert "Too many open files" in str(outcome.error)


@pytest.mark.proves(
    "items",
    "forks",
    "Neither the item's result nor the death of its worker waits for the child",
    but="Nobody ends the child but the job.",
)
@pytest.mark.proves(
    "counter log cache arrays locks",
    "forks",
    "Exact, also if the worker dies while the child lives",
)
@pytest.mark.proves(
    "rest",
    "forks",
    "The engine closes without waiting for the child",
    but="What the child keeps open stays open as long as the child lives.",
)
def test_a_job_that_forks_holds_nobody_up(long_storm: Storm) -> None:
    signs = long_storm.state.signs
    try:
        outcomes = weather(long_storm, "forks", "forks_and_dies")
        assert [outcome.value for outcome in outcomes] == ["forked"] * 2
    finally:
        for line in signs.notes("children"):  # whose processes they are is the job's to say
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)


@pytest.mark.proves(
    "items",
    "factory",
    "Each item that calls `get()` fails with that exception; the others go on",
    but="The factory is called again at each `get()`.",
)
@pytest.mark.proves("counter", "factory", "What an item had added before it called `get()` counts")
def test_what_cannot_be_made_is_the_failure_of_those_who_ask(start_method: str) -> None:
    state = PerWorkerState(sharing.Counter(), sharing.PerWorker(Unmakable))
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        outcomes = list(engine.outcomes(use_shop, range(40)))
        assert [one.item for one in outcomes if not one.ok] == list(range(0, 40, 5))
        assert {one.error.error_type for one in outcomes if one.error} == {"LookupError"}
        assert state.lines.value == 40


def in_the_middle(storm: Storm, do: Callable[[], object]) -> None:
    """Do something while several maps run; all comes out, but for what a cache may do without."""
    with storm.others():
        with storm.beginning:
            steps = storm.next_steps(2 * ITEMS)
            found = storm.engine.map(work_or_trouble, steps, retries=OFTEN)
        results = []
        for result in found:
            results.append(result)
            if len(results) in (ITEMS // 2, ITEMS):
                do()
    storm.take(steps, results)
    storm.map_beside()


@pytest.mark.proves(
    "items counter log arrays locks", "server", "The work goes on as if nothing had happened"
)
@pytest.mark.proves(
    "cache",
    "server",
    "Each worker computes for itself until another server is up, which begins empty",
    within="the start of another process",
    but="Until then, two workers may compute a key at once. What the cache had kept is gone.",
)
@pytest.mark.proves("rest", "server", "Nothing is left when the engine has closed")
def test_a_server_that_is_killed_is_replaced(start_method: str, signs: Signs) -> None:
    with open_storm(signs, start_method, random.Random(6)) as storm:
        services = storm.engine._crew._host.services  # type: ignore[attr-defined]
        killed: set[int] = set()

        def is_another() -> bool:
            server = services.process
            return server is not None and server.pid not in killed

        def kill() -> None:
            wait_until(is_another)
            pid = services.process.pid
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)

        in_the_middle(storm, kill)
        # Meanwhile each computed for himself.
        assert [one for one in storm.wrong if "computed twice at once" not in one.what] == []


def kill_forkserver() -> None:
    pid: int = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009
    os.kill(pid, signal.SIGKILL)


@pytest.mark.proves("items counter log cache arrays locks", "forkserver")
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="they are taken for dead here")
def test_workers_go_on_when_their_forkserver_is_killed(signs: Signs) -> None:
    with open_storm(signs, "forkserver", random.Random(9)) as storm:
        steps = storm.next_steps(2 * ITEMS)
        results = []
        for result in storm.engine.map(work_or_trouble, steps, chunk_size=1):
            results.append(result)
            if len(results) == ITEMS:
                kill_forkserver()
        storm.take(steps, results)
        assert storm.kills == 0
        in_the_middle(storm, lambda: None)  # and one that dies is replaced
        assert storm.wrong == []
        assert storm.kills >= 1


@pytest.mark.proves(
    "items",
    "forkserver",
    "Each item comes out once; all workers go on, or are replaced",
    within="its start and that of all workers",
    but="They are replaced where nobody can tell any more whether they live: not on Linux.",
)
@pytest.mark.proves(
    "counter log cache arrays locks", "forkserver", "As exact as when a worker is killed"
)
@pytest.mark.proves(
    "rest", "forkserver", "The old workers are gone before new ones run their items"
)
def test_workers_whose_forkserver_is_killed_do_not_go_on_beside_those_in_their_place(
    signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are taken for dead, since only the forkserver could have told that they live."""
    worker_died = sharing.Counter.worker_died

    def worker_died_and_work_goes_on(self: sharing.Counter, *args: int) -> int:
        """When it is known how far they came they come no further, though they may."""
        signs.give("go on")
        time.sleep(0.1)
        return worker_died(self, *args)

    def kill() -> None:
        wait_until(lambda: len(signs.notes("waits")) == WORKERS)
        kill_forkserver()

    monkeypatch.setattr(children, "_pidfd_of", lambda pid: None)
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
