"""Faults on purpose. A test that can't fail proves nothing: with the fault, it must."""

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from under_test import worker

LIMIT = 90
"""Seconds until a test with a fault is taken to hang."""


def assert_red(fault: Callable[[], None], test: Callable[..., None], variant: str = "fork") -> None:
    """A test fails, and does not hang, when ``fault()`` was called before.

    It runs in a fork of this process, which has imported all that it needs, and its workers under
    fork again, so that they have the fault too. They give nothing back, or what a chunk is, and
    so what the fault does, would depend on how busy the machine is.
    """
    path = Path(test.__code__.co_filename)
    node = f"{path}::{test.__qualname__.replace('.', '::')}" + (f"[{variant}]" if variant else "")
    with tempfile.NamedTemporaryFile("r", prefix="t", encoding="utf-8") as output:
        run = multiprocessing.get_context("fork").Process(
            target=_run, args=(fault, node, output.name)
        )
        run.start()
        run.join(LIMIT + 10)
        run.kill()
        run.join()
        said = output.read()
    assert run.exitcode == pytest.ExitCode.TESTS_FAILED, said
    assert "1 failed in " in said, said
    assert "from pytest-timeout" not in said, said


def _run(fault: Callable[[], None], node: str, output: str) -> None:
    with Path(output).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        worker.GIVE_BACK = 3600
        fault()
        # To look for plugins takes as long as all else here.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        options = ("-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", f"--timeout={LIMIT}")
        code = pytest.main([*options, node])
    os._exit(code)
