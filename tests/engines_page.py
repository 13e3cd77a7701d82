"""The page on engines, made from the tests that show what it says: `python tests/engines_page.py`.

A row is a question, with an answer an engine and the tests of each project that show it.
"""

import re

from guarantees import PROJECT, ROOT, tests_in
from matrix import ENGINES

PAGE = ROOT / "docs/engines.md"
COLUMNS = ("processes", *ENGINES)

Row = tuple[str, dict[str, str], list[str]]
"""A question, the answers by engine (``else`` for all that have none of their own), the tests."""

ROWS: list[Row] = [
    (
        "Are counts and logs exact when a map has ended?",
        {"else": "yes: they ride back with results, once an item"},
        [
            "test_counter.py::test_an_item_that_kills_every_worker_does_not_count",
            "test_counter_remote.py::test_a_worker_killed_in_an_item_counts_it_once",
            "test_counter_remote.py::test_a_worker_killed_from_outside_changes_nothing",
        ],
    ),
    (
        "And how old are they while it runs?",
        {"processes": "some hundredths of a second", "else": "as old as the chunks on their way"},
        ["test_counter_remote.py::test_counts_and_notes_in_the_order_of_the_items"],
    ),
    (
        "What does a worker's death cost?",
        {
            "processes": "the one item that ran, a try",
            "dask": "what that worker had, halved till the item that kills is alone: that, a try; "
            "one more where a worker has several threads",
            "ray": "what that worker had, halved till the item that kills is alone: that, a try",
            "joblib": "loky ends all workers; what was on its way runs again, one chunk at a time, "
            "till the item that kills is alone: that, a try, and the one that it had in company",
        },
        [
            "test_engine.py::test_only_the_item_that_ran_is_blamed",
            "test_remote.py::test_an_item_is_tried_again_when_its_worker_died",
            "test_remote.py::test_an_item_that_kills_each_time_fails_and_the_others_complete",
        ],
    ),
    (
        "And the loss of a node?",
        {
            "processes": "there is one",
            "dask": "what its workers had, as above; the others go on",
            "ray": "what its workers had, and values nobody had fetched yet; the others go on, and "
            "workers come anew when there is room; the head's is the loss of all",
            "joblib": "there is one",
        },
        [
            "test_remote.py::test_an_item_is_tried_again_when_its_worker_died",
            "test_ray.py::test_a_node_that_goes_costs_what_it_had_and_one_that_comes_gets_work",
            "test_ray.py::test_a_value_that_is_gone_with_its_node_is_made_again",
        ],
    ),
    (
        "And the loss of the cluster?",
        {
            "processes": "there is none",
            "dask": "the run, which ends with `StateLost`",
            "ray": "the run: with `StateLost` by `ray://`, after the half minute in which its "
            "client tries again; ray ends a process on a node of the cluster itself, with code 1",
            "joblib": "there is none",
        },
        [
            "test_dask.py::test_a_scheduler_that_is_gone_is_no_fresh_zero",
            "test_ray.py::test_a_cluster_that_is_gone_is_no_fresh_zero",
        ],
    ),
    (
        "Is a key computed once over all workers?",
        {"else": "yes, and by the next one at once when a worker dies over it"},
        [
            "test_cache.py::test_the_next_computes_when_one_is_killed",
            "test_cache_remote.py::test_each_key_is_computed_once_over_all_workers",
            "test_cache_remote.py::test_the_next_computes_when_one_is_killed",
        ],
    ),
    (
        "How long does a worker remember a value itself?",
        {"processes": "till it is overwritten anywhere", "else": "for a chunk"},
        ["test_cache_remote.py::test_each_key_is_computed_once_over_all_workers"],
    ),
    (
        "Where does the state of caches, locks and guarded numbers live?",
        {
            "processes": "in shared memory, and in a server process",
            "dask": "in the scheduler",
            "ray": "in an actor on the driver's node, which takes no core",
            "joblib": "in threads of the main process",
        },
        ["test_cache_remote.py::test_the_parent_takes_part"],
    ),
    (
        "What is lost with it?",
        {
            "processes": "what the server knew: caches begin anew, nothing else is there",
            "dask": "the run, which ends with `StateLost`",
            "ray": "caches begin anew; locks and guarded numbers raise `StateLost`",
            "joblib": "the run",
        },
        [
            "test_cache.py::test_goes_on_when_its_process_is_killed",
            "test_cache_remote.py::test_goes_on_when_its_process_is_killed",
            "test_dask.py::test_a_scheduler_that_is_gone_is_no_fresh_zero",
            "test_locks_remote.py::test_what_is_lost_is_no_fresh_zero",
        ],
    ),
    (
        "When is a dead holder's lock free?",
        {
            "processes": "at once, by the kernel",
            "else": "when the engine learns of the death; 15 s later where it can't",
        },
        [
            "test_locks.py::test_each_section_commits_once",
            "test_locks_remote.py::test_what_a_dead_one_held_is_free_soon",
            "test_leases.py::test_an_expired_lease_commits_nothing",
        ],
    ),
    (
        "Does a section commit whole, and once for its item?",
        {
            "processes": "yes, by a receipt in the copy that the flip commits",
            "else": "yes, by a receipt beside the numbers; who has lost the lease commits nothing",
        },
        [
            "test_locks.py::test_each_section_commits_once",
            "test_locks_remote.py::test_each_section_commits_once_whoever_is_killed",
            "test_locks_remote.py::test_who_outlives_his_lease_commits_nothing",
        ],
    ),
    (
        "How do workers see an array?",
        {
            "processes": "in place",
            "dask": "its blocks travel; else a copy a worker, as it was when the map began",
            "ray": "in the object store, not copied on its node, as it was when the map began",
            "joblib": "in place; a block that is changed in place comes back to be written",
        },
        [
            "test_arrays_remote.py::test_every_worker_sees_the_arrays_as_they_are_when_a_map_begins",
            "test_arrays_remote.py::test_another_array_is_seen_as_it_was_when_the_map_began",
            "test_arrays_remote.py::test_a_write_that_nobody_would_see_is_refused",
        ],
    ),
    (
        "Is `timeout` kept?",
        {
            "processes": "yes",
            "dask": "refused: it can't end one task",
            "ray": "yes, by ending the actor; an item is a chunk then",
            "joblib": "refused: it can't end one task",
        },
        [
            "test_engine.py::test_a_stuck_item_ends_and_the_others_go_on",
            "test_remote.py::test_a_stuck_item_ends_or_timeout_is_refused",
        ],
    ),
    (
        "Do the starter jobs write the same files, to the byte?",
        {"else": "yes"},
        ["test_remote.py::test_the_jobs_give_the_same_files"],
    ),
    (
        "How does one reach a cluster that runs already?",
        {
            "processes": "there is none",
            "dask": "`--address tcp://HOST:8786`; workers that join later get work, too",
            "ray": "`--address auto` or `ray://HOST:10001`; one that runs in the program is used",
            "joblib": "there is none",
        },
        [
            "test_dask.py::test_a_worker_that_joins_gets_work",
            "test_ray.py::test_a_ray_that_is_there_already_is_used_and_left",
            "test_ray.py::test_the_jobs_run_where_only_a_client_gets",
        ],
    ),
    (
        "Who gets into a cluster that a run starts itself?",
        {
            "processes": "there is none",
            "dask": "whoever has an account on this machine: it is a `LocalCluster`, on the "
            "loopback device, without a password",
            "ray": "who has its token, on this machine",
            "joblib": "there is none",
        },
        ["test_ray.py::test_a_cluster_of_its_own_lets_in_nobody_else"],
    ),
    (
        "What is left when the main process is killed?",
        {
            "processes": "nothing, after 2 s",
            "dask": "nothing of what the run has started, after some seconds",
            "ray": "two agents of its own, for a minute; no worker and no actor",
            "joblib": "nothing of what the run has started, after some seconds",
        },
        [
            "test_processes.py::test_nobody_outlives_the_main_process",
            "test_remote.py::test_nobody_outlives_the_main_process",
        ],
    ),
]

HEAD = """\
# Engines

The same jobs run on each engine, unchanged: `--engine` chooses, and `--address` names a cluster
that runs already. `processes` is always there; the others are answers to the question `engines`,
and extras of the project. They do the distributing; what a project brings maps the patterns onto
their own means. This page is written by `python tests/engines_page.py`; the tests that it names are
those of each project, which run on real clusters: `nox -s engines`.

## What holds where

"""

TAIL = """\

## Moving

Stay with `processes` while one machine will do: nothing is cheaper. What changes elsewhere is what
a round trip costs. Medians on two cores, Python 3.11, the cluster on the same machine, by
`python tests/engines_measure.py`:

{measured}

- **Items** travel in chunks that take 0.2 s, so a round trip of some milliseconds is lost in them;
  an engine pays when its items are worth more than their way. Of four million trivial ones, each
  takes 0.4 times what it does in the engine's own best batching on joblib, 1.1 times on ray and 1.1
  to 1.2 times on dask. A map finds its chunk size in three round trips, which on dask are 40 ms: a
  million items, a quarter of a second, take 1.4 times as long there as hand-made batches of a size
  that is known (`python tests/engines_overhead.py`).
- **Counts and logs** ride back with the chunks: however many adds there are, the driver handles one
  delta a chunk. By the table it hands out and takes back some 110 chunks a second on dask, 750 on
  ray and 1,600 on joblib: at 0.2 s a chunk that keeps at least 20, 150 and 300 workers busy. Beyond
  that take larger items, or split the input and run a driver for each part.
- **A new key of a cache, a lock and a section** are calls to one process: all workers together have
  as many a second as two of them have by the table (770 on dask, 450 on ray), and no more however
  many workers there are. A key that is known in a chunk costs nothing. Where that is too slow, ask
  for many keys at once (`get_many`), do more in a section, or shard: several `Guarded`, or several
  caches, by a part of the key.
- **A section of a `Guarded`** carries all of its numbers there and back. Keep it small there.
- **An array** that is read as a whole goes to every node once a change; blocks go and come once.

Don't move for speed on one machine, for a job that is one long section, or with files that only one
machine sees. What a job must not assume there: memory that it shares with the parent, a working
directory, environment variables, and that its neighbour is on the same machine.
"""

#: By what was measured: what one of it takes, an engine.
MEASURED: dict[str, dict[str, str]] = {
    "opening it": {"processes": "0.4 s", "dask": "1.3 s", "ray": "6.7 s", "joblib": "0.1 s"},
    "a trivial item": {
        "processes": "0.18 µs",
        "dask": "0.48 µs",
        "ray": "0.24 µs",
        "joblib": "0.24 µs",
    },
    "an item by itself, there and back": {
        "processes": "51 µs",
        "dask": "9.1 ms",
        "ray": "1.3 ms",
        "joblib": "0.61 ms",
    },
    "a new key of a cache, by each of 2 workers": {
        "processes": "0.22 ms",
        "dask": "2.6 ms",
        "ray": "4.4 ms",
        "joblib": "0.19 ms",
    },
    "a section of a `Guarded` of 64 numbers, so": {
        "processes": "7.1 µs",
        "dask": "2.6 ms",
        "ray": "5.5 ms",
        "joblib": "0.34 ms",
    },
    "a section of a `Lock`, so": {
        "processes": "1.8 µs",
        "dask": "2.6 ms",
        "ray": "7.0 ms",
        "joblib": "0.28 ms",
    },
}


def missing() -> list[str]:
    """Name the proofs that are no tests, and the answers that there are not."""
    known = {
        f"{path.name}::{test.name}" for path in PROJECT.glob("test_*.py") for test in tests_in(path)
    }
    proofs = {proof for _, _, named in ROWS for proof in named}
    unanswered = [
        f"{question} {engine}"
        for question, answers, _ in ROWS
        for engine in COLUMNS
        if engine not in answers and "else" not in answers
    ]
    return sorted(proofs - known) + unanswered


def table(rows: list[tuple[str, ...]]) -> str:
    """Write rows, the first of which is the head."""
    head, *rest = (" | ".join(re.sub(r"\s+", " ", cell) for cell in row) for row in rows)
    ruler = "|".join(["---"] * len(rows[0]))
    return "\n".join([f"| {head} |", f"|{ruler}|", *(f"| {row} |" for row in rest)])


def page() -> str:
    """Write the page."""
    rows: list[tuple[str, ...]] = [("", *(f"`{name}`" for name in COLUMNS), "shown by")]
    for question, answers, proofs in ROWS:
        cells = (answers.get(name, answers.get("else", "")) for name in COLUMNS)
        rows.append((question, *cells, ", ".join(f"`{proof}`" for proof in proofs)))
    measured = table(
        [
            ("", *(f"`{name}`" for name in COLUMNS)),
            *((what, *(found[name] for name in COLUMNS)) for what, found in MEASURED.items()),
        ]
    )
    return HEAD + table(rows) + "\n" + TAIL.format(measured=measured)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
