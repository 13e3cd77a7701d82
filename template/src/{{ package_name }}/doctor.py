"""Say what this machine allows, and what killed processes have left behind.

It ends with 1 when something is bad. --clean removes what is left of processes that have ended
for certain, in shared memory, in the temporary folder and in each FOLDER (beside outputs).
"""

import importlib.util
import multiprocessing
import os
import re
import resource
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Unpack

import typer

from . import cli
from .files import InputError
from .sharing import EngineOptions, SharingError
from .sharing.chosen import SHARED_MEMORY
from .sharing.engines.processes.engine import START_METHODS
from .sharing.machine import limits, owners
from .sharing.machine.lifeline import THREAD_LIMITS
from .sharing.machine.memory import SEGMENTS, in_units

Verdict = Literal["ok", "warn", "bad"]

WORKER_MEMORY = 32 << 20
"""Bytes that a spawned worker has for itself, about, when it has imported a job."""

MINIMUM = 8 << 20
"""Bytes of shared memory without which no engine opens."""


@dataclass(frozen=True)
class Check:
    """What was found, and what to do about it.

    Attributes:
        name: of what was looked at.
        verdict: "ok", "warn" (it works, but may end badly) or "bad" (it will).
        found: in words.
        advice: in words; "" where there is nothing to do.
        facts: in numbers.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


def main(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Look for unfinished outputs here, too."),
    ] = None,
    needs: Annotated[
        str | None, typer.Option(metavar="SIZE", help="How much is shared at once, such as 2GB.")
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove what is left of processes that have ended.")
    ] = False,
    **options: Unpack[EngineOptions],
) -> dict[str, object]:
    """Look at everything, and clean up if that is asked for."""
    asked = None if needs is None else size(needs)
    for folder in folders or []:
        if not folder.is_dir():
            raise InputError(f"{folder}: is no folder to look for unfinished outputs in")
    cores = limits.cores()
    workers = options.get("workers")
    if workers is None:
        workers = cores.usable
    if workers < 1:
        raise SharingError(f"workers must be a whole number above 0, not {workers!r}")
    left = list(find_left(SEGMENTS, Path(tempfile.gettempdir()), folders or []))
    checks = [
        check_start_method(options.get("start_method")),
        check_cores(cores, workers),
        check_memory(limits.Memory.here(), asked or 0, workers),
        check_shared_memory(SEGMENTS, asked),
        check_descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE), workers),
        check_processes(limits.process_limit(), workers),
        check_threads(os.environ, workers, cores.usable, options.get("start_method")),
        clean_up(left) if clean else check_left(left),
    ]
    worst = max((check.verdict for check in checks), key=("ok", "warn", "bad").index)
    return {"verdict": worst, "checks": [asdict(check) for check in checks]}


def exit_code(report: cli.Report) -> int:
    """Return 1 if something is bad."""
    return int(report["verdict"] == "bad")


def show(report: cli.Report) -> None:
    """Print a line for each check, and below it what to do."""
    checks = report["checks"]
    assert isinstance(checks, list)
    width = max(len(check["name"]) for check in checks)
    for check in checks:
        print(f"{check['verdict']:<4}  {check['name']:<{width}}  {check['found']}")
        if check["advice"]:
            print(f"{'':<{width + 8}}{check['advice']}")


def size(text: str) -> int:
    """Return how many bytes that is, a kB being 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?)i?b?", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise InputError(f"--needs {text!r} is no size: write it as 500MB or 2GB")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


# What the machine allows


def check_start_method(asked: str | None) -> Check:
    """How workers start."""
    offered = multiprocessing.get_all_start_methods()
    method = asked or START_METHODS[0]
    facts = {"method": method, "default_of_python": offered[0]}
    found = f"{method} (this Python's own default: {offered[0]})"
    possible = [name for name in START_METHODS if name in offered]
    if method not in possible:
        advice = f"unknown start method: choose one of {', '.join(possible)}"
        return Check("start method", "bad", method, advice, facts)
    if method == "fork":
        advice = "a process that is forked beside a library's threads may hang: prefer spawn"
        return Check("start method", "warn", found, advice, facts)
    return Check("start method", "ok", found, facts=facts)


def check_cores(cores: limits.Cores, workers: int) -> Check:
    """Whether each worker has one."""
    found = f"{cores.usable} of the machine's {cores.machine} for {workers} workers"
    if cores.affinity is None:
        found += "; whether only some of them may be used can't be known on this system"
    elif cores.affinity < cores.machine:
        found += f"; its affinity allows {cores.affinity}"
    if cores.quota is not None:
        found += f"; its container has the time of {cores.quota:g}"
    facts = asdict(cores) | {"usable": cores.usable, "workers": workers}
    if workers > cores.usable:
        advice = f"they take turns: --workers {cores.usable} is better, unless they mostly wait"
        return Check("cores", "warn", found, advice, facts)
    return Check("cores", "ok", found, facts=facts)


def check_memory(memory: limits.Memory, needs: int, workers: int) -> Check:
    """Whether what is shared fits, and the workers beside it."""
    facts = asdict(memory) | {"needs": needs, "workers": workers}
    if memory.room is None:
        return Check("memory", "ok", "how much there is can't be known on this system", "", facts)
    parts = [
        f"{in_units(amount)} {of}"
        for amount, of in (
            (memory.machine, "in the machine"),
            (memory.container, "for its container"),
            (memory.process, "for each process (ulimit -v)"),
            (memory.available, "free"),
        )
        if amount is not None
    ]
    if sys.platform != "linux":
        parts.append("what is free can't be known on this system")
    wanted = needs + workers * WORKER_MEMORY
    found = ", ".join(parts)
    if needs > memory.room:
        advice = f"{in_units(needs)} do not fit: have a larger limit, or map a file"
        return Check("memory", "bad", found, advice, facts)
    obstacle = limits.lack_of_memory(memory.of_all, workers)
    if obstacle is not None:
        return Check("memory", "bad", obstacle.found, obstacle.advice, facts)
    if wanted > min(memory.room, memory.available or memory.room):
        advice = (
            f"{workers} workers and what they share take {in_units(wanted)} or more, and what "
            "takes too much is killed: have fewer --workers or a larger limit"
        )
        return Check("memory", "warn", found, advice, facts)
    return Check("memory", "ok", found, facts=facts)


def check_shared_memory(segments: Path, asked: int | None) -> Check:
    """Whether what is shared fits into the file system of segments."""
    name, needs = "shared memory", SHARED_MEMORY if asked is None else asked
    facts: dict[str, object] = {"needs": needs}
    try:
        room = os.statvfs(segments)
    except OSError as error:
        if sys.platform != "linux":
            found = "has no file system of its own on this system, so no limit can be known"
            return Check(name, "ok", found, facts=facts)
        found = f"{segments}: {error.strerror}"
        return Check(name, "bad", found, "mount a tmpfs there: every engine needs it", facts)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    facts |= {"total": total, "free": free}
    wanted = "are asked for" if asked is not None else "should be there (--needs SIZE says it)"
    found = f"{segments}: {in_units(free)} free of {in_units(total)}; {in_units(needs)} {wanted}"
    if not total:  # a tmpfs of any size
        return Check(name, "ok", f"{segments}: without a limit of its own", facts=facts)
    if needs <= free:
        return Check(name, "ok", found, facts=facts)
    more = "free some" if needs <= total else "make it larger"
    advice = f"{more} (in a container: shm_size, or docker run --shm-size), or map a file"
    sure = asked is not None or free < MINIMUM
    return Check(name, "bad" if sure else "warn", found, advice, facts)


def check_descriptors(soft: int, hard: int, workers: int) -> Check:
    """Whether the main process can hold what connects it with so many workers."""
    wanted = limits.DESCRIPTORS + limits.WORKER_DESCRIPTORS * workers
    facts = {"soft": soft, "hard": hard, "needs": wanted}
    obstacle = limits.lack_of_descriptors(soft, hard, workers)
    if obstacle is not None:
        return Check("descriptors", "bad", obstacle.found, obstacle.advice, facts)
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"a limit of {soft:,}"
    found = f"{limit}; {workers} workers need about {wanted:,}"
    return Check("descriptors", "ok", found, facts=facts)


def check_processes(limit: int | None, workers: int) -> Check:
    """Whether there may be so many processes."""
    facts = {"limit": limit, "workers": workers}
    obstacle = limits.lack_of_processes(limit, workers)
    if obstacle is not None:
        return Check("processes", "bad", obstacle.found, obstacle.advice, facts)
    found = "no limit is known" if limit is None else f"a limit of {limit:,}"
    return Check("processes", "ok", f"{found}; {workers} workers are as many", facts=facts)


def check_threads(
    environ: Mapping[str, str], workers: int, cores: int, start_method: str | None = None
) -> Check:
    """Whether numeric libraries (BLAS) start more threads than there are cores."""
    name, engines = "threads", max(1, cores // workers)
    given = {variable: environ[variable] for variable in THREAD_LIMITS if variable in environ}
    facts = {"environment": given, "engine": engines, "workers": workers, "cores": cores}
    shown = ", ".join(f"{variable}={value}" for variable, value in given.items())
    found = f"{engines} for the numeric libraries of each worker, which the engine sets"
    if given:
        found = f"{shown} in the environment; the engine would set {engines} a worker"
    crowded = []
    for variable, value in given.items():
        threads = value.partition(",")[0].strip()  # OpenMP takes one for each level
        if not threads.isdecimal() or int(threads) < 1 or int(threads) > engines:
            crowded.append(variable)
    if crowded:
        advice = f"unset {' '.join(crowded)}: {workers} workers have {cores} cores between them"
        return Check(name, "warn", found, advice, facts)
    # Whoever was forked has libraries that were loaded, and have looked at the environment, before.
    forks = start_method in {"fork", "forkserver"}
    if forks and not given and not importlib.util.find_spec("threadpoolctl"):
        found += f", but under {start_method} not for those that are loaded before"
        advice = f"set {THREAD_LIMITS[0]}={engines} and the like, or install threadpoolctl"
        return Check(name, "warn", found, advice, facts)
    return Check(name, "ok", found, facts=facts)


# What was left behind


@dataclass(frozen=True)
class Left:
    """A segment, folder or file of ours, and whose it is."""

    path: Path
    owner: owners.Owner
    nbytes: int
    has_ended: bool | None


def find_left(segments: Path, temporary: Path, folders: Iterable[Path]) -> Iterator[Left]:
    """Yield what lies there under a name of ours, and belongs to this user."""
    for folder, pattern, is_kind in (
        (segments, f"{owners.PREFIX}*", stat.S_ISREG),
        (temporary, f"{owners.PREFIX}*", stat.S_ISDIR),
        (temporary, f"{cli.COMMAND}-*", stat.S_ISDIR),
        *((folder, ".*.part", stat.S_ISREG) for folder in folders),
    ):
        for path in sorted(folder.glob(pattern)):
            owner = owners.Owner.of(path)
            try:
                status = path.lstat()
            except OSError:  # gone meanwhile
                continue
            if owner is not None and is_kind(status.st_mode) and status.st_uid == os.geteuid():
                yield Left(path, owner, _nbytes(path), owner.has_ended())
    for sign in sorted(temporary.glob(f"pymp-*/{owners.PREFIX}*")):
        # `multiprocessing` has made its folder, and a launcher of ours has said there for whom.
        owner, folder = owners.Owner.of(sign), sign.parent
        if owner is not None and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            yield Left(folder, owner, _nbytes(folder), owner.has_ended())


def _nbytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def check_left(left: list[Left]) -> Check:
    """Whether there is anything to clean up."""
    orphans = [one for one in left if one.has_ended]
    unclear = [one for one in left if one.has_ended is None]
    facts = {
        "orphans": [str(one.path) for one in orphans],
        "unclear": [str(one.path) for one in unclear],
        "in_use": len(left) - len(orphans) - len(unclear),
    }
    if orphans:
        found = f"of processes that have ended: {_listed(orphans)}"
        advice = "the same command with --clean removes it"
        return Check("left behind", "warn", found, advice, facts)
    if unclear:
        found = f"of another container, machine or boot: {_listed(unclear)}"
        advice = "whether it is in use can't be known here: remove it by hand if nothing runs there"
        return Check("left behind", "warn", found, advice, facts)
    return Check("left behind", "ok", "nothing", facts=facts)


def clean_up(left: list[Left]) -> Check:
    """Remove what belongs to processes that have ended for certain, and nothing else."""
    orphans = [one for one in left if one.has_ended]
    failed = {}
    for one in orphans:
        try:
            if one.path.is_dir():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            failed[str(one.path)] = error.strerror
    removed = [one for one in orphans if str(one.path) not in failed]
    rest = check_left([one for one in left if one not in orphans])
    facts = {**rest.facts, "orphans": list(failed), "removed": [str(one.path) for one in removed]}
    if failed:
        found = ", ".join(f"{path}: {reason}" for path, reason in failed.items())
        return Check("left behind", "bad", found, "remove it by hand", facts)
    if removed:
        found = f"removed: {_listed(removed)}"
        return Check("left behind", rest.verdict, found, rest.advice, facts)
    return Check("left behind", rest.verdict, rest.found, rest.advice, facts)


def _listed(left: list[Left]) -> str:
    shown = ", ".join(str(one.path) for one in left[:5])
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return f"{shown}{more} ({in_units(sum(one.nbytes for one in left))})"
