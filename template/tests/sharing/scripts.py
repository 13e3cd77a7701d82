"""Scripts of their own, to be interrupted and killed, and what is then left of them."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import leftovers
from signs import LIMIT, Signs, wait_until


class Script:
    """One that runs, in a session of its own."""

    def __init__(self, process: "subprocess.Popen[str]", signs: Signs, temporary: str = "") -> None:
        self.process = process
        self.temporary = temporary
        leftovers.mains.add(process.pid)
        self.signs = signs
        self.family: set[leftovers.Process] = set()
        self.said = ""

    def is_at_work(self) -> None:
        """Wait until two workers have begun an item, and see who there is."""
        wait_until(lambda: len(self.signs.notes("begun")) >= 2)
        self.family = leftovers.family(self.process.pid)
        assert len(self.family) >= 2

    def ends(self, code: int) -> str:
        """Wait until it has ended so, and nobody is left of it; what it said on stderr.

        What it said on stdout is in ``said`` then.
        """
        self.said, errors = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == code, errors
        wait_until(self.is_gone, name=lambda: f"the end of {leftovers.alive(self.family)}")
        return errors

    def is_gone(self) -> bool:
        """Whether nobody is left of its family."""
        return not leftovers.alive(self.family)

    def all_begun_have_ended(self) -> None:
        assert sorted(self.signs.notes("begun")) == sorted(self.signs.notes("ended"))


@contextlib.contextmanager
def running(
    file: Path, start_method: str, signs: Signs, *arguments: object, before: Sequence[str] = ()
) -> Iterator[Script]:
    """Start it, with these arguments and by that command; nothing may be left when it has ended."""
    command = [*before, sys.executable, *map(str, (file, start_method, signs.folder, *arguments))]
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
            yield Script(process, signs, temporary)
            assert not list(Path(temporary).glob("sharing-*"))
            if process.returncode != -signal.SIGKILL:
                assert not list(Path(temporary).iterdir())
        finally:
            process.kill()
