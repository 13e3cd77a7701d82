# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""What a change has to pass: `nox` runs tests, lint and types; `nox -s bench` measures.

`nox -s update` brings in what the template has learnt.
"""

import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    """Install the project as it is written, and what the groups list."""
    session.install("-e", ".", *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; `nox -s tests -P 3.13` does on another Python."""
    install(session, "test")
    # A file at a time, since tests of one file share open engines.
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout; `nox -s lint -- --fix` repairs what it can."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, strictly."""
    install(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what is shared: single calls, then the command; `-- --help` says what it can do."""
    install(session, "bench")
    columns = "--benchmark-columns=median,iqr,ops,rounds"
    session.run("pytest", "benchmarks", "-o", "python_files=bench_*.py", columns)
    session.run(PROJECT["project"]["name"], "bench", *session.posargs)


@nox.session
def update(session: nox.Session) -> None:
    """Update from the template; `-- --check` only looks, `-- --help` says what else there is."""
    session.install(*nox.project.load_toml("update.py")["dependencies"])
    python = Path(session.bin, "python")
    done = subprocess.run([python, "update.py", *session.posargs], check=False)
    if done.returncode:
        sys.exit(done.returncode)  # nox itself would end with 1, whatever happened


if __name__ == "__main__":
    nox.main()
