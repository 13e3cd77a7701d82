"""How processes start and end, under each start method, and what is said when they can't."""

import contextlib
import importlib.util
import multiprocessing
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children_jobs as jobs
import leftovers
import pytest
import scripts
from signs import LIMIT, Signs, wait_until
from under_test import children, lifeline, nursery, parcel, reasons, sharing

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


@pytest.fixture
def launcher(start_method: str) -> Iterator[children.Launcher]:
    """One whose children are as workers."""
    with launching(start_method) as launcher:
        yield launcher


@contextlib.contextmanager
def launching(
    method: str, content: object = None, *, prepared: bool = True
) -> Iterator[children.Launcher]:
    """With ``prepared`` its children are as workers, else as what serves them."""
    launcher = children.Launcher(method)
    try:
        if prepared:
            launcher.prepare(content)
        yield launcher
    finally:
        launcher.close()


@pytest.fixture(params=["a descriptor of processes", "none"])
def _with_and_without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has a descriptor for a process, and where not."""
    if request.param == "none":
        monkeypatch.setattr(children, "_pidfd_of", lambda pid: None)
    elif sys.platform != "linux":
        pytest.skip("it has none")


def ask(launcher: children.Launcher, target: Callable[..., object], *args: Any) -> Any:
    """What a child that runs this sends back."""
    answers, theirs = multiprocessing.Pipe(duplex=False)
    with answers:
        with theirs:
            child = launcher.start(target, (*args, theirs), "asked")
        try:
            assert answers.poll(LIMIT), child.exitcode()
            return answers.recv()
        finally:
            assert child.join(LIMIT)
            child.close()


def is_readable(child: children.Child, seconds: float = LIMIT) -> bool:
    poll = select.poll()
    poll.register(child, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def is_alive(pid: int) -> bool:
    return any(process.pid == pid for process in leftovers.everybody())


# Life and death


@pytest.mark.usefixtures("_with_and_without")
@pytest.mark.parametrize("code", [0, 7, -signal.SIGKILL, -signal.SIGTERM])
def test_tells_how_it_ended(launcher: children.Launcher, code: int) -> None:
    child = launcher.start(jobs.end, (code,), "child")
    # SIGTERM is handled in a child, for the parent to stop in order.
    expected = 256 - signal.SIGTERM if code == -signal.SIGTERM else code
    assert is_readable(child)
    assert child.join(LIMIT)
    assert child.exitcode() == expected
    child.close()
    child.close()


@pytest.mark.usefixtures("_with_and_without")
def test_lives_until_it_is_killed(launcher: children.Launcher, signs: Signs) -> None:
    child = launcher.start(jobs.live, (signs,), "child")
    wait_until(lambda: signs.notes("alive") == [str(child.pid)])
    assert child.exitcode() is None
    assert not is_readable(child, 0)
    assert not child.join(0.02)
    child.kill()
    assert is_readable(child)
    assert child.join(LIMIT)
    assert child.exitcode() == -signal.SIGKILL
    child.kill()
    child.close()


@pytest.mark.usefixtures("_with_and_without")
def test_one_that_lives_ends_when_it_is_closed(launcher: children.Launcher, signs: Signs) -> None:
    child = launcher.start(jobs.live, (signs,), "child")
    signs.wait("alive")
    child.close()
    wait_until(lambda: not is_alive(child.pid))


def test_a_fork_of_the_parent_ends_nobody(launcher: children.Launcher, signs: Signs) -> None:
    child = launcher.start(jobs.live, (signs,), "child")
    signs.wait("alive")
    pid = fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            assert child.exitcode() is None
            assert not child.join()
            child.kill()
            child.close()
            launcher.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert not child.join(0.1)
    signs.give("end")
    assert child.join(LIMIT)
    assert child.exitcode() == 0
    child.close()


def fork() -> int:
    """Fork, beside threads that pytest may have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


@linux
@pytest.mark.parametrize("prepared", [True, False])
def test_a_dead_one_whose_child_holds_all_wakes_who_waits(
    start_method: str, signs: Signs, prepared: bool
) -> None:
    with launching(start_method, prepared=prepared) as launcher:
        child = launcher.start(jobs.leave_a_child, (signs,), "child")
        assert is_readable(child, 10)
        assert child.exitcode() == -signal.SIGKILL
        assert is_alive(int(signs.notes("left")[0]))
        signs.give("end")


@pytest.mark.usefixtures("_with_and_without")
@pytest.mark.parametrize("prepared", [True, False])
def test_a_dead_one_whose_child_holds_all_is_noticed(
    start_method: str, signs: Signs, prepared: bool
) -> None:
    with launching(start_method, prepared=prepared) as launcher:
        child = launcher.start(jobs.leave_a_child, (signs,), "child")
        wait_until(lambda: signs.notes("left"))
        assert child.join(10)
        assert child.exitcode() == -signal.SIGKILL
        assert is_alive(int(signs.notes("left")[0]))
        signs.give("end")


@pytest.mark.parametrize("ending", [0, -signal.SIGKILL])
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.usefixtures("_with_and_without")
def test_one_ends_where_the_program_ignores_sigchld(
    start_method: str, prepared: bool, ending: int
) -> None:
    """Under spawn nobody can tell how; what else forks, can."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with launching(start_method, prepared=prepared) as launcher:
            child = launcher.start(jobs.end, (ending,), "child")
            assert is_readable(child)
            assert child.join(LIMIT)
            told = start_method == "forkserver" or (start_method == "fork" and prepared)
            assert child.exitcode() == (ending if told else reasons.UNKNOWN)
            child.close()
            assert child.pid not in {process.pid for process in multiprocessing.active_children()}
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_death_in_words() -> None:
    assert reasons.death(3) == "with exit code 3"
    assert reasons.death(-signal.SIGSEGV) == "by SIGSEGV"
    assert reasons.death(-signal.SIGKILL) == "by SIGKILL (out of memory, perhaps)"
    assert reasons.death(-63) == "by signal 63"
    assert reasons.death(reasons.UNKNOWN) == "in a way that nobody can tell"


@linux
@pytest.mark.parametrize("how", ["", "forks", "loses its nursery"])
def test_none_outlives_the_parent(start_method: str, signs: Signs, how: str) -> None:
    """In C code, where a fork of the parent's lives on, and without a nursery."""
    if how == "loses its nursery" and start_method != "fork":
        pytest.skip("it has none")
    file = Path(__file__).with_name("children_script.py")
    with scripts.running(file, start_method, signs, how) as script:
        signs.wait("at work")
        pids = signs.notes("alive")
        mine = {process for process in leftovers.everybody() if str(process.pid) in pids}
        assert len(mine) == 2
        script.process.kill()
        script.process.wait()
        wait_until(lambda: not leftovers.alive(mine), 2)
        for pid in signs.notes("fork"):
            os.kill(int(pid), signal.SIGKILL)
        script.ends(-signal.SIGKILL)


# What a child is given, and finds


def test_arguments_and_connections_reach_it(launcher: children.Launcher) -> None:
    answers, theirs = multiprocessing.Pipe(duplex=False)
    with answers, theirs:
        child = launcher.start(jobs.say, (theirs, 1, "two", [3.0]), "child")
        assert answers.poll(LIMIT)
        assert answers.recv() == (1, "two", [3.0])
        assert child.join(LIMIT)
        child.close()


@pytest.mark.parametrize("content", [{"a": 1}, bytes(1 << 20), None])
def test_a_parcel_reaches_it(start_method: str, content: object) -> None:
    with launching(start_method, prepared=False) as launcher:
        sent = launcher.prepare(content)
        for _ in range(2):
            assert ask(launcher, jobs.unpack, sent) == content
        other = parcel.Parcel(content)
        assert ask(launcher, jobs.unpack, other) == content


def test_a_parcel_that_does_not_unpickle_is_told_by_the_child(start_method: str) -> None:
    with launching(start_method) as launcher:
        sent = parcel.Parcel(jobs.Falls())
        assert ask(launcher, jobs.unpack, sent) == "LookupError('fell apart')"


def test_a_parcel_that_does_not_pickle_starts_nobody(start_method: str) -> None:
    before = leftovers.family(os.getpid())
    with launching(start_method) as launcher:
        with pytest.raises(parcel.Unfit, match="stays here") as caught:
            launcher.start(jobs.unpack, (parcel.Parcel(jobs.Raises()),), "child")
        assert isinstance(caught.value.error, RuntimeError)
        assert ask(launcher, jobs.say) == ()
    helpers = leftovers.helpers()
    family = {one for one in leftovers.family(os.getpid()) - before if one.pid not in helpers}
    assert not leftovers.alive(family)


def test_a_fork_finds_what_was_there_when_the_engine_opened() -> None:
    """Though it can't be pickled, and has changed in the parent since."""
    held = [1, 2]
    with launching("fork", prepared=False) as launcher:
        sent = launcher.prepare(lambda: held)
        held.append(3)
        for _ in range(2):
            assert ask(launcher, jobs.unpack, sent) == [1, 2]


@pytest.mark.parametrize("prepared", [True, False])
def test_it_sees_the_parent_as_its_parent(start_method: str, prepared: bool) -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with launching(start_method, prepared=prepared) as launcher:
            found = ask(launcher, jobs.describe_self)
    finally:
        signal.signal(signal.SIGPIPE, before)
    current = multiprocessing.current_process()
    assert found.pop("parent") == (os.getpid(), current.name, True)
    if start_method == "fork":
        assert found["SIGPIPE"] == signal.SIG_DFL
    assert not any("multi-threaded" in message for message in found.pop("warnings"))
    del found["SIGPIPE"]
    assert found == {
        "name": "asked",
        "thread": True,
        "daemon": False,
        "children": [],
        "faulthandler": True,
        "stop signals": [True, True],
        "SIGCHLD": signal.SIG_DFL,
        "wakeup": -1,
        "blocked": set(),
    }


@linux
def test_it_holds_no_pipe_of_another_one(start_method: str, signs: Signs) -> None:
    """But for those that the parent had before it began to start any."""
    with launching(start_method) as launcher:
        ask(launcher, jobs.say)  # what all share is there from then on
        before = jobs.pipes()
        reader, writer = multiprocessing.Pipe(duplex=False)
        with reader, writer:
            other = launcher.start(jobs.live, (signs, "alive"), "other")
            kept = launcher.start(jobs.say, (writer,), "kept")
            signs.wait("alive")
            mine = {os.fstat(reader.fileno()).st_ino}
            held = ask(launcher, jobs.list_pipes)
            assert not held & mine
            assert not held & (jobs.pipes() - before)
        signs.give("end")
        for child in (other, kept):
            assert child.join(LIMIT)
            child.close()


def test_a_crash_leaves_its_stack(start_method: str, tmp_path: Path) -> None:
    script = tmp_path / "crashes.py"
    script.write_text(
        f"""
import sys
import children_jobs
from under_test import children
if __name__ == "__main__":
    launcher = children.Launcher({start_method!r})
    launcher.prepare(None)
    child = launcher.start(children_jobs.crash, (), "child")
    child.join()
    print(child.exitcode())
    child.close()
    launcher.close()
"""
    )
    ran = run(script)
    assert ran.stdout == f"{-signal.SIGSEGV}\n"
    assert "Segmentation fault" in ran.stderr
    assert "in crash" in ran.stderr


@pytest.mark.parametrize("loaded", [True, False])
def test_the_limit_of_threads_holds(
    start_method: str, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    """For libraries that are loaded already, too, where threadpoolctl is there."""
    for name in lifeline.THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)
    if loaded:
        pytest.importorskip("numpy", exc_type=ImportError)
        pytest.importorskip("threadpoolctl")
    with launching(start_method) as launcher:
        answers, theirs = multiprocessing.Pipe(duplex=False)
        with answers, theirs:
            child = launcher.start(jobs.tell_threads, (theirs,), "child", threads=1)
            assert answers.poll(LIMIT)
            limit, pools = answers.recv()
            assert child.join(LIMIT)
            child.close()
    assert limit == "1"
    if loaded and start_method == "fork":
        assert set(pools) == {1}


def test_what_the_user_says_of_threads_stays(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in lifeline.limits_of(1)


# The nursery


@contextlib.contextmanager
def a_thread() -> Iterator[None]:
    """Beside which a fork is warned of."""
    enough = threading.Event()
    thread = threading.Thread(target=enough.wait)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prepared", [True, False])
def test_a_fork_beside_threads_is_no_error(monkeypatch: pytest.MonkeyPatch, prepared: bool) -> None:
    """Python 3.15 raises when the child is there; here each one does."""
    real = os.fork

    def warns() -> int:
        pid = real()
        if pid and threading.active_count() > 1:
            what = f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to"
            warnings.warn(what, DeprecationWarning, stacklevel=2)
        return pid

    monkeypatch.setattr(os, "fork", warns)
    filters = list(warnings.filters)
    with a_thread(), launching("fork", prepared=prepared) as launcher:
        child = launcher.start(jobs.end, (5,), "child")
        assert child.join(LIMIT)
        assert child.exitcode() == 5
    assert warnings.filters == filters


@linux
def test_those_that_are_forked_go_on_when_the_nursery_is_killed(signs: Signs) -> None:
    with launching("fork") as launcher:
        child = launcher.start(jobs.live, (signs,), "child")
        signs.wait("alive")
        kill_nursery(launcher)
        assert not child.join(0.1)
        assert ask(launcher, jobs.say) == ()  # by another one
        assert child.exitcode() is None
        signs.give("end")
        assert child.join(LIMIT)
        assert child.exitcode() == reasons.UNKNOWN
        child.close()


def test_one_whose_nursery_is_killed_is_ended_where_nobody_could_tell(
    signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_pidfd_of", lambda pid: None)
    with launching("fork") as launcher:
        child = launcher.start(jobs.live, (signs,), "child")
        signs.wait("alive")
        kill_nursery(launcher)
        assert is_readable(child)
        assert child.exitcode() == reasons.UNKNOWN
        wait_until(lambda: not is_alive(child.pid))
        child.close()


def kill_nursery(launcher: children.Launcher) -> None:
    assert launcher._nursery is not None
    process = launcher._nursery._child
    os.kill(process.pid, signal.SIGKILL)
    assert process.join(LIMIT)


def test_a_nursery_that_is_stopped_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_PATIENCE", 0.5)
    with launching("fork") as launcher:
        assert launcher._nursery is not None
        os.kill(launcher._nursery._child.pid, signal.SIGSTOP)
        assert ask(launcher, jobs.say) == ()


def test_a_nursery_that_is_killed_each_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with launching("fork") as launcher:
        assert launcher._nursery is not None
        begin = launcher._nursery._start

        def begin_and_kill(*args: Any) -> children.Child:
            child = begin(*args)
            child.kill()
            child.join()
            return child

        monkeypatch.setattr(launcher._nursery, "_start", begin_and_kill)
        kill_nursery(launcher)
        with pytest.raises(sharing.StartFailed, match="'child' was killed, each time"):
            launcher.start(jobs.end, (0,), "child")


def test_signals_of_the_terminal_do_not_end_the_nursery() -> None:
    with launching("fork") as launcher:
        assert launcher._nursery is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(launcher._nursery._child.pid, number)
        first = launcher._nursery._child
        assert ask(launcher, jobs.say) == ()
        assert launcher._nursery._child is first


def test_many_at_once(launcher: children.Launcher, signs: Signs) -> None:
    """Each tells its own exit code."""
    started = {code: launcher.start(jobs.end, (code,), f"child-{code}") for code in range(8)}
    for code, child in started.items():
        assert child.join(LIMIT)
        assert child.exitcode() == code
        child.close()


# Why something does not start

STATE = """
from dataclasses import dataclass
from under_test import sharing

@dataclass
class State:
    n: int = 0

def job(item, state):
    return item
"""

MAIN = """
def main():
    with sharing.open_engine(State(), workers=2, start_method={method!r}) as engine:
        print(list(engine.map(job, range(3))))
"""

GUARDED = f"{STATE}{MAIN}\nif __name__ == '__main__':\n    main()\n"


def run(
    *command: object, said: str = "", env: dict[str, str] | None = None, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a Python with what can be imported here."""
    path = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}  # noqa: PTH100
    return subprocess.run(
        [sys.executable, *map(str, command)],
        input=said,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | path | (env or {}),
        cwd=cwd,
    )


def complaint(ran: "subprocess.CompletedProcess[str]") -> str:
    """The one line that says why."""
    lines = [line for line in ran.stderr.splitlines() if "StartFailed: " in line]
    assert len(lines) == 1, ran.stderr
    assert ran.returncode == 1, ran.stderr
    assert "[0, 1, 2]" not in ran.stdout
    return lines[0]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_main_module_without_a_guard(tmp_path: Path, method: str) -> None:
    script = tmp_path / "bare.py"
    script.write_text(f"{STATE}{MAIN.format(method=method)}\nmain()\n")
    said = complaint(run(script))
    assert "put what it is to run below if __name__ == '__main__':" in said
    script.write_text(GUARDED.format(method=method))
    assert run(script).stdout == "[0, 1, 2]\n"


@pytest.mark.parametrize("how", ["-c", "-"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_main_module_without_a_file(method: str, how: str) -> None:
    source = GUARDED.format(method=method)
    ran = run("-c", source) if how == "-c" else run("-", said=source)
    said = complaint(ran)
    assert "no file that workers could import" in said
    assert "into a module" in said
    assert "guard" not in said


@pytest.mark.parametrize("how", ["-c", "-"])
def test_a_main_module_without_a_file_whose_job_is_in_another(tmp_path: Path, how: str) -> None:
    """Under spawn it works but from stdin, where Python takes that for a file."""
    (tmp_path / "apart.py").write_text(STATE + MAIN.format(method="spawn"))
    source = "import apart\napart.main()\n"
    ran = run("-c", source, cwd=tmp_path) if how == "-c" else run("-", said=source, cwd=tmp_path)
    if how == "-c":
        assert ran.stdout == "[0, 1, 2]\n", ran.stderr
    else:
        assert "came from stdin" in complaint(ran)


def test_a_main_module_without_a_file_is_enough_for_fork() -> None:
    assert run("-c", GUARDED.format(method="fork")).stdout == "[0, 1, 2]\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_daemonic_process_has_no_children(tmp_path: Path, method: str) -> None:
    (tmp_path / "apart.py").write_text(STATE + MAIN.format(method=method))
    script = tmp_path / "daemonic.py"
    script.write_text(
        """
import multiprocessing
import apart

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=apart.main, daemon=True)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""
    )
    said = complaint(run(script))
    assert "a daemonic process may have no children" in said
    assert "'threads'" in said


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_working_folder_that_is_gone(tmp_path: Path, method: str) -> None:
    script = tmp_path / "lost.py"
    source = GUARDED.format(method=method)
    lost = "import multiprocessing.connection, os\nfolder.mkdir()\nos.chdir(folder)\nfolder.rmdir()"
    source = source.replace("    main()", f"    {'; '.join(lost.splitlines())}; main()")
    script.write_text(f"from pathlib import Path\nfolder = Path({str(tmp_path / 'x')!r})\n{source}")
    ran = run(script)
    if method == "fork":
        assert ran.stdout == "[0, 1, 2]\n", ran.stderr
    else:
        assert "the working folder has been removed: change to one" in complaint(ran)


def test_a_temporary_folder_of_too_long_a_path(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    script = tmp_path / "long.py"
    script.write_text(GUARDED.format(method="forkserver"))
    ran = run(script, env={"TMPDIR": str(folder)})
    if ran.stdout != "[0, 1, 2]\n":  # as where its socket has no path
        assert "set TMPDIR to a shorter one" in complaint(ran)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(24, "Too many open files"), "Too many open files: have fewer workers, or allow"),
        (OSError(11, "Not now"), r"have fewer workers, or allow more processes \(ulimit -u\)"),
        (EOFError(), "the server of the start method ended|the main module is no file"),
        (RuntimeError("so\nand so"), "RuntimeError: so and so"),
    ],
)
def test_what_the_system_refuses_is_told(error: Exception, reason: str) -> None:
    assert re.search(reason, reasons.why_not_started(error, "forkserver"))


def test_a_start_that_the_system_refuses_starts_nobody(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(lifeline, "start", refuse)
    with (
        launching(start_method, prepared=False) as launcher,
        pytest.raises(sharing.StartFailed, match=r"'child' can't be started: Too many open files"),
    ):
        launcher.start(jobs.end, (0,), "child")


# Nothing is left behind


@linux
def test_a_folder_of_a_killed_forkserver_is_found(signs: Signs) -> None:
    """Where `multiprocessing` has a folder for its sockets."""
    doctor = importlib.import_module(f"{sharing.__name__.partition('.')[0]}.doctor")
    file = Path(__file__).with_name("children_script.py")
    with scripts.running(file, "forkserver", signs, "") as script:
        signs.wait("at work")
        script.family = leftovers.family(script.process.pid)
        temporary = Path(script.temporary)
        folders = list(temporary.glob("pymp-*"))
        of_others = Path(tempfile.mkdtemp(prefix="pymp-", dir=temporary))
        found = list(doctor.find_left(Path("/nowhere"), temporary, []))
        assert [(one.path, one.has_ended) for one in found] == [(one, False) for one in folders]
        script.process.kill()
        script.ends(-signal.SIGKILL)
        found = list(doctor.find_left(Path("/nowhere"), temporary, []))
        assert [(one.path, one.has_ended) for one in found] == [(one, True) for one in folders]
        assert doctor.clean_up(found).verdict == "ok"
        assert list(temporary.iterdir()) == [of_others]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("there", [True, False])
def test_doctor_says_where_the_limit_of_threads_does_not_hold(
    method: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = importlib.import_module(f"{sharing.__name__.partition('.')[0]}.doctor")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there or None)
    found = doctor.check_threads({}, 4, 8, method)
    assert found.verdict == ("ok" if there else "warn")
    assert there or f"under {method} not for those that are loaded before" in found.found


def test_no_descriptor_is_left(launcher: children.Launcher) -> None:
    def count() -> int:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208

    ask(launcher, jobs.say)
    before = count()
    for _ in range(3):
        ask(launcher, jobs.say)
        child = launcher.start(jobs.end, (-signal.SIGKILL,), "child")
        assert child.join(LIMIT)
        child.close()
    assert count() == before
