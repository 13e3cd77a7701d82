"""The page on engines, made from the tests that show what it says: `python tests/engines_page.py`.

Each question has an answer for every engine, and the tests of each project that show it.
"""

import textwrap

from guarantees import PROJECT, ROOT, WIDEST, Footnotes, table, tests_in
from matrix import ENGINES

PAGE = ROOT / "docs/engines.md"
COLUMNS = ("processes", *ENGINES)

Row = tuple[str, dict[str, str], list[str]]
"""A question, the answers by engine, and the tests.

The answer ``else`` is that of all engines that have none of their own; ``more`` is no answer of an
engine, but what there is to say below the answers.
"""

ROWS: list[Row] = [
    (
        "Are counts and logs exact when a map has ended?",
        {"else": "yes: they come back with the results, once for each item"},
        [
            "test_counter.py::test_an_item_that_kills_every_worker_does_not_count",
            "test_counter_remote.py::test_a_worker_killed_in_an_item_counts_it_once",
            "test_counter_remote.py::test_a_worker_killed_from_outside_changes_nothing",
        ],
    ),
    (
        "How old are counts and logs while a map runs?",
        {
            "processes": "some hundredths of a second",
            "else": "as old as the oldest chunk that has not come back yet",
        },
        ["test_counter_remote.py::test_counts_and_notes_in_the_order_of_the_items"],
    ),
    (
        "What does the death of a worker cost?",
        {
            "processes": "one try of the item that ran",
            "dask": "the items that the worker had run again; the one that kills loses a try",
            "ray": "the items that the worker had run again; the one that kills loses a try",
            "joblib": "the items that all workers had run again; the one that kills loses a try",
            "more": "To find the item that kills, dask, ray and joblib halve what the worker had "
            "until the item is alone. Where others were lost with it (on joblib, and on dask if "
            "its worker has several threads), these and it run one chunk at a time first, and "
            "nothing else runs meanwhile; that costs nobody a try.",
        },
        [
            "test_engine.py::test_only_the_item_that_ran_is_blamed",
            "test_remote.py::test_an_item_is_tried_again_when_its_worker_died",
            "test_remote.py::test_an_item_that_kills_each_time_fails_and_the_others_complete",
            "test_remote.py::test_an_item_that_kills_while_it_is_unpickled_fails_alone",
        ],
    ),
    (
        "What does the loss of a node cost?",
        {
            "processes": "there is one node",
            "dask": "the same as the death of its workers; the others go on",
            "ray": "the same, and results on it that were not fetched run again; the others go on",
            "joblib": "there is one node",
            "more": "On ray, new workers start when there is room for them again. The loss of the "
            "head node is the loss of the cluster.",
        },
        [
            "test_remote.py::test_an_item_is_tried_again_when_its_worker_died",
            "test_ray.py::test_a_node_that_goes_costs_what_it_had_and_one_that_comes_gets_work",
            "test_ray.py::test_a_value_that_is_gone_with_its_node_is_made_again",
        ],
    ),
    (
        "What does the loss of the cluster cost?",
        {
            "processes": "there is no cluster",
            "dask": "the run, which ends with `StateLost`",
            "ray": "the run, which ends with `StateLost` where it reached the cluster by `ray://`",
            "joblib": "there is no cluster",
            "more": "By `ray://` this takes half a minute, in which ray's client tries to connect "
            "again. A run on a node of the cluster is ended by ray itself, with exit code 1.",
        },
        [
            "test_dask.py::test_a_scheduler_that_is_gone_raises_state_lost",
            "test_ray.py::test_a_cluster_that_is_gone_raises_state_lost",
        ],
    ),
    (
        "Is a key computed once over all workers?",
        {"else": "yes; when a worker dies over it, the next one computes it at once"},
        [
            "test_cache.py::test_the_next_worker_computes_when_the_computing_one_is_killed",
            "test_cache_remote.py::test_each_key_is_computed_once_over_all_workers",
            "test_cache_remote.py::test_the_next_worker_computes_when_the_computing_one_is_killed",
        ],
    ),
    (
        "How long does a worker remember a cached value itself?",
        {"processes": "until any worker overwrites it", "else": "for a chunk"},
        ["test_cache_remote.py::test_each_key_is_computed_once_over_all_workers"],
    ),
    (
        "Where do caches, locks and guarded numbers live?",
        {
            "processes": "in shared memory and in a server process",
            "dask": "in the scheduler",
            "ray": "in an actor on the driver's node; the actor takes no core",
            "joblib": "in threads of the main process",
        },
        ["test_cache_remote.py::test_the_main_process_uses_the_same_cache"],
    ),
    (
        "What is lost with that process?",
        {
            "processes": "what the caches had: they begin empty; the server has nothing else",
            "dask": "the run, which ends with `StateLost`",
            "ray": "what the caches had: they begin empty; locks and `Guarded` raise `StateLost`",
            "joblib": "the run: it is the main process",
        },
        [
            "test_cache.py::test_a_cache_goes_on_when_its_process_is_killed",
            "test_cache_remote.py::test_a_cache_goes_on_when_its_process_is_killed",
            "test_dask.py::test_a_scheduler_that_is_gone_raises_state_lost",
            "test_locks_remote.py::test_guarded_values_that_are_lost_raise_state_lost",
        ],
    ),
    (
        "When is the lock of a dead holder free?",
        {
            "processes": "at once, by the kernel",
            "else": "when the engine learns of the death, or 15 s later where it can't learn of it",
        },
        [
            "test_locks.py::test_each_section_commits_once_whenever_its_worker_dies",
            "test_locks_remote.py::test_the_lock_of_a_dead_worker_is_free_soon",
            "test_leases.py::test_an_expired_lease_commits_nothing",
        ],
    ),
    (
        "Does a section of a `Guarded` commit whole, and once for its item?",
        {
            "processes": "yes, by a receipt inside the copy of the numbers that it commits",
            "else": "yes, by a receipt beside the numbers; a holder without its lease can't commit",
        },
        [
            "test_locks.py::test_each_section_commits_once_whenever_its_worker_dies",
            "test_locks_remote.py::test_each_section_commits_once_whoever_is_killed",
            "test_locks_remote.py::test_a_holder_that_outlives_its_lease_commits_nothing",
        ],
    ),
    (
        "How do workers see an array?",
        {
            "processes": "in place",
            "dask": "`map_blocks` sends its blocks; any other use gets a copy for each worker",
            "ray": "in the object store, without a copy on the same node",
            "joblib": "in place; a block that is changed in place is sent back to be written",
            "more": "On dask and ray, workers see the array as it was when the map began.",
        },
        [
            "test_arrays_remote.py::test_every_worker_sees_the_arrays_as_they_are_when_a_map_begins",
            "test_arrays_remote.py::test_another_array_is_seen_as_it_was_when_the_map_began",
            "test_arrays_remote.py::test_a_write_to_a_copy_of_an_array_is_refused",
        ],
    ),
    (
        "Is `timeout` kept?",
        {
            "processes": "yes",
            "dask": "it is refused: dask can't end a single task",
            "ray": "yes, by ending the actor; each item is a chunk of its own then",
            "joblib": "it is refused: joblib can't end a single task",
        },
        [
            "test_engine.py::test_stuck_items_are_ended_by_the_timeout_and_the_others_go_on",
            "test_remote.py::test_a_stuck_item_ends_or_timeout_is_refused",
        ],
    ),
    (
        "Do the starter jobs write the same files as with `processes`, to the byte?",
        {"else": "yes"},
        ["test_remote.py::test_the_jobs_give_the_same_files"],
    ),
    (
        "How does a run reach a cluster that runs already?",
        {
            "processes": "there is no cluster",
            "dask": "`--address tcp://HOST:8786`; workers that join later get work, too",
            "ray": "`--address auto` or `ray://HOST:10001`; a ray in the same program is used",
            "joblib": "there is no cluster",
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
            "processes": "there is no cluster",
            "dask": "every user of this machine: a `LocalCluster` has no password",
            "ray": "users of this machine who have the cluster's token",
            "joblib": "there is no cluster",
            "more": "The `LocalCluster` of dask listens on the loopback device alone.",
        },
        ["test_ray.py::test_a_cluster_of_its_own_lets_in_nobody_else"],
    ),
    (
        "What is left when the main process is killed?",
        {
            "processes": "nothing, after 2 s",
            "dask": "nothing of what the run has started, after some seconds",
            "ray": "two agents of ray for a minute, but no worker and no actor",
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

A job runs unchanged on each engine: `--engine` chooses one, and `--address` names a cluster that
runs already. `processes` is always there. `dask`, `ray` and `joblib` come with the question
`engines`, and their packages are extras of the project. The engine distributes the items; the
project brings what carries the patterns on that engine's own means.

The tests that the footnotes name come with each project and run on real clusters
(`nox -s engines`). `python tests/engines_page.py` writes this page from them.

## What holds where

"""

TAIL = """
## Moving

Stay with `processes` while one machine will do: no engine is cheaper. What changes on another one
is the cost of a round trip. These are medians on two cores with Python 3.11 and the cluster on the
same machine, measured by `python tests/engines_measure.py`:

{measured}

- **Items** travel in chunks that take 0.2 s, so that a round trip of some milliseconds is lost in
  them; an engine pays when an item is worth more than its way there and back. Of four million
  trivial items, each takes 0.4 times as long as in the engine's own best batching on joblib, 1.1
  times on ray and 1.1 to 1.2 times on dask. A map finds its chunk size in three round trips, which
  take 40 ms on dask: there, a million trivial items (a quarter of a second) take 1.4 times as long
  as hand-made batches of a size that is known (`python tests/engines_overhead.py`).
- **Counts and logs** come back with the chunks: however often a job adds, the main process handles
  one sum for each chunk. By the table, the main process hands out and takes back some 110 chunks a
  second on dask, 750 on ray and 1,600 on joblib. At 0.2 s a chunk, that keeps at least 20, 150 and
  300 workers busy. Beyond that, take larger items, or split the input and run a main process for
  each part.
- **A new key of a cache, a lock and a section** are calls to one process. By the table, two workers
  together make 770 such calls a second on dask and 450 on ray, and more workers make no more. A key
  that a worker has had in the same chunk costs nothing. Where that is too slow, ask for many keys
  at once (`get_many`), do more in a section, or shard: several `Guarded`, or several caches, each
  for a part of the keys.
- **A section of a `Guarded`** carries all of its numbers there and back. Keep a `Guarded` small.
- **An array** that is read as a whole goes to every node once after each change; a block goes there
  and back once.

Don't move to another engine for speed on one machine, for a job that is one long section, or with
files that only one machine sees. On another engine, a job must not assume that it shares memory, a
working directory or environment variables with the main process, nor that the worker beside it is
on the same machine.
"""

#: By what was measured: what one of it takes, an engine.
MEASURED: dict[str, dict[str, str]] = {
    "opening the engine": {
        "processes": "0.4 s",
        "dask": "1.3 s",
        "ray": "6.7 s",
        "joblib": "0.1 s",
    },
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
    "a section of a `Guarded` of 64 numbers, by each of 2 workers": {
        "processes": "7.1 µs",
        "dask": "2.6 ms",
        "ray": "5.5 ms",
        "joblib": "0.34 ms",
    },
    "a section of a `Lock`, by each of 2 workers": {
        "processes": "1.8 µs",
        "dask": "2.6 ms",
        "ray": "7.0 ms",
        "joblib": "0.28 ms",
    },
}


def missing() -> list[str]:
    """Name the proofs that are no tests, and the answers that are missing or too wide."""
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
    wide = [
        answer
        for _, answers, _ in ROWS
        for name, answer in answers.items()
        if name != "more" and len(answer) > WIDEST
    ]
    return sorted(proofs - known) + unanswered + wide


def page() -> str:
    """Write the page."""
    notes = Footnotes()
    parts = []
    for question, answers, proofs in ROWS:
        engines: dict[str, list[str]] = {}
        for name in COLUMNS:
            engines.setdefault(answers.get(name, answers.get("else", "")), []).append(f"`{name}`")
        rows = [
            ("every engine" if len(names) == len(COLUMNS) else ", ".join(names), answer)
            for answer, names in engines.items()
        ]
        parts.append(
            f"**{question}**{notes.mark(proofs)}\n\n{table([('engine', 'answer'), *rows])}"
        )
        if "more" in answers:
            parts.append(textwrap.fill(answers["more"], 100))
    measured = table(
        [
            ("", *(f"`{name}`" for name in COLUMNS)),
            *((what, *(found[name] for name in COLUMNS)) for what, found in MEASURED.items()),
        ]
    )
    body = "\n\n".join(parts) + "\n" + TAIL.format(measured=measured)
    return f"{HEAD}{body}\n{notes.text()}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
