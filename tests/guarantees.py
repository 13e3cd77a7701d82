"""The table of guarantees, made from the tests that prove them: `python tests/guarantees.py`.

A cell is a subject and an event. A test of the suite of chaos says what it proves by the marker
``proves(subjects, event, holds, within=…, but=…)``, all of it plain text, or without ``holds`` that
it proves more of a cell that another test words. What the tests in template/tests/sharing prove,
which know nothing of this repository, is listed in `ELSEWHERE`; where they alone prove a cell,
`ALONE` has its words.
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
    "killed": (
        "a worker is killed",
        "at any moment of its work, or it is stopped by SIGSTOP and killed then",
    ),
    "starting": ("a worker is killed at its start", "before it is ready for its first item"),
    "server": ("the caches' server is killed", "the process in which the caches of an engine live"),
    "forkserver": (
        "the forkserver is killed",
        "the process from which the start method `forkserver` forks all workers",
    ),
    "interrupted": ("Ctrl-C or SIGTERM", "to the main process alone, or to all processes at once"),
    "main": ("the main process is killed", "alone, or all processes at once"),
    "hangs": (
        "an item hangs",
        "its job does not return, or its worker is stopped; the map has a `timeout`",
    ),
    "fails": (
        "an item fails",
        "its job raises, or what the job raises or returns can't be pickled or unpickled",
    ),
    "crashes": ("an item kills its worker", "each time that it is tried"),
    "factory": ("a `PerWorker` can't be made", "its factory raises"),
    "forks": ("a job forks", "the child process goes on when the item has ended"),
    "memory": ("no memory is left", "for a job or for the main process (`RLIMIT_AS`)"),
    "shm": ("`/dev/shm` is full", "or too small from the start"),
    "descriptors": ("no descriptor is left", "for a job or for the main process"),
    "threads": (
        "several threads run maps at once",
        "on one engine; some maps are left early, and one may feed another",
    ),
    "unread": ("nobody reads", "a map has begun, and its reader does something else"),
    "blocks": ("a source blocks", "its next item does not come yet"),
    "stopped": (
        "the program is stopped, and goes on",
        "by Ctrl-Z or SIGSTOP, or with its container; for longer than a `timeout`",
    ),
    "closed": ("an engine closes", "while maps are read, in other threads or around it"),
    "unreadable": (
        "a result can't be unpickled",
        "it was pickled well, and the main process can't make an object of it",
    ),
    "evil": (
        "an item can't be unpickled",
        "the attempt kills its worker, does not return or raises; or that to pickle its result",
    ),
}
"""What can happen: as the tables name it, and what is meant."""

#: The subjects of an event that does not concern all of them; the others have no cell.
CONCERNED = {
    "factory": {"items", "counter"},
    "unread": {"items", "locks", "rest"},
    "blocks": {"items", "rest"},
    "stopped": {"items"},
    "closed": {"items", "counter", "rest"},
    "unreadable": {"items", "counter"},
    "evil": {"items", "counter"},
}

ELSEWHERE = {
    ("items", "killed"): [
        "test_engine.py::test_only_the_item_that_ran_is_blamed",
        "test_engine.py::test_a_worker_killed_while_it_answers_is_asked_again",
    ],
    ("items", "starting"): ["test_processes.py::test_a_worker_killed_before_it_has_read_its_state"],
    ("counter", "killed"): [
        "test_counter.py::test_a_counter_steps_back_to_what_is_certain_when_a_worker_dies"
    ],
    ("cache", "killed"): [
        "test_cache.py::test_the_next_worker_computes_when_the_computing_one_is_killed"
    ],
    ("locks", "killed"): [
        "test_locks.py::test_each_section_commits_once_whenever_its_worker_dies",
        "test_locks.py::test_waiting_for_an_rlock_of_a_dead_holder_raises_lock_lost",
    ],
    ("arrays", "killed"): [
        "test_arrays.py::test_blocks_changed_in_place_are_exact_when_workers_die_in_the_middle"
    ],
    ("cache", "server"): ["test_cache.py::test_a_cache_goes_on_when_its_process_is_killed"],
    ("items", "interrupted"): [
        "test_processes.py::test_a_signal_lets_what_runs_end",
        "test_processes.py::test_a_second_signal_ends_it_now",
        "test_processes.py::test_a_signal_that_a_destructor_swallows_is_not_lost",
        "test_interrupts.py::test_an_interrupt_ends_it",
        "test_interrupts.py::test_an_interrupt_of_all_processes_ends_it",
        "test_interrupts.py::test_a_signal_that_was_handled_is_not_raised_again",
    ],
    ("counter", "interrupted"): [
        "test_interrupts.py::test_what_had_ended_is_counted_and_recorded",
        "test_interrupts.py::test_what_had_ended_is_there_however_workers_start",
    ],
    ("log", "interrupted"): [
        "test_interrupts.py::test_what_had_ended_is_counted_and_recorded",
        "test_interrupts.py::test_what_had_ended_is_there_however_workers_start",
    ],
    ("locks", "interrupted"): [
        "test_interrupts.py::test_what_had_ended_is_counted_and_recorded",
    ],
    ("arrays", "interrupted"): ["test_arrays.py::test_a_block_that_nobody_waits_for_is_as_it_was"],
    ("rest", "interrupted"): [
        "test_cli.py::test_a_signal_ends_in_order",
        "test_interrupts.py::test_an_interrupt_at_any_line_of_opening_leaves_nothing",
        "test_interrupts.py::test_an_interrupt_at_any_line_of_closing_leaves_nothing",
    ],
    ("rest", "main"): ["test_processes.py::test_nobody_outlives_the_main_process"],
    ("arrays", "hangs"): ["test_arrays.py::test_a_block_that_fails_is_as_it_was"],
    ("counter", "fails"): ["test_counter.py::test_the_adds_of_an_item_that_raised_count"],
    ("log", "fails"): ["test_counter_log.py::test_the_records_of_an_item_that_raised_count"],
    ("cache", "fails"): [
        "test_cache.py::test_an_exception_of_compute_is_its_callers_and_the_next_computes"
    ],
    ("arrays", "fails"): ["test_arrays.py::test_a_block_that_fails_is_as_it_was"],
    ("locks", "fails"): ["test_locks.py::test_an_exception_rolls_a_section_back"],
    ("counter", "crashes"): [
        "test_counter.py::test_an_item_that_kills_every_worker_does_not_count",
    ],
    ("log", "crashes"): [
        "test_counter_log.py::test_an_item_that_kills_every_worker_leaves_no_record",
    ],
    ("arrays", "shm"): [
        "test_arrays.py::test_an_array_that_is_too_large_is_refused_before_it_is_made"
    ],
    ("items", "threads"): [
        "test_threads.py::test_several_maps_from_several_threads",
        "test_threads.py::test_maps_of_all_kinds_from_several_threads",
        "test_threads.py::test_sixteen_threads_while_workers_are_killed",
        "test_threads.py::test_a_thread_that_waits_holds_up_no_other",
        "test_threads.py::test_two_threads_read_one_map",
        "test_threads.py::test_one_map_feeds_another_from_another_thread",
        "test_threads.py::test_leaving_early_waits_for_its_own_items_alone",
    ],
    ("counter", "threads"): ["test_threads.py::test_sixteen_threads_while_workers_are_killed"],
    ("log", "threads"): ["test_counter_log.py::test_records_of_maps_stand_one_map_after_the_other"],
    ("items", "unread"): [
        "test_driven_by_itself.py::test_a_timeout_is_kept_while_nobody_reads",
        "test_driven_by_itself.py::test_a_death_is_noticed_while_nobody_reads",
        "test_driven_by_itself.py::test_items_go_on_while_nobody_reads",
        "test_driven_by_itself.py::test_logs_are_passed_on_while_nobody_reads",
        "test_bounds.py::test_two_maps_that_nobody_reads_leave_room_for_a_third",
    ],
    ("locks", "unread"): [
        "test_driven_by_itself.py::test_reading_in_a_loop_whose_job_hangs_in_a_section"
    ],
    ("rest", "unread"): [
        "test_driven_by_itself.py::test_what_a_killed_idle_worker_leaves_is_seen_to_while_nobody_reads",
        "test_bounds.py::test_results_of_a_megabyte",
        "test_bounds.py::test_results_that_become_large",
        "test_bounds.py::test_items_of_a_megabyte",
    ],
    ("items", "blocks"): [
        "test_driven_by_itself.py::test_results_come_while_the_source_blocks",
        "test_driven_by_itself.py::test_each_result_comes_though_the_source_waits_for_it",
        "test_driven_by_itself.py::test_a_timeout_is_kept_while_the_source_blocks",
        "test_driven_by_itself.py::test_other_maps_go_on_while_a_source_blocks",
        "test_driven_by_itself.py::test_a_map_is_left_while_its_source_blocks",
    ],
    ("rest", "blocks"): ["test_closed.py::test_an_engine_closes_while_a_source_blocks"],
    ("items", "stopped"): [
        "test_driven_by_itself.py::test_a_program_that_was_stopped_ends_nobody_for_it",
        "test_driven_by_itself.py::test_no_time_in_which_a_program_was_stopped_counts",
    ],
    ("items", "closed"): [
        "test_closed.py::test_a_thread_reads_while_the_engine_closes",
        "test_closed.py::test_many_threads_read_while_the_engine_closes",
        "test_closed.py::test_an_engine_closes_inside_the_loop_that_reads_it",
        "test_closed.py::test_a_map_is_begun_and_read_after_the_engine_has_closed",
        "test_closed.py::test_whoever_asks_a_map_of_a_closed_engine_again_is_told_again",
    ],
    ("counter", "closed"): [
        "test_closed.py::test_a_closed_engine_is_not_used",
        "test_closed.py::test_it_is_closed_twice",
    ],
    ("rest", "closed"): [
        "test_closed.py::test_a_thread_waits_for_an_item_while_the_engine_closes",
        "test_closed.py::test_it_is_closed_by_two_threads_at_once",
        "test_closed.py::test_signals_are_as_before_when_a_thread_has_closed_it",
    ],
    ("items", "unreadable"): [
        "test_items_end.py::test_a_result_that_can_not_be_unpickled",
        "test_items_end.py::test_nothing_but_results_that_can_not_be_unpickled",
        "test_salvage.py::test_what_can_not_be_unpickled_takes_nothing_else_along",
    ],
    ("counter", "unreadable"): ["test_items_end.py::test_a_result_that_can_not_be_unpickled"],
    ("items", "evil"): [
        "test_items_end.py::test_an_item_whose_unpickling_kills",
        "test_items_end.py::test_an_item_whose_unpickling_hangs",
        "test_items_end.py::test_an_item_whose_unpickling_raises",
        "test_items_end.py::test_a_result_whose_pickling_ends_the_worker",
        "test_items_end.py::test_a_result_whose_pickling_hangs",
    ],
    ("counter", "evil"): [
        "test_items_end.py::test_an_item_whose_unpickling_kills",
        "test_items_end.py::test_a_result_whose_pickling_hangs",
    ],
}

#: What holds in the cells that no test of the suite of chaos words: see `Cell`.
ALONE: dict[tuple[str, str], dict[str, str]] = {
    ("items", "unread"): {
        "holds": "Work goes on within bounds; timeouts are kept, deaths noticed, logs passed on",
        "but": "A list, a tuple or a range is read by the reader itself: while it is away, only "
        "what it had read goes on.",
    },
    ("locks", "unread"): {
        "holds": "Nobody waits for the reader: `read()` inside its loop comes at once, too",
    },
    ("rest", "unread"): {
        "holds": "At most 64 MiB of items and results wait; a dead worker is replaced",
        "but": "When sizes jump, one chunk a worker more may come.",
    },
    ("items", "blocks"): {
        "holds": "Results come, timeouts are kept, other maps go on; the map can be left",
        "but": "With `source_thread=False` the reader is the one that the source blocks.",
    },
    ("rest", "blocks"): {
        "holds": "The engine closes without waiting for the source",
        "within": "5 s",
        "but": "The source's thread ends when its item has come, which is dropped.",
    },
    ("items", "stopped"): {
        "holds": "No worker is ended and no item loses a try for the time that it was stopped",
        "but": "A `timeout` may be kept later, by about the time that the program was stopped.",
    },
    ("items", "closed"): {
        "holds": "Who reads gets a `SharingError`, again and again; no list is too short",
        "but": "A map that had been read to its end, or was left, just ends.",
    },
    ("counter", "closed"): {
        "holds": "It has the items that ended, for the program and the next engine"
    },
    ("rest", "closed"): {
        "holds": "What runs ends first; each thread that closes it returns when it is closed",
    },
    ("items", "unreadable"): {
        "holds": "The item ends as `JobFailed`; no item runs again for it",
    },
    ("counter", "unreadable"): {"holds": "Exact; what that item has added counts"},
    ("items", "evil"): {
        "holds": "That item alone ends: as `WorkerDied`, `ItemTimeout` or `JobFailed`",
        "within": "`retries` + 1 tries, or its `timeout`",
        "but": "It is found by halving its chunk, so it may be tried a few more times.",
    },
    ("counter", "evil"): {"holds": "Exact for all other items; that item does not count"},
}

HEAD = """\
# What is guaranteed

This page says what holds for the items of a map and for all that its workers share, whatever ends
or fails, and within what time; below each table stands what does not hold. Each line is proved by
tests, which its footnote names; they run under `spawn`, `forkserver` and `fork` where it matters
how workers start. Times are meant for a machine that is not overloaded.

The suite in `tests/chaos` kills 1,000 workers on Linux (`nox -s chaos`). All other tests that are
named here come with each project, and so does a short version of that suite.

`python tests/guarantees.py` writes this page from the tests.

## What can happen

"""
WIDEST = 90
"""Characters in a cell of the tables, so that a row is about a line on the page."""


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


@dataclass
class Footnotes:
    """The tests that prove something, one footnote for each set of them."""

    numbers: dict[tuple[str, ...], int] = field(default_factory=dict)

    def mark(self, proofs: list[str]) -> str:
        """Return the mark of the footnote that lists these tests."""
        return f"[^{self.numbers.setdefault(tuple(proofs), len(self.numbers) + 1)}]"

    def text(self) -> str:
        """Return the footnotes, for the end of the page."""
        return "\n".join(
            f"[^{number}]: {', '.join(f'`{proof}`' for proof in proofs)}"
            for proofs, number in self.numbers.items()
        )


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
        (subject, event): Cell([], **ALONE.get((subject, event), {}))
        for subject in SUBJECTS
        for event in EVENTS
        if subject in CONCERNED.get(event, SUBJECTS)
    }
    for path in sorted(chaos.glob("test_*.py")):
        for test in tests_in(path):
            for (subjects, event, *holds), more in marks_of(test):
                for subject in subjects.split():
                    cell = cells.get((subject, event))
                    if cell is None or (holds and cell.holds):  # or it is one of ALONE
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
    found += [one for cell in cells.values() for one in (cell.holds,) if len(one) > WIDEST]
    return found + sorted({one for cell in cells.values() for one in cell.proofs} - known)


def page(cells: dict[tuple[str, str], Cell]) -> str:
    """Write the tables, and below each what does not hold."""
    notes = Footnotes()
    events = table([("event", "what is meant by it"), *EVENTS.values()])
    parts = [HEAD + events]
    for subject, title in SUBJECTS.items():
        rows: list[tuple[str, ...]] = [("when", "what holds", "within")]
        exceptions = []
        for event, (when, _) in EVENTS.items():
            if cell := cells.get((subject, event)):
                rows.append((when, cell.holds + notes.mark(cell.proofs), cell.within or "–"))
                if cell.but:
                    exceptions.append(f"- *{when}*: {cell.but}")
        parts += [f"## {title}", table(rows)]
        if exceptions:
            parts += ["What does not hold:", "\n".join(exceptions)]
    return "\n\n".join([*parts, notes.text()]) + "\n"


def table(rows: list[tuple[str, ...]]) -> str:
    """Write rows, the first of which is the head."""
    lines = [" | ".join(re.sub(r"\s+", " ", cell) for cell in row) for row in rows]
    lines.insert(1, " | ".join(["---"] * len(rows[0])))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    TABLE.write_text(page(collect()), "utf-8")
