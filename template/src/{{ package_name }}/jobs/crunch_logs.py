"""Count requests and bytes by status class, over access logs in common or combined format.

Logs may be plain or gzip, and larger than memory: the main process cuts them into blocks of
whole lines, and the workers add up what is in a block.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Unpack

from ..files import InputError, check_paths
from ..progress import track
from ..sharing import Counter, EngineOptions, open_engine

BLOCK = 1 << 20
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
QUOTED = rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
REQUEST = re.compile(
    rb"^\S+ \S+ \S+ \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    + QUOTED
    + rb" ([1-5])\d\d (\d{1,15}|-)(?: %b %b)?\r?$" % (QUOTED, QUOTED),
    re.MULTILINE,
)


@dataclass
class State:
    """What the workers share."""

    lines: Counter = field(default_factory=Counter)
    bad_lines: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)
    status: Counter = field(default_factory=lambda: Counter(labels=CLASSES))


def crunch(block: bytes, state: State) -> None:
    """Add one block of lines to the counts."""
    requests = REQUEST.findall(block)
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    classes = [first for first, _ in requests]
    state.lines.add(lines)
    state.bad_lines.add(lines - len(requests))
    state.bytes.add(sum(int(size) for _, size in requests if size != b"-"))
    for digit, label in enumerate(CLASSES, 1):
        state.status.add(classes.count(b"%d" % digit), label)


def blocks(logs: list[Path]) -> Iterator[bytes]:
    """Cut logs into blocks of whole lines; no line of one file joins one of the next."""
    for log in logs:
        with log.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            source = gzip.GzipFile(fileobj=file) if packed else file
            empty = True
            try:
                while block := source.read(BLOCK):
                    yield block if block.endswith(b"\n") else block + source.readline()
                    empty = False
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InputError(f"{log}: damaged or cut off gzip data ({error})") from error
            if empty:
                raise InputError(f"{log}: the file is empty")


def main(logs: list[Path], **options: Unpack[EngineOptions]) -> dict[str, object]:
    """Print what the logs come to."""
    check_paths(logs)
    with open_engine(State(), **options) as engine:
        state = engine.state
        # Blocks are cheap to do again, so a worker's death is no reason to give up soon.
        done = engine.map(crunch, blocks(logs), ordered=False, retries=5)
        for _ in track(done, "blocks", live=lambda: f"{state.lines.value:,} lines"):
            pass
        return {
            "lines": state.lines.value,
            "bad_lines": state.bad_lines.value,
            "bytes": state.bytes.value,
            "status": state.status.values,
        }


def sample(folder: Path, random: Random) -> list[str]:
    """Write two logs, one of them packed, with some lines that are none."""
    logs = [folder / "access.log", folder / "access.log.1.gz"]
    for log in logs:
        lines = []
        for second in range(30_000):
            status = random.choices((101, 200, 304, 404, 500), (1, 80, 10, 8, 1))[0]
            time = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
            lines.append(
                f"10.0.{random.randrange(256)}.{random.randrange(256)} - - "
                f"[01/Mar/2025:{time} +0000] "
                f'"GET /item/{random.randrange(10_000)} HTTP/1.1" {status} '
                f"{random.randrange(50_000)}\n"
            )
            if random.random() < 0.001:
                lines.append("-- log rotated --\n")
        text = "".join(lines).encode()
        log.write_bytes(gzip.compress(text, 6, mtime=0) if log.suffix == ".gz" else text)
    return [str(log) for log in logs]
