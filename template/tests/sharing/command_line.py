"""Run a command of this project inside the test's own process; its workers are real ones."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from under_test import cli


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


def run(*words: object) -> Ran:
    """Run a command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.run([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def report(*words: object) -> dict[str, Any]:
    """Run a command that has to succeed, and return what it says with --json."""
    ran = run(*words, "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def paths_to(file: Path) -> Iterator[Path]:
    """Yield the file's path and other ones that lead to it; the links are made beside it.

    The one through a folder that is not there can only be written to: Python resolves its "..".
    """
    yield file
    yield Path(os.path.relpath(file))
    yield file.parent / ".." / file.parent.name / file.name
    yield file.parent / "no such folder" / ".." / file.name
    symbolic, hard = file.with_name("symbolic link"), file.with_name("hard link")
    symbolic.symlink_to(file.name)
    yield symbolic
    hard.hardlink_to(file)
    yield hard
    symbolic.unlink()
    hard.unlink()


def complaint(*words: object, code: int = 1) -> str:
    """Run a command that has to fail, and return the one line that says why."""
    ran = run(*words)
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.startswith(f"{cli.COMMAND}: ")
    assert ran.err.endswith("\n")
    assert ran.err.count("\n") == 1, ran.err
    return ran.err.strip().removeprefix(f"{cli.COMMAND}: ")
