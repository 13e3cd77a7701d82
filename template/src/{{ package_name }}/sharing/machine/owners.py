"""Names for what a process would leave behind if it were killed, by which its owner is known.

A name holds the owner's process id, when that process began, and where its id means anything:
so what is left can be told from what is in use, also when the id is another process's by now.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

PREFIX = "sharing-"
"""What the names of segments and folders of an engine begin with."""

_STAMP = r"(\d{1,7})-([0-9a-f]{1,16})-([0-9a-f]{8})"
_UNKNOWN = "0" * 8
_ENDED = -1


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that made something.

    Attributes:
        pid: its id.
        began: when it began, in the units of this system; 0 where that was not to be had.
        where: what its id belongs to: on Linux a boot and a namespace, else a machine.
    """

    pid: int
    began: int
    where: str

    def __str__(self) -> str:
        return f"{self.pid}-{self.began:x}-{self.where}"

    @classmethod
    def of(cls, path: Path) -> Owner | None:
        """Whoever made what lies there, by its name; None if that is no name of ours."""
        found = re.search(rf"[-.]{_STAMP}(?:-\w{{8}}|\.\w{{8}}\.part)\Z", path.name, re.ASCII)
        return None if found is None else cls(int(found[1]), int(found[2], 16), found[3])

    def has_ended(self, proc: Path = PROC) -> bool | None:
        """Whether it has, for certain; None where it can't be seen from here."""
        if self.where == _UNKNOWN or self.where != _where(proc):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it is another user's
            pass
        began = _began(self.pid, proc)
        return began == _ENDED or (0 not in {began, self.began} and began != self.began)


def me() -> Owner:
    """This process."""
    return Owner(os.getpid(), max(_began(os.getpid(), PROC), 0), _where(PROC))


def name(prefix: str = PREFIX) -> str:
    """A new name for something of this process."""
    return f"{prefix}{me()}-{os.urandom(4).hex()}"


def part_of(path: Path) -> Path:
    """A new hidden name beside a file, for what is to take its place when it is whole."""
    return path.with_name(f".{path.name[:40]}.{me()}.{os.urandom(4).hex()}.part")


@functools.lru_cache
def _where(proc: Path) -> str:
    """What process ids belong to, as 8 hexadecimal digits; all zero where it can't be known."""
    if sys.platform != "linux":
        return f"{zlib.crc32(os.uname().nodename.encode()):08x}"
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text()
        namespace = str((proc / "self/ns/pid").readlink())
        is_ours = str((proc / "self").readlink()) == str(os.getpid())
    except OSError:
        return _UNKNOWN
    return f"{zlib.crc32((boot + namespace).encode()):08x}" if is_ours else _UNKNOWN


def _began(pid: int, proc: Path) -> int:
    """When a process began; -1 if it has ended since it was asked for, 0 if nobody knows."""
    if sys.platform != "linux":
        return _began_by_ps(pid)
    try:
        fields = (proc / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return _ENDED if fields[0] in "ZX" else int(fields[19])


def _began_by_ps(pid: int) -> int:
    """In seconds since 1970."""
    import calendar
    import subprocess
    import time

    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    plain = os.environ | {"LC_ALL": "C", "TZ": "UTC"}
    try:
        shown = subprocess.check_output(command, text=True, env=plain, timeout=5)
        status, began = shown.split(maxsplit=1)
        seconds = calendar.timegm(time.strptime(began.strip(), "%a %b %d %H:%M:%S %Y"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
    return _ENDED if status.startswith("Z") else seconds
