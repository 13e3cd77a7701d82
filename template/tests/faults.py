"""Faults on purpose. A test that can't fail proves nothing: with the fault, it must."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VARIABLE = "FAULT_ON_PURPOSE"


def assert_red(fault: Callable[[], None], test: Callable[..., None], variant: str = "fork") -> None:
    """A test fails, and does not hang, when ``fault()`` was called before.

    Under fork, so that the workers have the fault too.
    """
    path = Path(test.__code__.co_filename)
    node = f"{path}::{test.__qualname__.replace('.', '::')}" + (f"[{variant}]" if variant else "")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=30", node]
    env = os.environ | {VARIABLE: f"{fault.__module__}:{fault.__qualname__}"}
    ran = subprocess.run(command, capture_output=True, text=True, env=env, cwd=path.parent.parent)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed" in ran.stdout, ran.stdout
    assert "Timeout" not in ran.stdout, ran.stdout
