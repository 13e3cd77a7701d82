"""The table of guarantees, made from the tests that prove them: `python tests/guarantees.py`.

A cell is a subject and an event. A test of the suite of chaos says what it proves by the marker
``proves(subjects, event, holds, within=…, but=…)``, all of it plain text, or without ``holds`` that
it proves more of a cell that another test words. What the tests in template/tests/sharing prove,
which know nothing of this repository, is listed in `ELSEWHERE`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHAOS = ROOT / "tests/chaos"
PROJECT = ROOT / "template/tests/sharing"
TABLE = ROOT / "docs/guarantees.md"

SUBJECTS = {
    "items": "Items and results",
    "counter": "`Counter`",
    "log": "`Log`",
    "cache": "`Cache`",
    "arrays": "`SharedArray`",
    "locks": "`Lock` and `Guarded`",
    "rest": "Processes, files and memory",
}
SHARED = ("counter", "log", "cache", "arrays", "locks")
EVENTS = {
    "killed": "a worker is killed at any moment, or stopped and then killed",
    "starting": "a worker is killed while it starts",
    "server": "the server process of the caches is killed",
    "forkserver": "the server of the start method `forkserver` is killed",
    "interrupted": "Ctrl-C or SIGTERM, to the main process or to all of them",
    "main": "the main process is killed, or all of them at once",
    "hangs": "a job hangs or is stopped, and has a `timeout`",
    "fails": "a job raises, or what it raises or returns can't be pickled or unpickled",
    "crashes": "a job ends its worker each time it is tried",
    "factory": "what `PerWorker` is to make can't be made",
    "forks": "a job forks, and the child lives on",
    "memory": "a job or the main process has no memory left (`RLIMIT_AS`)",
    "shm": "`/dev/shm` is tiny, or full",
    "descriptors": "a job or the main process has no descriptor left",
}
#: What an event has nothing to do with has no cell.
UNCONCERNED = {("factory", subject) for subject in (*SHARED, "rest")} - {("factory", "counter")}

ELSEWHERE = {
    ("items", "killed"): [
        "test_engine.py::test_only_the_item_that_ran_is_blamed",
        "test_engine.py::test_a_worker_killed_while_it_answers_is_asked_again",
    ],
    ("items", "starting"): ["test_processes.py::test_a_worker_killed_before_it_has_read_its_state"],
    ("counter", "killed"): [
        "test_counter.py::test_steps_back_to_what_is_certain_when_a_worker_dies"
    ],
    ("cache", "killed"): ["test_cache.py::test_the_next_computes_when_one_is_killed"],
    ("locks", "killed"): [
        "test_locks.py::test_each_section_commits_once",
        "test_locks.py::test_a_lost_rlock_is_no_wait_for_ever",
    ],
    ("arrays", "killed"): ["test_arrays.py::test_in_place_whoever_dies_in_the_middle"],
    ("cache", "server"): ["test_cache.py::test_goes_on_when_its_process_is_killed"],
    ("items", "interrupted"): [
        "test_processes.py::test_a_signal_lets_what_runs_end",
        "test_processes.py::test_a_second_signal_ends_it_now",
        "test_processes.py::test_a_signal_that_a_destructor_swallows_is_not_lost",
    ],
    ("arrays", "interrupted"): ["test_arrays.py::test_a_block_that_nobody_waits_for_is_as_it_was"],
    ("rest", "interrupted"): ["test_cli.py::test_a_signal_ends_in_order"],
    ("rest", "main"): ["test_processes.py::test_nobody_outlives_the_main_process"],
    ("arrays", "hangs"): ["test_arrays.py::test_a_block_that_fails_is_as_it_was"],
    ("counter", "fails"): ["test_counter.py::test_the_adds_of_an_item_that_raised_count"],
    ("log", "fails"): ["test_counter_log.py::test_the_records_of_an_item_that_raised_count"],
    ("cache", "fails"): ["test_cache.py::test_what_raises_is_its_callers_and_the_next_computes"],
    ("arrays", "fails"): ["test_arrays.py::test_a_block_that_fails_is_as_it_was"],
    ("locks", "fails"): ["test_locks.py::test_an_exception_rolls_back"],
    ("counter", "crashes"): [
        "test_counter.py::test_an_item_that_kills_every_worker_does_not_count",
    ],
    ("log", "crashes"): [
        "test_counter_log.py::test_an_item_that_kills_every_worker_leaves_no_record",
    ],
    ("arrays", "shm"): ["test_arrays.py::test_what_is_too_large_is_told_before_it_is_made"],
}

HEAD = """\
# What is guaranteed

What holds, within what time and what does not, for all that workers share and whatever ends: as
the tests say that prove it, under `spawn`, `forkserver` and `fork`. This page is written by
`python tests/guarantees.py`, from those tests; `nox -s chaos` runs those in `tests/chaos`, which
kill 1,000 workers on the way, on Linux; each project runs a short storm and the other tests. Times
are meant for a machine that is not overloaded.
"""


@dataclass
class Cell:
    """What holds of a subject at an event.

    Attributes:
        proofs: the tests that show it.
        holds: in words; "within" what time, and what does not hold, in "but".
    """

    proofs: list[str] = field(default_factory=list)
    holds: str = ""
    within: str = ""
    but: str = ""


def tests_in(path: Path) -> Iterator[ast.FunctionDef]:
    """Yield the tests of a file."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def marks_of(test: ast.FunctionDef) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield what the markers of a test say."""
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
            arguments = [ast.literal_eval(one) for one in mark.args]
            yield arguments, {str(one.arg): ast.literal_eval(one.value) for one in mark.keywords}


def collect(chaos: Path = CHAOS) -> dict[tuple[str, str], Cell]:
    """Read the cells from the tests.

    Raises:
        ValueError: a cell is worded twice, or is none of the table's.
    """
    cells = {
        (subject, event): Cell()
        for subject in SUBJECTS
        for event in EVENTS
        if (event, subject) not in UNCONCERNED
    }
    for path in sorted(chaos.glob("test_*.py")):
        for test in tests_in(path):
            for (subjects, event, *holds), more in marks_of(test):
                for subject in subjects.split():
                    cell = cells.get((subject, event))
                    if cell is None or (holds and cell.holds):
                        raise ValueError(f"{test.name}: {subject}, {event}")
                    cell.proofs.append(f"{path.name}::{test.name}")
                    if holds:
                        cell.holds = holds[0]
                        cell.within, cell.but = more.get("within", ""), more.get("but", "")
    for key, names in ELSEWHERE.items():
        cells[key].proofs += names
    return cells


def missing(cells: dict[tuple[str, str], Cell]) -> list[str]:
    """Name the cells that nobody proves or words, and the proofs that are no tests."""
    known = {
        f"{path.name}::{test.name}"
        for folder in (CHAOS, PROJECT)
        for path in folder.glob("test_*.py")
        for test in tests_in(path)
    }
    found = [f"{subject}, {event}" for (subject, event), cell in cells.items() if not cell.holds]
    return found + sorted({one for cell in cells.values() for one in cell.proofs} - known)


def page(cells: dict[tuple[str, str], Cell]) -> str:
    """Write the table."""
    lines = [HEAD]
    for subject, title in SUBJECTS.items():
        lines += [f"## {title}\n", "| when | holds | within | does not hold | shown by |"]
        lines.append("|---|---|---|---|---|")
        for event, when in EVENTS.items():
            if cell := cells.get((subject, event)):
                proofs = ", ".join(f"`{one}`" for one in cell.proofs)
                columns = (when, cell.holds, cell.within or "–", cell.but or "–", proofs)
                lines.append("| " + " | ".join(re.sub(r"\s+", " ", one) for one in columns) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    TABLE.write_text(page(collect()), "utf-8")
