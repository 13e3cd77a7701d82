"""Workers killed from outside, at any moment, while a job runs: every total stays right.

A worker that kills itself only dies where the test's author thought of it. These die wherever
the scheduler had them: between an item and its answer, inside a section, in the pipe.
"""

import contextlib
import csv
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Render
from rendering import PATTERNS, install

KILLS = 60
#: Seconds until a run is given up.
LIMIT = 300.0
#: What a run may have received before the next one begins, so that no item runs out of tries.
PER_RUN = 20

SHARED_MEMORY = Path("/dev/shm")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds workers through /proc"),
    pytest.mark.timeout(1500),
]
Command = Callable[..., subprocess.Popen[str]]
Fire = Callable[..., tuple[dict[str, Any], int]]


@pytest.fixture(scope="module")
def my_service(rendered: Render, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command of a project with all patterns, installed as a wheel."""
    target = tmp_path_factory.mktemp("installed") / "site"
    environment = os.environ | install(rendered(patterns=list(PATTERNS)), target)

    def my_service(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [target / "bin/my-service", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return my_service


def children(pid: int) -> Iterator[int]:
    """Yield the processes below one, as the kernel knows them: by the thread that started each."""
    found: list[str] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has ended
        return
    for thread in threads:
        with contextlib.suppress(OSError):
            found += (thread / "children").read_text().split()
    for child in map(int, found):
        yield child
        yield from children(child)


def is_worker(pid: int) -> bool:
    """A spawned process, and not the tracker that multiprocessing starts beside them."""
    try:
        return b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def work_of(pid: int) -> float:
    """Return the seconds that processors have worked for a process and all below it, ended or not.

    By this clock, what is killed is the same on a machine that has other things to do.
    """
    ticks = 0
    for one in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def under_fire(my_service: Command, tmp_path_factory: pytest.TempPathFactory) -> Fire:
    """Run a command whose workers are killed, about as fast as others start in their place.

    Faster would show only that the engine gives up when none of its workers ever gets to work.
    """
    log = tmp_path_factory.mktemp("short") / "short.log"
    log.write_text("one line\n")
    for _ in range(2):  # the first one compiles what it imports
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with my_service("crunch-logs", log) as process:
            assert process.wait(LIMIT) == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    pause = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return functools.partial(run_under_fire, my_service, pause / 6)


def run_under_fire(
    command: Command, pause: float, *arguments: object, dice: random.Random, most: int
) -> tuple[dict[str, Any], int]:
    """Run a command, kill up to `most` of its workers, and return its report and their number.

    They are killed two by two: both may run the same item, which has a third try, and time for it.
    """
    process = command(*arguments, "--json")
    seen: set[int] = set()
    killed = 0
    end = time.monotonic() + LIMIT
    next_one = dice.uniform(0, pause)
    try:
        while process.poll() is None:
            assert time.monotonic() < end, "the command hangs"
            if work_of(process.pid) < next_one:
                time.sleep(0.005)
                continue
            below = list(children(process.pid))
            seen.update(below)
            workers = [pid for pid in below if is_worker(pid)]
            if workers and killed < most:
                try:
                    os.kill(dice.choice(workers), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed += 1
            wait = dice.uniform(0, pause) + (0 if killed % 2 else pause)
            next_one = work_of(process.pid) + wait
        output, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.wait(LIMIT)
    assert process.returncode == 0, errors
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in seen), "a process is left")
    # By their names, since other programs make segments, too, and may keep them.
    owners = {process.pid, *seen}
    left = [path for pid in owners for path in SHARED_MEMORY.glob(f"sharing-{pid}-*")]
    assert left == []
    report: dict[str, Any] = json.loads(output)
    return report, killed


def wait_until(true: Callable[[], bool], complaint: str) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, complaint
        time.sleep(0.05)


def test_logs_are_counted_exactly(
    under_fire: Fire, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    dice = random.Random(2)
    log = tmp_path / "access.log"
    expected = write_log(log, dice, 100_000)
    logs = [log] * 20
    killed = runs = 0
    while killed < KILLS:
        most = min(PER_RUN, KILLS - killed)
        report, more = under_fire("crunch-logs", "--workers", 4, *logs, dice=dice, most=most)
        assert report["status"] == {name: len(logs) * n for name, n in expected["status"].items()}
        assert report["lines"] == len(logs) * expected["lines"]
        assert report["bad_lines"] == len(logs) * expected["bad_lines"]
        assert report["bytes"] == len(logs) * expected["bytes"]
        killed += more
        runs += 1
        assert runs < KILLS
    record_property("counted", f"crunch-logs: {killed} killed in {runs} runs, all totals exact")


def test_transfers_are_posted_exactly(
    under_fire: Fire, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    dice = random.Random(3)
    transfers, posted = tmp_path / "transfers.csv", tmp_path / "balances.csv"
    expected = write_transfers(transfers, dice, 2_000_000)
    killed = runs = 0
    while killed < KILLS:
        most = min(PER_RUN, KILLS - killed)
        report, more = under_fire(
            "post-transfers", "--workers", 4, transfers, posted, dice=dice, most=most
        )
        with posted.open(newline="") as file:
            rows = {row["account"]: int(row["balance_cents"]) for row in csv.DictReader(file)}
        assert rows == expected["balances"]
        assert report["applied"] == expected["applied"]
        assert report["refused"] == expected["refused"]
        assert report["total"] == sum(rows.values())
        killed += more
        runs += 1
        assert runs < KILLS
    record_property("counted", f"post-transfers: {killed} killed in {runs} runs, all exact")


def write_log(path: Path, dice: random.Random, lines: int) -> dict[str, Any]:
    """Write a log and count it as it is written, in one process and without parsing."""
    status: Counter[str] = Counter({f"{digit}xx": 0 for digit in range(1, 6)})
    size = bad = 0
    with path.open("w") as log:
        for number in range(lines):
            if dice.random() < 0.01:
                bad += 1
                log.write(f"this is line {number}\n")
                continue
            code, length = dice.choice((200, 201, 301, 304, 404, 500, 101)), dice.randrange(1 << 20)
            status[f"{code // 100}xx"] += 1
            size += length
            log.write(
                f"10.0.{number % 256}.7 - - [01/Mar/2026:10:00:{number % 60:02} +0000] "
                f'"GET /item/{number} HTTP/1.1" {code} {length}\n'
            )
    return {"lines": lines, "bad_lines": bad, "bytes": size, "status": dict(status)}


def write_transfers(path: Path, dice: random.Random, lines: int) -> dict[str, Any]:
    """Write transfers and post them as they are written, in one process."""
    accounts = [f"account-{number}" for number in range(50)] + [""]
    balances: Counter[str] = Counter()
    refused = 0
    with path.open("w") as file:
        file.write("transfer_id,from_account,to_account,amount_cents\n")
        for number in range(lines):
            source, target = dice.choices(accounts, k=2)
            amount = dice.randrange(0, 10_000)
            if amount == 0 or source == target:
                refused += 1
            else:
                for account, change in ((source, -amount), (target, amount)):
                    if account:
                        balances[account] += change
            file.write(f"t{number},{source},{target},{amount}\n")
    return {"applied": lines - refused, "refused": refused, "balances": dict(balances)}
