"""How processes end: by signals in order, and never as orphans; and what they are made of."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import leftovers
import pytest
from probe import Bare, Probe
from processes_jobs import Served, State, call, call_until_answered, name_self, sees_default_signals
from signs import LIMIT, Signs, wait_until
from under_test import memory, mutex, sharing

STOPS = [signal.SIGINT, signal.SIGTERM]
ENDS = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}  # a shell shows -2 as 130


class Script:
    """`long_work.py`, running in a session of its own."""

    def __init__(self, process: "subprocess.Popen[str]", signs: Signs) -> None:
        self.process = process
        leftovers.mains.add(process.pid)
        self.signs = signs
        self.family: set[leftovers.Process] = set()

    def is_at_work(self) -> None:
        """Wait until both workers have begun an item, and see who there is."""
        wait_until(lambda: len(self.signs.notes("begun")) >= 2)
        self.family = leftovers.family(self.process.pid)
        assert len(self.family) >= 2

    def ends(self, code: int) -> str:
        """Wait until it has ended so, and nobody is left of it; what it said on stderr."""
        _, errors = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == code, errors
        wait_until(lambda: not leftovers.alive(self.family))
        return errors

    def all_begun_have_ended(self) -> None:
        assert sorted(self.signs.notes("begun")) == sorted(self.signs.notes("ended"))


@contextlib.contextmanager
def running(
    start_method: str, signs: Signs, how: str = "waits", grace: float = 600
) -> Iterator[Script]:
    """Start it; ``how`` says what its items do."""
    file = Path(__file__).with_name("long_work.py")
    command = [sys.executable, str(file), start_method, str(signs.folder), how, str(grace)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = subprocess.PIPE
    with (
        # Of a short name: there are sockets in it.
        tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as temporary,
        subprocess.Popen(
            command,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=env | {"TMPDIR": temporary},
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Script(process, signs)
            assert not list(Path(temporary).glob("sharing-*"))
            if process.returncode != -signal.SIGKILL:
                assert not list(Path(temporary).iterdir())
        finally:
            process.kill()


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


def test_a_signal_to_all_is_the_main_ones_to_handle(start_method: str, signs: Signs) -> None:
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


def test_what_does_not_end_within_the_grace_is_ended(start_method: str, signs: Signs) -> None:
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


def test_a_second_signal_before_the_engine_has_seen_the_first(signs: Signs) -> None:
    with running("fork", signs, "is hurried", grace=600) as script:
        script.is_at_work()
        script.process.send_signal(signal.SIGINT)
        script.ends(143)
        assert signs.notes("ended") == []


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_it_opens(signs: Signs, number: signal.Signals) -> None:
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


def test_programs_that_a_job_starts_can_be_interrupted(start_method: str) -> None:
    with sharing.open_engine(Bare(Probe()), workers=1, start_method=start_method) as engine:
        assert list(engine.map(sees_default_signals, [0])) == ["True"]


def test_opens_in_any_thread() -> None:
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


def test_one_object_serves_all(start_method: str) -> None:
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


def test_the_words_of_processes_are_zero_at_first() -> None:
    words = memory.Words(5)
    assert words.view.tolist() == [0] * 5
    words.view[3] = -(2**63)
    assert words.view.tolist() == [0, 0, 0, -(2**63), 0]


def test_the_kernel_frees_a_mutex_on_linux() -> None:
    assert mutex.RobustMutex.supported() == (sys.platform == "linux")
