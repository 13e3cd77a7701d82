"""The command line, whatever jobs there are; most tests bring jobs of their own."""

import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import complaint, report, run
from signs import LIMIT
from under_test import cli

PYTHON = [sys.executable, "-c"]
WITH_JOBS = f"""
import sys
from {cli.PACKAGE} import cli, jobs
jobs.__path__.append(sys.argv.pop(1))
cli.main()
"""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Add a module to jobs/, for one test."""
    package = importlib.import_module(f"{cli.PACKAGE}.jobs")
    folder = tmp_path / "more jobs"
    folder.mkdir()
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    for option in ("engine", "workers", "start_method"):
        monkeypatch.delenv(f"{cli.PACKAGE}_{option}".upper(), raising=False)
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        (folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        return folder

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(f"{package.__name__}."):
            del sys.modules[name]


ECHO = '''
    """Say what was given.

    More of it, with [brackets].
    """

    from pathlib import Path

    def main(words: list[Path], times: int = 2, loud: bool = False, **options):
        print("on the way")
        return {"words": [str(word) for word in words], "times": times, "loud": loud} | options
'''


def test_each_module_with_a_main_is_a_command(add: Callable[[str, str], Path]) -> None:
    add("say_it", ECHO)
    add("helper", "not_a_command = True")
    add("_hidden", "def main(): return {}")
    shown = run("--help").out
    assert "say-it" in shown
    assert "Say what was given." in shown
    assert "helper" not in shown
    assert "hidden" not in shown
    assert all(name.replace("_", "-") in shown for name in cli.jobs() if name != "helper")
    assert "demo" in shown
    assert run().out == shown
    assert "No such command 'helper'" in complaint("helper", code=2)


def test_the_parameters_of_main_are_arguments_and_options(
    add: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add("say_it", ECHO)
    given = report("say-it", "a", "b c", "--times", 3, "--loud", "--workers=4")
    assert given == {"words": ["a", "b c"], "times": 3, "loud": True, "workers": 4}
    monkeypatch.setenv(f"{cli.PACKAGE}_WORKERS".upper(), "5")
    monkeypatch.setenv(f"{cli.PACKAGE}_START_METHOD".upper(), "fork")
    monkeypatch.setenv(f"{cli.PACKAGE}_ENGINE".upper(), "processes")
    given = report("say-it", "a")
    assert given["workers"] == 5
    assert given["start_method"] == "fork"
    assert given["engine"] == "processes"
    assert report("say-it", "a", "--workers", 6)["workers"] == 6
    shown = run("say-it", "--help").out
    assert "with [brackets]" in shown
    assert "--start-method" in shown


def test_a_report_is_shown_with_a_line_for_each_value(add: Callable[[str, str], Path]) -> None:
    add("tell", "def main(): return {'some_rows': 12345, 'by': {'x': 1, 'y': 'z'}}")
    assert run("tell").out == "some rows  12,345\nby x            1\nby y            z\n"
    add("nothing", "def main(): print('done')")
    assert run("nothing").out == "done\n"
    assert json.loads(run("nothing", "--json").out) == {}


def test_only_the_job_that_runs_is_imported(add: Callable[[str, str], Path]) -> None:
    add("first", "def main(): return {}")
    add("broken", "import no_such_module_at_all")
    assert run("first").code == 0
    assert f"{cli.PACKAGE}.jobs.broken" not in sys.modules
    shown = " ".join(run("--help").out.replace("│", " ").split())
    assert "cannot be imported: ModuleNotFoundError: No module named" in shown
    ran = run("broken")
    assert ran.code == 1
    assert ran.err.startswith("Traceback")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("InputError('a.csv, line 3:\\n  bad \\x1b[31m')", r"a.csv, line 3: bad \x1b[31m"),
        ("SharingError('no room')", "no room"),
        ("FileNotFoundError(2, 'No such file or directory', 'x')", "x: No such file or directory"),
        ("OSError('without a number')", "without a number"),
        ("JobFailed('job', 7, 'InputError', 'b.csv: bad', 'Trace')", "b.csv: bad"),
        ("WorkerDied('job', 7, 'WorkerDied', 'killed')", "job failed on 7: WorkerDied: killed"),
    ],
)
def test_an_error_that_a_user_can_mend_gets_one_line(
    add: Callable[[str, str], Path], raised: str, message: str
) -> None:
    add(
        "fail",
        f"""
        from {cli.PACKAGE}.files import InputError
        from {cli.PACKAGE}.sharing import *
        from {cli.PACKAGE}.sharing import JobFailed, SharingError, WorkerDied
        def main(): raise {raised}
        """,
    )
    assert complaint("fail") == message


def test_a_bug_gets_its_traceback(add: Callable[[str, str], Path]) -> None:
    add("bug", "def main(): return 1 / 0")
    ran = run("bug")
    assert ran.code == 1
    assert ran.err.startswith("Traceback")
    assert ran.err.endswith("ZeroDivisionError: division by zero\n")
    add(
        "far_bug",
        f"""
        from {cli.PACKAGE}.sharing import JobFailed
        def main(): raise JobFailed("job", 7, "KeyError", "'x'", "Traceback: in the worker")
        """,
    )
    ran = run("far-bug")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "Traceback: in the worker",
        f"{cli.COMMAND}: job failed on 7: KeyError: 'x'",
    ]


def test_a_command_line_that_is_wrong_gets_one_line(add: Callable[[str, str], Path]) -> None:
    add("say_it", ECHO)
    assert "Did you mean 'say-it'?" in complaint("say-its", code=2)
    assert "'words'" in complaint("say-it", code=2).lower()
    assert "--nothing" in complaint("say-it", "a", "--nothing", code=2)
    assert "--workers" in complaint("say-it", "a", "--workers", "many", code=2)


def test_python_m_runs_the_same_commands() -> None:
    def typed(word: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", cli.PACKAGE, word]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)

    ran = typed("no-such")
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"{cli.COMMAND}: No such command")
    assert ran.stderr.count("\n") == 1
    assert typed("--version").stdout.startswith(f"{cli.COMMAND} ")


def test_a_worker_that_imports_the_command_line_imports_little() -> None:
    source = f"""
import sys
before = set(sys.modules)
import {cli.PACKAGE}.cli
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
"""
    ran = subprocess.run(
        [*PYTHON, source], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    assert set(ran.stdout.split()) - sys.stdlib_module_names == {cli.PACKAGE}


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, f"{cli.COMMAND}: interrupted\n"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_ends_in_order(
    add: Callable[[str, str], Path], tmp_path: Path, number: signal.Signals, code: int, line: str
) -> None:
    folder = add(
        "wait",
        f"""
        import time
        from pathlib import Path
        from {cli.PACKAGE}.files import replacing
        def main(out: Path):
            with replacing(out) as (file,):
                print("ready", flush=True)
                while True:
                    time.sleep(0.01)  # a long one may begin when the signal has just been noted
        """,
    )
    command = [*PYTHON, WITH_JOBS, str(folder), "wait", str(tmp_path / "out")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert err == line
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_it_quietly(
    add: Callable[[str, str], Path], unbuffered: str
) -> None:
    folder = add("talk", "def main():\n    for _ in range(99999): print('word ' * 20)")
    command = [*PYTHON, WITH_JOBS, str(folder), "talk"]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=LIMIT) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""


PRINTS = f"""
    import os
    from dataclasses import dataclass
    from {cli.PACKAGE}.sharing import open_engine
    @dataclass
    class State:
        pass
    def say(item, state):
        print(f"a worker's {{item}}\\n", end="", flush=True)  # lines of several must not mix
        os.system("echo a command of a worker")
    def main(**options):
        print("the main process's")
        with open_engine(State(), **options) as engine:
            list(engine.map(say, range(3)))
        return {{"items": 3}}
"""


def test_what_workers_print_stays_out_of_the_object(
    add: Callable[[str, str], Path], start_method: str
) -> None:
    folder = add("talk", PRINTS)
    script = folder.with_name("command.py")
    script.write_text(  # which a spawned worker imports again
        f"""
from {cli.PACKAGE} import cli, jobs
jobs.__path__.append({str(folder)!r})
if __name__ == "__main__":
    cli.main()
"""
    )
    words = ("talk", "--workers=2", f"--start-method={start_method}", "--json")
    command = [sys.executable, str(script), *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"items": 3}
    assert sorted(ran.stderr.splitlines()) == [
        *["a command of a worker"] * 3,
        *(f"a worker's {item}" for item in range(3)),
        "the main process's",
    ]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_the_caller_closed_is_no_error(
    add: Callable[[str, str], Path], tmp_path: Path, closed: str
) -> None:
    folder = add(
        "write",
        f"""
        import os
        import sys
        from pathlib import Path
        from {cli.PACKAGE}.files import replacing
        from {cli.PACKAGE}.progress import track
        def main(out: Path):
            with replacing(out) as (file,):
                for number in track(range(3), "numbers"):
                    print("printed", number)
                    print("complained", number, file=sys.stderr)
                    file.write(str(number))
                os.system("echo a command; echo its complaint >&2")
                print("read", sys.stdin.read())
        """,
    )
    shell = ["/bin/sh", "-c", f'"$@" {closed}', "sh"]
    command = [*shell, *PYTHON, WITH_JOBS, str(folder), "write", str(tmp_path / "out")]
    for more in ([], ["--json"]):
        ran = subprocess.run([*command, *more], input=b"", capture_output=True, timeout=LIMIT)
        assert ran.returncode == 0, ran
        assert b"Traceback" not in ran.stderr
        assert (tmp_path / "out").read_bytes() == b"012"


def test_workers_that_are_impossible_are_refused_before_the_job_begins(
    add: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add(
        "begin",
        """
        from pathlib import Path
        def main(out: Path, **options):
            out.touch()
            return options
        """,
    )
    out = tmp_path / "out"
    said = complaint("begin", out, "--workers", 10_000_000)
    checks = json.loads(run("doctor", "--workers", 10_000_000, "--json").out)["checks"]
    assert said in [f"{check['found']}: {check['advice']}" for check in checks]
    monkeypatch.setenv(f"{cli.PACKAGE}_WORKERS".upper(), "10000000")
    assert complaint("begin", out) == said
    assert complaint("demo") == said
    assert not out.exists()
    assert report("begin", out, "--workers", 2)["workers"] == 2


def test_an_option_of_the_jobs_own_that_is_called_workers_is_not_looked_at(
    add: Callable[[str, str], Path],
) -> None:
    add("hire", "def main(workers: int): return {'hired': workers}")
    assert report("hire", 10_000_000)["hired"] == 10_000_000


def test_demo_runs_every_job_that_has_a_sample(
    add: Callable[[str, str], Path], tmp_path: Path
) -> None:
    add(
        "shout",
        """
        from pathlib import Path
        def main(source: Path, **options): return {"text": source.read_text().upper()}
        def sample(folder, random):
            (folder / "in.txt").write_text("word")
            return [str(folder / "in.txt")]
        """,
    )
    add("no_sample", "def main(): raise ValueError")
    folder = tmp_path / "kept"
    ran = run("demo", "--folder", folder, "--workers", 2)
    assert ran.code == 0, ran.err
    assert f"$ {cli.COMMAND} shout {folder}/in.txt --workers=2\ntext  WORD\n" in ran.out
    assert (folder / "in.txt").exists()
    again = report("demo", "--workers", 1)
    assert again["shout"] == {"text": "WORD"}
    with_sample = {name for name in cli.jobs() if hasattr(cli.load(name), "sample")}
    assert set(again) == {name.replace("_", "-") for name in with_sample}
    assert "new or empty" in complaint("demo", "--folder", folder)
