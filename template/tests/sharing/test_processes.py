"""How processes end: by signals in order, and never as orphans; and what they are made of."""

import contextlib
import errno
import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import leftovers
import pytest
import scripts
from probe import Bare, Probe
from processes_jobs import (
    Bulky,
    Served,
    State,
    call,
    call_until_answered,
    die_and_die,
    name_self,
    sees_default_signals,
    weigh,
)
from scripts import Script
from signs import Signs
from under_test import memory, mutex, sharing

STOPS = [signal.SIGINT, signal.SIGTERM]
ENDS = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}  # a shell shows -2 as 130


def running(
    start_method: str, signs: Signs, how: str = "waits", grace: float = 600
) -> contextlib.AbstractContextManager[Script]:
    """Start `long_work.py`; ``how`` says what its items do."""
    file = Path(__file__).with_name("long_work.py")
    return scripts.running(file, start_method, signs, how, grace)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_lets_what_runs_end(
    start_method: str, signs: Signs, number: signal.Signals
) -> None:
    with running(start_method, signs) as script:
        script.is_at_work()
        script.process.send_signal(number)
        signs.wait("interrupted")
        signs.give("go on")
        script.ends(ENDS[number])
        script.all_begun_have_ended()
        assert signs.given("closed")


def test_a_signal_to_all_is_handled_by_the_main_process(start_method: str, signs: Signs) -> None:
    """As Ctrl-C on a terminal is, which every process of the group gets."""
    with running(start_method, signs) as script:
        script.is_at_work()
        os.killpg(script.process.pid, signal.SIGINT)
        signs.wait("interrupted")
        signs.give("go on")
        errors = script.ends(ENDS[signal.SIGINT])
        script.all_begun_have_ended()
        assert signs.given("closed")
        assert errors.count("Traceback") == 1, errors


def test_items_that_do_not_end_within_the_grace_are_ended(start_method: str, signs: Signs) -> None:
    with running(start_method, signs, grace=0.1) as script:
        script.is_at_work()
        script.process.send_signal(signal.SIGTERM)
        script.ends(143)
        assert signs.notes("ended") == []
        assert signs.given("closed")


def test_a_second_signal_ends_it_now(signs: Signs) -> None:
    with running("fork", signs, grace=600) as script:
        script.is_at_work()
        script.process.send_signal(signal.SIGINT)
        signs.wait("interrupted")
        script.process.send_signal(signal.SIGTERM)
        script.ends(143)
        assert signs.notes("ended") == []


def test_a_second_signal_counts_before_the_engine_has_seen_the_first(signs: Signs) -> None:
    with running("fork", signs, "is hurried", grace=600) as script:
        script.is_at_work()
        script.process.send_signal(signal.SIGINT)
        script.ends(143)
        assert signs.notes("ended") == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_is_not_lost() -> None:
    class Falls:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    seen: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        sharing.open_engine(Bare(Probe()), workers=1, start_method="fork") as engine,
    ):
        for name in engine.map(name_self, range(1_000), chunk_size=1):
            if not seen:
                Falls()
            seen.append(name)
    assert len(seen) == 1


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_it_opens_ends_the_program(signs: Signs, number: signal.Signals) -> None:
    with running("spawn", signs) as script:
        signs.wait("opening")
        script.family = leftovers.family(script.process.pid)
        script.process.send_signal(number)
        signs.give("go on")
        script.ends(ENDS[number])
        script.all_begun_have_ended()


@pytest.mark.parametrize("how", ["waits", "in C", "serves"])
def test_nobody_outlives_the_main_process(start_method: str, signs: Signs, how: str) -> None:
    """Neither one that runs Python, nor one in C code that lets nobody else run, nor a server."""
    with running(start_method, signs, how) as script:
        script.is_at_work()
        script.process.kill()
        script.ends(-signal.SIGKILL)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_worker_killed_before_it_has_read_its_state(start_method: str) -> None:
    """Though the state does not fit into the pipe that it would come by."""
    with sharing.open_engine(Bulky(b""), workers=1, start_method=start_method):
        before = leftovers.family(os.getpid())  # with what stays for all engines
    killed: set[leftovers.Process] = set()
    enough = threading.Event()

    def kill_at_sight() -> None:
        while len(killed) < 4 and not enough.is_set():
            for process in leftovers.family(os.getpid()) - before - killed:
                killed.add(process)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_sight)
    killer.start()
    try:
        state = Bulky(bytes(1 << 20))
        with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
            assert list(engine.map(weigh, range(3))) == [1 << 20] * 3
    finally:
        enough.set()
        killer.join()
    assert killed


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_a_start_that_lacks_descriptors_says_so(
    start_method: str, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Whichever pipe can't be made when a worker is replaced."""
    with (
        pytest.raises(sharing.StartFailed, match="Too many open files: have fewer workers"),
        sharing.open_engine(Bare(Probe()), workers=1, start_method=start_method) as engine,
    ):
        made, pipe = itertools.count(1), os.pipe

        def lack() -> tuple[int, int]:
            if next(made) >= nth:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return pipe()

        monkeypatch.setattr(os, "pipe", lack)
        list(engine.map(die_and_die, range(3), retries=100))


def test_programs_that_a_job_starts_can_be_interrupted(start_method: str) -> None:
    with sharing.open_engine(Bare(Probe()), workers=1, start_method=start_method) as engine:
        assert list(engine.map(sees_default_signals, [0])) == ["True"]


def test_an_engine_opens_in_any_thread_and_sets_no_signal_handlers_there() -> None:
    """Signals are then for the main thread to handle, and those handlers are left alone."""
    names: list[str] = []
    before = [signal.getsignal(number) for number in STOPS]

    def work() -> None:
        with sharing.open_engine(Bare(Probe()), workers=1) as engine:
            assert [signal.getsignal(number) for number in STOPS] == before
            names.extend(engine.map(name_self, [0]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert names == ["MainThread"]


def test_handlers_of_the_users_own_are_called_and_given_back() -> None:
    called: list[int] = []

    def own(number: int, _: object) -> None:
        called.append(number)

    before = signal.signal(signal.SIGTERM, own)
    try:
        interrupt = signal.getsignal(signal.SIGINT)
        with sharing.open_engine(Bare(Probe()), workers=1, start_method="fork") as engine:
            names = engine.map(name_self, range(3), chunk_size=1)
            assert next(names) == "MainThread"
            signal.raise_signal(signal.SIGTERM)
            assert list(names) == ["MainThread"] * 2
        assert called == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


# The primitives that patterns are made of


def test_a_service_is_one_object_for_all_workers(start_method: str) -> None:
    with sharing.open_engine(State(Served()), workers=2, start_method=start_method) as engine:
        sums = list(engine.map(call, [("add", 5)] * 200, chunk_size=1))
        assert sorted(sums) == list(range(105, 1105, 5))
        with pytest.raises(sharing.JobFailed, match="LookupError: not here"):
            list(engine.map(call, [("fail",)]))
        for _ in range(2):
            before = engine.state.tally.service.call("pid")
            assert list(engine.map(call, [("pid",)])) == [before]
            os.kill(before, signal.SIGKILL)
            (after,) = set(engine.map(call_until_answered, [("pid",)] * 2, chunk_size=1))
            assert after not in (before, None, os.getpid())
            assert list(engine.map(call, [("add", 1)])) == [101]  # a new one, begun anew


def test_an_interrupted_call_leaves_no_answer_to_the_next_one() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        state = State(Served())
        with sharing.open_engine(state, workers=1, start_method="fork"):
            assert state.tally.service.call("add", 1) == 101
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupted) as caught:
                state.tally.service.call("nap")
            assert state.tally.service.call("add", 1) == 102
            del caught  # which has kept what that call had in hand
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_words_of_processes_are_zero_at_first() -> None:
    words = memory.Words(5)
    assert words.view.tolist() == [0] * 5
    words.view[3] = -(2**63)
    assert words.view.tolist() == [0, 0, 0, -(2**63), 0]


def test_a_mutex_that_the_kernel_frees_is_there_on_linux_alone() -> None:
    assert mutex.RobustMutex.supported() == (sys.platform == "linux")
