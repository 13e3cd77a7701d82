"""Make sample data and run every job that has some.

The samples are the same each time. They go into --folder, or into a temporary one.
"""

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Unpack

from . import cli
from .files import InputError
from .sharing import EngineOptions
from .sharing.machine import owners


def main(folder: Path | None = None, **options: Unpack[EngineOptions]) -> dict[str, object]:
    """Run the jobs one after the other, and say what a person would type for each."""
    chosen = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    reports: dict[str, object] = {}
    with _empty(folder) as place:
        for job in cli.jobs():
            sample = getattr(cli.load(job), "sample", None)
            if sample is None:
                continue
            command = job.replace("_", "-")
            words = [command, *sample(place, Random(20)), *chosen]
            print("$", cli.COMMAND, shlex.join(words), flush=True)
            task = cli.parse(words)
            assert task is not None
            report = task.work() or {}
            cli.show(report)
            print(flush=True)
            reports[command] = report
    print("The jobs are in", Path(__file__).with_name("jobs"))
    print("Put your own in their place: each file there that has a main() is a command.")
    if folder is None:
        print(f"To keep and read the files: {cli.COMMAND} demo --folder DIR")
    else:
        print("What they read and wrote is in", folder)
    return reports


def show(_report: cli.Report) -> None:
    """Print nothing more: each report was shown when it was there."""


@contextlib.contextmanager
def _empty(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=f"{cli.COMMAND}-{owners.me()}-") as place:
            yield Path(place)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder}: the folder for the samples has to be new or empty")
        yield folder
