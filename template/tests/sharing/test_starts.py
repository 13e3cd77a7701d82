"""Engines open in any program; where one can't, the error says why, and what to do about it."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leftovers
import pytest
from driven_jobs import Item, State, double, give_back, meet, say_what_comes
from in_threads import SOON, start
from needs import needs
from signs import Signs
from under_test import sharing

pytestmark = pytest.mark.timeout(100)

GUARD = re.compile(r"if __name__")

OPENS = """
from driven_jobs import State, double
from under_test import sharing
with sharing.open_engine(State(), workers=1, start_method={method!r}) as engine:
    print(list(engine.map(double, range(3))))
"""
"""A program whose job and state any worker can import."""

DEFINES = """
from dataclasses import dataclass
from under_test import sharing

@dataclass
class Mine:
    factor: int = 2

def job(item, state):
    return item * state.factor

with sharing.open_engine(Mine(), workers=1, start_method={method!r}) as engine:
    print(list(engine.map(job, range(3))))
"""
"""A program that defines both in its main module."""

GUARDED = """
from driven_jobs import State, double
from under_test import sharing
{first}
if __name__ == "__main__":
    with sharing.open_engine(State(), workers=1, start_method={method!r}) as engine:
        print(list(engine.map(double, range(3))))
"""
"""A file as it should be, after what it does first in each process that imports it."""

EXPECTED = "[0, 2, 4]\n"


@dataclass
class Ran:
    """What a program left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The line that says why a program has ended with an error of ours.

        What else Python's own tracker of resources has to say may come behind it.
        """
        assert self.code, self
        ours = r"^[\w.]*\b(?:SharingError|StartFailed|JobFailed): .*$"
        lines = re.findall(ours, self.err, re.MULTILINE)
        assert lines, self.err
        return str(lines[-1])


def run(
    *arguments: object, stdin: str = "", limit: float = 40, env: dict[str, str] | None = None
) -> Ran:
    """Run Python with these arguments; it and all that it starts may take that many seconds."""
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths} | (env or {}),
        start_new_session=True,
    ) as process:
        leftovers.mains.add(process.pid)
        try:
            out, err = process.communicate(stdin, timeout=limit)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return Ran(process.returncode, out, err)


def script(folder: Path, text: str) -> Path:
    file = folder / "program.py"
    file.write_text(text)
    return file


# Signals that the program does something of its own with


@pytest.mark.parametrize(
    "does",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, reap)",
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
    ],
    ids=["ignores SIGCHLD", "reaps children", "dies of SIGPIPE"],
)
def test_a_program_with_signals_of_its_own(
    start_method: str, signs: Signs, tmp_path: Path, does: str
) -> None:
    """Also when workers die; each field of the state does what it does elsewhere."""
    file = script(
        tmp_path,
        textwrap.dedent(f"""
            import os, signal
            from dataclasses import dataclass, field
            from pathlib import Path
            from typing import Any
            import driven_jobs
            from driven_jobs import Item, State, do_as_told, double, note
            from signs import Signs
            from under_test import sharing

            @dataclass
            class More(State):
                cache: Any = field(default_factory=lambda: driven_jobs._made("Cache"))

            def look_up(item, state):
                if state.cache is None:
                    return item % 3
                return state.cache.get_or_compute(item % 3, lambda: item % 3)

            def reap(number, frame):
                try:
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
                except ChildProcessError:
                    pass

            if __name__ == "__main__":
                {does}
                signs = Signs(Path({str(signs.folder)!r}))
                method = {start_method!r}
                with sharing.open_engine(More(), workers=2, start_method=method) as engine:
                    print(list(engine.map(look_up, range(6))))
                    items = [Item(signs, n, "dies once" if n == 3 else "") for n in range(6)]
                    print(list(engine.map(do_as_told, items, chunk_size=1)))
                    for turn in range(4):
                        list(engine.map(note, [Item(signs, 100 + turn)]))
                        os.kill(int(signs.notes("workers")[-1]), signal.SIGKILL)
                        print(list(engine.map(double, range(3))))
            """),
    )
    ran = run(file, limit=60)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        "[0, 1, 2, 0, 1, 2]",
        "[0, 1, 2, 3, 4, 5]",
        *["[0, 2, 4]"] * 4,
    ]


def test_a_program_that_dies_of_sigpipe_writes_to_a_dead_worker(tmp_path: Path) -> None:
    file = script(
        tmp_path,
        textwrap.dedent("""
            import signal
            from under_test import channel

            ours, theirs = channel.two_pipes()
            writer = channel.Channel(ours, blocking=False)
            for end in theirs:
                end.close()
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            writer.post([b"a"])
            writer.post([b"b", b"c"])
            assert not signal.sigpending()
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
            print("went on")
        """),
    )
    ran = run(file)
    assert (ran.code, ran.out) == (0, "went on\n"), ran


def test_a_program_that_dies_of_sigpipe_calls_a_dead_server(tmp_path: Path) -> None:
    file = script(
        tmp_path,
        textwrap.dedent("""
            import os, signal
            import leftovers
            from processes_jobs import Served, State
            from signs import wait_until
            from under_test import sharing

            def is_gone(pid):
                return all(one.pid != pid for one in leftovers.everybody())

            if __name__ == "__main__":
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                with sharing.open_engine(State(Served()), workers=1) as engine:
                    service = engine.state.tally.service
                    server = service.call("pid")
                    os.kill(server, signal.SIGKILL)
                    wait_until(lambda: is_gone(server))
                    try:
                        service.call("pid")
                    except sharing.errors.ServiceLost:
                        pass
                print("went on")
        """),
    )
    ran = run(file)
    assert (ran.code, ran.out) == (0, "went on\n"), ran


def test_a_program_that_is_signalled_all_the_time(start_method: str) -> None:
    """As by a profiler: system calls are interrupted again and again."""
    called = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: called.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        with sharing.open_engine(State(), workers=2, start_method=start_method) as engine:
            assert list(engine.map(double, range(300), chunk_size=1)) == [2 * n for n in range(300)]
            items = [bytes([n]) * 1_000_000 for n in range(8)]
            assert list(engine.map(give_back, items, chunk_size=1)) == items
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert called


# Programs that are no files


def test_a_program_of_the_command_line(start_method: str) -> None:
    ran = run("-c", OPENS.format(method=start_method))
    assert ran.out == EXPECTED, ran.err
    assert ran.code == 0, ran.err


def test_a_program_of_standard_input(start_method: str) -> None:
    """It works, or the error says that this is the trouble, not that a guard is missing."""
    ran = run("-", stdin=OPENS.format(method=start_method))
    if ran.code or start_method == "fork":
        says_that_main_is_no_file(ran, start_method)
    else:
        assert ran.out == EXPECTED, ran.err


@pytest.mark.parametrize("how", ["command line", "standard input", "notebook"])
def test_a_program_that_is_no_file_defines_the_job(
    start_method: str, tmp_path: Path, how: str
) -> None:
    text = DEFINES.format(method=start_method)
    if how == "command line":
        ran = run("-c", text)
    elif how == "standard input":
        ran = run("-", stdin=text)
    else:  # whose cells are run in a module that takes the place of the main one
        ran = run(
            script(
                tmp_path,
                textwrap.dedent(f"""
                import sys, types
                main = sys.modules["__main__"] = types.ModuleType("__main__")
                main.__dict__["__builtins__"] = __builtins__
                exec(compile({text!r}, "<cell 1>", "exec"), main.__dict__)
                """),
            )
        )
    says_that_main_is_no_file(ran, start_method)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_program_that_is_no_file_defines_the_job_alone(start_method: str) -> None:
    text = DEFINES.replace("sharing.open_engine(Mine()", "sharing.open_engine(State()")
    text = "from driven_jobs import State\n" + text.replace("state.factor", "2")
    says_that_main_is_no_file(run("-c", text.format(method=start_method)), start_method)


def says_that_main_is_no_file(ran: Ran, start_method: str) -> None:
    """Fork needs no file. Others say that what it defines is to go into one."""
    if start_method == "fork":
        assert ran.out == EXPECTED, ran.err
        assert ran.code == 0, ran.err
        return
    assert not GUARD.search(ran.error)
    assert re.search(r"__main__|main module", ran.error), ran.error
    assert re.search(r"\b(file|module)\b", ran.error), ran.error


# Programs that are files


def test_a_program_without_a_guard(start_method: str, tmp_path: Path) -> None:
    """It ends, with no processes that open engines for ever, and says what to write."""
    ran = run(script(tmp_path, OPENS.format(method=start_method)))
    if start_method == "fork":
        assert ran.out == EXPECTED, ran.err
    else:
        assert GUARD.search(ran.error), ran.err
        assert EXPECTED not in ran.out


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_program_with_a_guard_that_workers_can_not_import(
    start_method: str, tmp_path: Path
) -> None:
    """The reason is what it does when it is imported."""
    first = 'if __name__ != "__main__":\n    raise LookupError("no such place")'
    ran = run(script(tmp_path, GUARDED.format(first=first, method=start_method)))
    assert "no such place" in ran.err
    assert not GUARD.search(ran.error)
    assert re.search(r"no such place|main module|import|stderr", ran.error), ran.error


def test_a_program_with_a_guard(start_method: str, tmp_path: Path) -> None:
    ran = run(script(tmp_path, GUARDED.format(first="", method=start_method)))
    assert ran.code == 0, ran.err
    assert ran.out == EXPECTED


# Processes and places where it can't be, or only with care


def answer_of_a_process(start_method: str, *, daemon: bool) -> object:
    """What comes of an engine in a process of ours, of the same start method."""
    context: Any = multiprocessing.get_context(start_method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=say_what_comes, args=(sender, start_method), daemon=daemon)
    process.start()
    sender.close()
    try:
        assert receiver.poll(SOON)
        return receiver.recv()
    finally:
        process.join(SOON)
        process.kill()
        process.join()
        receiver.close()


def test_a_daemonic_process_opens_no_engine(start_method: str) -> None:
    answer = answer_of_a_process(start_method, daemon=True)
    assert isinstance(answer, str)
    assert "daemon" in answer
    assert "pickle" not in answer


def test_another_process_opens_an_engine(start_method: str) -> None:
    assert answer_of_a_process(start_method, daemon=False) == [0, 2, 4]


def test_a_working_folder_that_is_gone(start_method: str, tmp_path: Path) -> None:
    """It works, or the error says that it is gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    first = f"import os\nif __name__ == '__main__':\n    os.chdir({str(gone)!r}); os.rmdir('.')\n"
    first = first.replace("os.rmdir('.')", f"os.rmdir({str(gone)!r})")
    ran = run(script(tmp_path, GUARDED.format(first=first, method=start_method)))
    if ran.code:
        assert re.search(r"working (folder|directory)|current directory", ran.error)
    else:
        assert ran.out == EXPECTED


def test_a_temporary_folder_whose_name_is_too_long_for_a_socket(start_method: str) -> None:
    """It works, or the error says which variable to set."""
    with tempfile.TemporaryDirectory(prefix="t") as short:
        long = Path(short, "long" * 30)
        long.mkdir()
        text = GUARDED.replace("import State, double", "import double\nfrom more import State")
        more = Path(short, "more.py")
        more.write_text(
            "from dataclasses import dataclass, field\n"
            "from typing import Any\n"
            "import driven_jobs\n"
            "@dataclass\n"
            "class State(driven_jobs.State):\n"
            "    cache: Any = field(default_factory=lambda: driven_jobs._made('Cache'))\n"
        )
        file = script(Path(short), text.format(first="", method=start_method))
        ran = run(file, env={"TMPDIR": str(long)})
        assert not list(long.iterdir())
    if ran.code:
        assert "TMPDIR" in ran.error
    else:
        assert ran.out == EXPECTED


@dataclass
class Holds:
    fine: int
    thing: Any


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize(
    "thing",
    [lambda: None, threading.Lock(), {"deep": [{"in": (lambda: None,)}]}, (n for n in range(3))],
    ids=["a lambda", "a lock", "deep inside", "a generator"],
)
def test_a_field_that_can_not_be_pickled_is_named(
    start_method: str, thing: object, daemon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if daemon:  # whichever of the two it says, it is true
        config = {"daemon": True}
        monkeypatch.setattr(
            multiprocessing.current_process(), "_config", config | {"semprefix": "/mp"}
        )
    with (
        pytest.raises(sharing.SharingError, match="daemon" if daemon else "'thing'"),
        sharing.open_engine(Holds(1, thing), workers=1, start_method=start_method),
    ):
        pytest.fail("it is open")


# What is left of a worker that crashed


def test_a_segfault_leaves_a_stack(start_method: str, tmp_path: Path) -> None:
    text = """
        from driven_jobs import State, crash
        from under_test import sharing
        if __name__ == "__main__":
            with sharing.open_engine(State(), workers=1, start_method={method!r}) as engine:
                (outcome,) = engine.outcomes(crash, [0], retries=0)
                print(type(outcome.error).__name__, outcome.error)
        """
    ran = run(script(tmp_path, textwrap.dedent(text).format(method=start_method)))
    assert ran.code == 0, ran.err
    assert "WorkerDied" in ran.out
    assert "SIGSEGV" in ran.out
    assert "Segmentation fault" in ran.err
    assert re.search(r"driven_jobs\.py.* in crash", ran.err), ran.err


# How many


def test_far_too_many_workers_are_refused_at_once(tmp_path: Path) -> None:
    """Before any process has started."""
    text = """
        import multiprocessing.process, resource
        from driven_jobs import State
        from under_test import sharing

        # As many as a shell on macOS allows: it ends soon, too, where nobody refuses.
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

        def start(self, *, before=multiprocessing.process.BaseProcess.start):
            print("started")
            before(self)

        multiprocessing.process.BaseProcess.start = start
        if __name__ == "__main__":
            with sharing.open_engine(State(), workers=100_000) as engine:
                pass
        """
    ran = run(script(tmp_path, textwrap.dedent(text)))
    assert "started" not in ran.out
    assert re.search(r"100[_,]?000", ran.error)
    assert "workers" in ran.error


def workers_of(before: set[leftovers.Process]) -> int:
    """How many processes there are more than before, but for those that serve all engines."""
    now = leftovers.family(os.getpid()) - before
    return len([process for process in now if process.pid not in leftovers.helpers()])


def test_no_more_workers_start_than_there_is_work_for(start_method: str) -> None:
    """But for one a core, which may be there from the beginning, and one that forks them."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    multiprocessing.get_context(start_method)
    before = leftovers.family(os.getpid())
    with sharing.open_engine(State(), workers=cores + 4, start_method=start_method) as engine:
        assert list(engine.map(double, [1, 2], chunk_size=1)) == [2, 4]
        assert workers_of(before) <= max(cores, 2) + (start_method == "fork")
        assert list(engine.map(double, range(1000), chunk_size=500)) == [2 * n for n in range(1000)]
        assert workers_of(before) <= max(cores, 2) + (start_method == "fork")


def test_as_many_workers_start_as_there_is_work_for(start_method: str, signs: Signs) -> None:
    """Each item waits until all have begun."""
    count = 5
    with sharing.open_engine(State(), workers=count, start_method=start_method) as engine:
        assert list(engine.map(double, [1], chunk_size=1)) == [2]
        items = [Item(signs, count)] * count
        met = start(list, engine.map(meet, items, chunk_size=1)).result(SOON)
        assert len(set(met)) == count
        assert engine.workers == count


# And where nobody closes one


LEFT = """
import contextlib, itertools, sys, threading, time
from driven_jobs import State, double
from under_test import sharing

def work():
    with sharing.open_engine(State(), workers=3, start_method={method!r}) as engine:
        for value in engine.map(double, itertools.count(), chunk_size=1):
            if value > 200:
                print("reads", flush=True)
                {then}

if __name__ == "__main__":
    {main}
"""


@pytest.mark.parametrize(
    ("main", "then"),
    [
        ("threading.Thread(target=work, daemon=True).start(); time.sleep(2)", "pass"),
        ("threading.Thread(target=work, daemon=True).start(); time.sleep(2)", "time.sleep(600)"),
        ("works = work(); next(works)", "yield"),
    ],
    ids=["a thread reads", "a thread has it", "it is left open"],
)
def test_a_program_that_ends_with_an_engine_open(
    start_method: str, tmp_path: Path, main: str, then: str
) -> None:
    ran = run(script(tmp_path, LEFT.format(method=start_method, main=main, then=then)))
    assert ran.out.startswith("reads")
    assert ran.code == 0
    assert "atexit" not in ran.err, ran.err


@needs("Cache")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_main_module_without_a_file_whose_state_has_a_server(method: str) -> None:
    program = f"""
from dataclasses import dataclass, field
from under_test import sharing
@dataclass
class Mine:
    cache: sharing.Cache = field(default_factory=sharing.Cache)
with sharing.open_engine(Mine(), workers=1, start_method={method!r}):
    pass
"""
    ran = run("-", stdin=program)
    assert "StartFailed" in ran.error
    assert "put the state and the job into a module" in ran.error
