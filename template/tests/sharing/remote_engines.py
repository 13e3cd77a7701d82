"""The engines that this project has beside `processes`, and a cluster for each that has some."""

import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import leftovers
import pytest
import remote_jobs
from command_line import report
from under_test import chosen, sharing

S = TypeVar("S")

REMOTE = [name for name in chosen.ENGINES if name != "processes"]

CORES = 6
"""As many workers as a cluster has room for: those of two engines."""

SOON = 12.0
"""Seconds within which one goes on who waits for what a dead one had: less than a lease lasts."""

_ending = contextlib.ExitStack()


def module_of(engine: str) -> ModuleType:
    """How its cluster is started, and what else has to be known of it: `<engine>_cluster.py`."""
    return importlib.import_module(f"{engine}_cluster")


def ready_to_serve(config: pytest.Config, engine: str) -> str | None:
    """The address of a cluster that lives until the tests have ended; None: it has none."""
    config.add_cleanup(_ending.close)
    address = _address_of(engine)
    module_of(engine).becomes_whole(address)
    return address


@functools.cache
def _address_of(engine: str) -> str | None:
    address: str | None = _ending.enter_context(module_of(engine).cluster())
    return address


@contextlib.contextmanager
def opened(
    request: pytest.FixtureRequest, state: S, workers: int = 2, engine: str | None = None
) -> Iterator[sharing.Engine[S]]:
    """An engine on that cluster: the one that the fixture has as its parameter."""
    name = engine or str(request.param)
    address = ready_to_serve(request.config, name)
    with sharing.open_engine(state, engine=name, workers=workers, address=address) as found:
        list(found.map(remote_jobs.nothing, range(workers), chunk_size=1))
        leftovers.apart.update(module_of(name).helpers())
        yield found


def jobs_give_the_same_files(engine: str, address: str | None, folder: Path) -> None:
    """Run the jobs that come with the project here and there, and compare what they write."""
    words = ["--engine", engine, *(["--address", address] if address else [])]
    report("demo", "--folder", folder / "expected", "--workers", 2)
    report("demo", "--folder", folder / "found", "--workers", 2, *words)
    leftovers.apart.update(module_of(engine).helpers())
    expected, found = (files_in(folder / name) for name in ("expected", "found"))
    assert len(expected) == len(found) > 0
    for one, other in zip(sorted(expected), sorted(found), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one


def files_in(folder: Path) -> list[Path]:
    """All of them, at any depth."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def crew_of(engine: sharing.Engine[Any]) -> Any:
    """How it reaches its workers."""
    return engine._crew  # type: ignore[attr-defined]


def name_of(engine: sharing.Engine[Any]) -> str:
    """What it was asked for by."""
    return str(type(crew_of(engine)).__module__.split(".")[-2])


@functools.cache
def environment() -> dict[str, str]:
    """That of processes which find the project and its tests."""
    path = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": path}


@contextlib.contextmanager
def daemon(
    command: Sequence[str | Path], *, talks: bool = False, **env: str
) -> Iterator["subprocess.Popen[str]"]:
    """A process of a cluster, ended with all that it has started; one that ``talks`` has pipes."""
    pipe = subprocess.PIPE if talks else subprocess.DEVNULL
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment() | env,
        start_new_session=True,
    ) as process:
        leftovers.apart.add(process.pid)
        try:
            yield process
        finally:
            family = leftovers.family(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            for other in leftovers.alive(family):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other.pid, signal.SIGKILL)
            leftovers.apart.discard(process.pid)
