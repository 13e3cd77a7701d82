"""The main process, or all of them at once, interrupted and killed at any moment."""

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import leftovers
import numpy as np
import pytest
import scripts
from accounting import Account
from command_line import report
from signs import Signs, wait_until
from under_test import cli

UNDER_FIRE = Path(__file__).with_name("under_fire.py")


@contextlib.contextmanager
def storm(start_method: str, folder: Path, dice: random.Random) -> Iterator[scripts.Script]:
    """A storm of its own process, at some moment, be it while it opens."""
    folder.mkdir()
    signs = Signs(folder)
    with scripts.running(UNDER_FIRE, start_method, signs, dice.random()) as script:
        wait_until(lambda: signs.notes("workers"), 60)
        if dice.random() < 0.7:
            wait_until(lambda: signs.given("open"), 60)
            time.sleep(dice.uniform(0, 0.5))
        yield script
        assert signs.notes("wrong") == []


def signal_to(script: scripts.Script, number: signal.Signals, to: str) -> None:
    script.family = leftovers.family(script.process.pid)
    send: Callable[[int, int], None] = os.killpg if to == "all" else os.kill
    send(script.process.pid, number)


@pytest.mark.proves(
    "items", "main", "No further item begins, and no item ends", but="The items that ran are lost."
)
@pytest.mark.proves(
    "counter log cache",
    "main",
    "Its content is gone, and nothing is left behind",
    but="Content that has to outlive the main process belongs in a file.",
)
@pytest.mark.proves(
    "arrays",
    "main",
    "No segment is left; an unfinished file of `create_npy` is not in its place",
    but="A file that `from_npy` maps to be written to keeps what was written so far.",
)
@pytest.mark.proves("locks", "main", "They are gone, and nobody is left waiting")
@pytest.mark.proves(
    "rest",
    "main",
    "No process is left, not even one that runs C code, and no segment",
    within="2 s",
    but="The hidden `.part` file of an unfinished output may be left; `doctor --clean` removes it.",
)
@pytest.mark.parametrize("to", ["it", "all"])
def test_nobody_outlives_a_main_process_that_is_killed(
    start_method: str, tmp_path: Path, dice: random.Random, account: Account, times: int, to: str
) -> None:
    for turn in range(times):
        with storm(start_method, tmp_path / str(turn), dice) as script:
            signal_to(script, signal.SIGKILL, to)
            killed = time.monotonic()
            script.process.wait(10)
            # What is meant is 2 s, which a busy machine can make longer.
            wait_until(script.is_gone, 5)
            account.ends.append(1000 * (time.monotonic() - killed))
            assert not list(leftovers.SEGMENTS.glob(f"sharing-{script.process.pid}-*"))


@pytest.mark.proves(
    "items",
    "interrupted",
    "No further item begins; those that run may end; a second signal ends them at once",
    within="5 s",
    but="An item that takes longer than these 5 s is ended.",
)
@pytest.mark.proves(
    "counter log", "interrupted", "It has all items that had ended, each of them whole"
)
@pytest.mark.proves(
    "cache", "interrupted", "The cache keeps what it has, for the next engine of that state"
)
@pytest.mark.proves("arrays", "interrupted", "Each block is whole: written once, or as it was")
@pytest.mark.proves("locks", "interrupted", "Each section is whole: committed, or rolled back")
@pytest.mark.proves(
    "rest",
    "interrupted",
    "No process, segment or file is left; the exit code is that of the signal",
    within="5 s and the engine's closing",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", ["it", "all"])
def test_a_signal_ends_it_in_order(
    start_method: str,
    tmp_path: Path,
    dice: random.Random,
    times: int,
    number: signal.Signals,
    to: str,
) -> None:
    for turn in range(times):
        with storm(start_method, tmp_path / str(turn), dice) as script:
            signal_to(script, number, to)
            script.ends(-number if number == signal.SIGINT else 128 + number)
            assert script.signs.given("whole") or not script.signs.given("open")


class Output(NamedTuple):
    """A command that writes files, and what is to be in them."""

    words: list[str]
    files: dict[Path, bytes]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Output]:
    """The commands that write one, and what they write when nobody disturbs them."""
    folder = tmp_path_factory.mktemp("outputs")
    transfers, balances = folder / "transfers.csv", folder / "balances.csv"
    with transfers.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("transfer_id", "from_account", "to_account", "amount_cents"))
        rows.writerows((f"t{n}", "", f"account-{n % 50}", n % 1000 + 1) for n in range(300_000))
    words = ["post-transfers", str(transfers), str(balances)]
    numbers, standard = folder / "numbers.npy", folder / "standard.npy"
    np.save(numbers, np.random.default_rng(4).normal(size=(400_000, 8)))
    commands = {balances: words, standard: ["standardize", str(numbers), str(standard)]}
    for one in commands.values():
        report(*one)
    return [Output(one, {path: path.read_bytes()}) for path, one in commands.items()]


@pytest.mark.proves("rest", "interrupted")
@pytest.mark.proves("rest", "main")
def test_an_output_is_whole_or_absent(
    outputs: list[Output], start_method: str, dice: random.Random, times: int
) -> None:
    for words, files in outputs:
        command = [sys.executable, "-m", cli.PACKAGE, *words, f"--start-method={start_method}"]
        for number, to in [(signal.SIGKILL, "it"), (signal.SIGTERM, "all")] * times:
            end_at_some_moment(command, files, number, to, dice)


def end_at_some_moment(
    command: list[str],
    files: dict[Path, bytes],
    number: signal.Signals,
    to: str,
    dice: random.Random,
) -> None:
    """Run it till then, and look for what is there."""
    (folder,) = {path.parent for path in files}
    for path in files:
        path.unlink(missing_ok=True)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, start_new_session=True, stdout=quiet, stderr=quiet, text=True
    ) as process:
        script = scripts.Script(process, Signs(folder))
        wait_until(lambda: len(leftovers.family(process.pid)) >= 2 or process.poll() is not None)
        time.sleep(dice.uniform(0, 1))
        with contextlib.suppress(ProcessLookupError):  # it has ended
            signal_to(script, number, to)
        code = process.wait(30)
    wait_until(script.is_gone, 5)
    found = {path: path.read_bytes() for path in files if path.exists()}
    assert found in ({}, files)
    assert code or found
    parts = list(folder.glob(".*.part"))
    assert not parts or number == signal.SIGKILL
    report("doctor", "--clean", folder)
    assert not list(folder.glob(".*.part"))
