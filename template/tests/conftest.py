"""What all tests have: the start methods, signs, and a look at what a test leaves behind."""

import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leftovers
import pytest
from signs import Signs, wait_until
from under_test import driver, sharing
from under_test import engine as engines


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One that nobody else's files are in; but for those that are looked at when we have ended."""
    multiprocessing.util.get_temp_dir()
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="t") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _light_workers() -> Iterator[None]:
    """Workers import the main module anew, which here is all of pytest; let them not.

    What they all import, the server of the start method forkserver does for them.
    """
    multiprocessing.set_forkserver_preload([sharing.__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(sys.modules["__main__"], "__file__", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """What a script's shell starts in the background ignores it, and all that this starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


METHODS = ("spawn", "forkserver", "fork")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --start-method fork` takes half the time, and leaves the other two out."""
    parser.addoption("--start-method", choices=METHODS, help="run with this one alone")
    parser.addoption(
        "--events", type=int, default=80_000, help="so many that are made up, for the scheduler"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs with another start method than the one that was asked for."""
    chosen = config.getoption("start_method")
    if chosen is None:
        return

    def method(item: pytest.Item) -> object:
        return item.callspec.params.get("start_method") if hasattr(item, "callspec") else None

    out = [item for item in items if method(item) not in {None, chosen}]
    items[:] = [item for item in items if method(item) in {None, chosen}]
    config.hook.pytest_deselected(items=out)


@pytest.fixture(scope="module", params=METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Each of them. What is opened for a module is opened once with each."""
    return str(request.param)


@pytest.fixture
def signs(tmp_path: Path) -> Signs:
    """A folder of signs."""
    folder = tmp_path / "signs"
    folder.mkdir()
    return Signs(folder)


@pytest.fixture(scope="session", autouse=True)
def _opened() -> Iterator[weakref.WeakSet[driver.Driver[Any]]]:
    """The engines that are open, and some that have closed."""
    opened: weakref.WeakSet[driver.Driver[Any]] = weakref.WeakSet()
    enter = driver.Driver.__enter__

    def note_and_enter(engine: driver.Driver[Any]) -> driver.Driver[Any]:
        opened.add(engine)
        return enter(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.Driver, "__enter__", note_and_enter)
        yield opened


def _of_engines(opened: weakref.WeakSet[driver.Driver[Any]]) -> set[int]:
    """The workers and servers of those that are open: others start where some are killed."""
    found: set[int] = set()
    for engine in tuple(opened):
        crew = engine._crew
        is_open = engine._is_open and engine._pid == os.getpid()
        if is_open and isinstance(crew, engines.ProcessCrew):
            found |= {member.child.pid for member in tuple(crew._team.values())}
            server = crew._host and crew._host.services.process
            found |= {server.pid} if server else set()
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(_opened: weakref.WeakSet[driver.Driver[Any]]) -> Iterator[None]:
    """No process more than before, and no file of ours."""

    def others() -> set[leftovers.Process]:
        apart = leftovers.helpers() | _of_engines(_opened)
        return {one for one in leftovers.family(os.getpid()) if one.pid not in apart}

    processes = others()
    files = leftovers.files()
    yield
    try:
        wait_until(lambda: len(others()) <= len(processes))
    except TimeoutError:
        pytest.fail(f"processes are left: {others() - processes}")
    try:
        wait_until(lambda: leftovers.files() <= files)
    except TimeoutError:
        pytest.fail(f"files are left: {leftovers.files() - files}")
