"""The command `bench`: what it decides by cases, and tiny runs of what it measures."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import complaint, run
from under_test import cli

advice, against, command, record, units, workload = (
    importlib.import_module(f"{cli.PACKAGE}.bench.{name}")
    for name in ("advice", "against", "command", "record", "units", "workload")
)
PATTERNS = importlib.import_module(f"{cli.PACKAGE}.sharing.chosen").PATTERNS
TINY = ("--quick", "--rounds", 1, "--workers", 2, "--start-method", "fork")


def group(
    pattern: str, floor: object, ours: object, carries: bool = False, copied: object = 9.0
) -> Any:
    """A group whose ways took these seconds, in one round or in several."""
    timings = [
        record.Timing(role, role, seconds if isinstance(seconds, list) else [seconds])
        for role, seconds in (("floor", floor), ("ours", ours), ("copied", copied))
        if isinstance(seconds, list) or seconds != 9.0
    ]
    return record.Group(pattern, "Doing it.", 2, timings, carries)


FACTS = {
    "cores": 2,
    "python": "3.12.1",
    "platform": "Linux x86_64",
    "engine": "processes",
    "start_method": "spawn",
    "effort": 1.0,
    "date": "2026-03-01T10:00:00+00:00",
    "version": "",
}


def a_run(*groups: Any, **facts: object) -> Any:
    return record.Record(FACTS | facts, None, list(groups))


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MB", 10**6), ("512KiB", 512 * 1024), ("300B", 300), ("1.5kB", 1500), ("0B", 0)],
)
def test_a_size_is_parsed_and_shown(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("2ms", 0.002), ("1.5s", 1.5), ("300us", 0.0003), ("0ns", 0.0)]
)
def test_a_duration_is_parsed_and_shown(text: str, seconds: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "MB", "1 MB", "1mb", "-1MB", "1e3B", "1.5B", "1,5MB", "٣MB", "1MB\n", "1ms"]
)
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write it like 1MB, 512KiB or 300B"):
        units.parse_size(text)


@pytest.mark.parametrize("text", ["", "2", "ms", "2 ms", "2MS", "-2ms", "nan", "infs", "1h", "1B"])
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write it like 2ms"):
        units.parse_seconds(text)


def test_three_digits_are_shown() -> None:
    seconds = (7.123e-8, 9.996e-7, 1.734e-6, 0.25, 61.0)
    shown = ["71.2 ns", "1.00 µs", "1.73 µs", "250 ms", "61.0 s"]
    assert [units.show_seconds(one) for one in seconds] == shown
    assert [units.show_size(size) for size in (0, 300, 1_500_000)] == ["0 B", "300 B", "1.5 MB"]
    assert [units.show_times(ratio) for ratio in (0.847, 12.34, 1254.3)] == [
        "0.85×",
        "12.3×",
        "1,254×",
    ]


def test_workers_are_doubled_up_to_the_cores() -> None:
    assert [command.counts(most) for most in (1, 2, 3, 8)] == [
        *([1], [1, 2], [1, 2, 3], [1, 2, 4, 8]),
    ]


US, MS = 1e-6, 1e-3


@pytest.mark.parametrize(
    ("pickling", "empty", "groups", "says"),
    [
        # Two workers do it in half the time.
        (
            5 * US,
            5 * US,
            [group("a", 2 * MS, 1.05 * MS), group("b", 2 * MS, 1.5 * MS)],
            (
                "Use a with ours: 1.9 times as fast as one process, since an item takes 1.05 ms "
                "instead of 2.00 ms."
            ),
        ),
        # What does not pay is named beside what does.
        (
            5 * US,
            5 * US,
            [group("a", 2 * MS, 3 * MS), group("b", 2 * MS, 1 * MS)],
            (
                "Use b with ours: 2.0 times as fast as one process, since an item takes 1.00 ms "
                "instead of 2.00 ms. On this shape it does not pay with a (0.67 times)."
            ),
        ),
        # A little is not worth it.
        (
            5 * US,
            5 * US,
            [group("a", 1.1 * MS, 1.0 * MS)],
            (
                "Don't use processes for this: one process is as fast. "
                "An item takes 1.10 ms in it, and 1.00 ms with ours."
            ),
        ),
        (
            5 * US,
            5 * US,
            [group("a", 1 * MS, 2 * MS)],
            (
                "Don't use processes for this: one process is faster. An item takes 1.00 ms in it, "
                "and 2.00 ms with ours."
            ),
        ),
        # Bringing an item takes longer than doing it.
        (
            6 * US,
            5 * US,
            [group("a", 2 * US, 6 * US, carries=True)],
            (
                "Don't use processes for this: an item takes 2.00 µs in one process, and "
                "bringing an empty one to a worker 5.00 µs already. Put more work into an item."
            ),
        ),
        # The payload does.
        (
            2 * MS,
            20 * US,
            [group("a", 1 * MS, 3 * MS, carries=True)],
            (
                "Don't use processes for this: pickling 1 MB and back takes 2.00 ms, and all the "
                "rest of an item 1.00 ms in one process. Let an item name what it needs, and load "
                "it where it is used."
            ),
        ),
        # But not where nobody pickles it.
        (
            2 * MS,
            20 * US,
            [group("a", 1 * MS, 1 * MS, carries=False)],
            (
                "Don't use processes for this: one process is as fast. "
                "An item takes 1.00 ms in it, and 1.00 ms with ours."
            ),
        ),
    ],
)
def test_the_advice_fits_the_measured_times(
    pickling: float, empty: float, groups: list[Any], says: str
) -> None:
    before = group(advice.HANDING_OVER, pickling, empty)
    assert advice.advise(10**6, [before, *groups]) == says


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"item_cost": 0.05, "payload": 64_000, "keys": 1_000}, ""),
        ({"item_cost": 2.0}, "An item of 2.00 s is measured as one of 50.0 ms."),
        (
            {"payload": 1_000_000, "keys": 10_000},
            "What is kept by key is kept for 64 at a time, in 64 MB.",
        ),
        ({"payload": 0, "keys": 10_000_000}, ""),
    ],
)
def test_a_shape_that_is_measured_as_less_is_said(shape: dict[str, Any], says: str) -> None:
    assert workload.limits(workload.Shape(**shape)) == says


def test_each_run_of_a_workload_brings_other_items() -> None:
    def items(run: int) -> list[Any]:
        return list(workload.items_of(workload.Shape(keys=10**6, reads=0.5), 200, True, run))

    assert items(3) == items(3)
    assert len({item.key for run in range(5) for item in items(run)}) > 990
    assert {item.reads for item in items(0)} == {True, False}
    first, second, *_ = items(0)
    assert first.payload is not second.payload
    assert len(first.payload) == 1_000


def test_the_best_engine_is_recommended() -> None:
    one = group("a", 4 * MS, 3 * MS)
    one.timings.append(record.Timing("another", "ours", [1 * MS]))
    assert advice.advise(1, [group(advice.HANDING_OVER, US, US), one]).startswith(
        "Use a with another: 4.0 times"
    )


FLOOR = [1.0, 1.0, 1.0, 1.0, 1.0]
STEADY = [2.0, 2.02, 1.98, 2.01, 1.99]


@pytest.mark.parametrize(
    ("floor", "ours", "word"),
    [
        (FLOOR, [2 * x for x in STEADY], "slower"),
        (FLOOR, [0.5 * x for x in STEADY], "faster"),
        (FLOOR, [1.2 * x for x in STEADY], ""),  # below what counts at all
        (FLOOR, [1.3 * x for x in STEADY], "slower"),
        (FLOOR, [1.5, 2.0, 3.0, 4.0, 5.0], ""),  # half as slow again, but who knows
        ([3 * x for x in FLOOR], [3 * x for x in STEADY], ""),  # all of the machine is slower
        ([1, 1, 9, 1, 1], [2, 2, 18, 2, 2], ""),  # a moment that hit both
    ],
)
def test_slower_is_what_noise_does_not_explain(
    floor: list[float], ours: list[float], word: str
) -> None:
    before, now = a_run(group("a", FLOOR, STEADY)), a_run(group("a", floor, ours))
    (change,) = against.changes(before, now)
    assert ("slower" if change.slower else "faster" if change.faster else "") == word


def test_noise_of_the_earlier_run_counts_too() -> None:
    noisy = a_run(group("a", FLOOR, [1.0, 1.0, 2.0, 3.0, 3.0]))
    (change,) = against.changes(noisy, a_run(group("a", FLOOR, [1.5 * x for x in STEADY])))
    assert not change.slower


def test_only_ours_is_compared_and_only_what_both_have() -> None:
    before = a_run(group("a", FLOOR, STEADY, copied=FLOOR), group("b", FLOOR, STEADY))
    now = a_run(group("a", FLOOR, STEADY, copied=[9 * x for x in STEADY]))
    assert [(one.pattern, one.name) for one in against.changes(before, now)] == [("a", "ours")]
    with pytest.raises(record.RecordError, match="nothing of what was measured now"):
        against.changes(before, a_run(group("c", FLOOR, STEADY)))
    with pytest.raises(record.RecordError, match="another shape of work"):
        against.changes(before, replace(now, shape={"payload": 1}))


def test_differences_between_the_machines_of_two_runs_are_told() -> None:
    before, now = a_run(), a_run(cores=8, python="3.12.9", start_method="fork", date="later")
    assert record.differences(before, now) == ["cores 2 → 8", "start method spawn → fork"]
    assert record.differences(before, a_run(python="3.13.0")) == ["python 3.12 → 3.13"]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = a_run(group("a", FLOOR, STEADY))
    path = tmp_path / "run.json"
    with path.open("w") as file:
        written.write(file)
    assert record.read(path) == written


def damaged(**changes: object) -> str:
    timing = {"name": "x", "role": "floor", "seconds": [1.0]} | changes
    groups = [{"pattern": "a", "title": "", "workers": 1, "carries": False, "timings": [timing]}]
    return json.dumps({"format": 1, "facts": {}, "shape": None, "groups": groups, "advice": ""})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a file that bench --json wrote"),
        ("\x00", "is not a file that bench --json wrote"),
        ("[" * 100_000, "is not a file that bench --json wrote"),
        ("[1]", "is not a file that bench --json wrote"),
        ("{}", "is not a file that bench --json wrote"),
        ('{"format": 2}', "is of format 2, not 1: run anew"),
        (damaged(role="ours"), "is not a file that bench --json wrote"),
        (damaged(seconds=[]), "is not a file that bench --json wrote"),
        (damaged(seconds=[0.0]), "is not a file that bench --json wrote"),
        (damaged(seconds=["1"]), "is not a file that bench --json wrote"),
        (damaged(seconds=[float("nan")]), "is not a file that bench --json wrote"),
        (damaged(more=1), "is not a file that bench --json wrote"),
    ],
)
def test_a_wrong_file_is_one_line_before_anything_is_measured(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert complaint("bench", "--against", path, code=2) == f"{path}: {says}"
    path.unlink()
    assert complaint("bench", "--against", path, code=2) == f"{path}: No such file or directory"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--payload", "1XB"), 2, "'1XB' is not a size: write it like 1MB, 512KiB or 300B"),
        (("--payload", "1GB"), 2, "1GB is more than the 256MB that some seconds are enough for"),
        (("--item-cost", "2"), 2, "'2' is not a duration: write it like 2ms, 1.5s or 300us"),
        (("--reads", "nan"), 2, "'nan' is not a part of the items: write it from 0 to 1"),
        (("--keys", "0"), 2, "--keys"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--workers", "0"), 1, "workers must be a whole number above 0, not 0"),
        (("--engine", "none"), 1, "unknown engine 'none'"),
        (("--engine", "none", "--keys", "3"), 1, "unknown engine 'none'"),
        (("--json", "."), 1, "is a folder, not a file to write"),
    ],
)
def test_a_wrong_option_is_one_line(words: tuple[str, ...], code: int, says: str) -> None:
    assert says in complaint("bench", *words, code=code)


def test_an_output_that_is_an_input_or_another_output_is_refused(tmp_path: Path) -> None:
    run_file, link = tmp_path / "run.json", tmp_path / "link"
    run_file.write_text("{}")
    link.symlink_to(run_file)
    for option in ("--json", "--html"):
        said = complaint("bench", "--against", run_file, option, link)
        assert said == f"{link}: this output would replace the input {run_file}"
    said = complaint("bench", "--json", run_file, "--html", link)
    assert said == f"{link}: this output would replace the output {run_file}"
    assert run_file.read_text() == "{}"


def test_a_report_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pygal", None)
    said = complaint("bench", "--html", tmp_path / "report.html")
    assert said == f"--html draws with pygal: pip install '{cli.COMMAND}[bench]'"


def test_the_exit_code_says_that_something_got_slower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    with path.open("w") as file:
        a_run(group("a", FLOOR, STEADY)).write(file)
    now = a_run(group("a", FLOOR, [2 * x for x in STEADY]), cores=4)
    monkeypatch.setattr(command, "compare_ways", lambda *_: now)
    ran = run("bench", "--against", path)
    assert ran.code == 1
    assert "slower" in ran.out
    warning, complaint = ran.err.splitlines()
    assert "compare with care: cores 2 → 4" in warning
    assert complaint == (
        f"{cli.COMMAND}: slower than in {path}: 1 of 1, and the most ours with 2 workers, "
        "2.00 times as slow"
    )
    monkeypatch.setattr(command, "compare_ways", lambda *_: a_run(group("a", FLOOR, STEADY)))
    ran = run("bench", "--against", path)
    assert (ran.code, ran.err) == (0, "")


def test_each_pattern_is_measured(tmp_path: Path) -> None:
    path, page = tmp_path / "run.json", tmp_path / "report.html"
    ran = run("bench", *TINY, "--json", path, "--html", page)
    assert ran.code == 0, ran.err
    found = record.read(path)
    assert [(one.pattern, one.workers) for one in found.groups] == [
        (pattern, workers) for pattern in PATTERNS for workers in (1, 2)
    ]
    for one in found.groups:
        assert {timing.role for timing in one.timings} == {"ours", "copied", "floor"}
        assert one.title in ran.out
        assert all(timing.name in ran.out for timing in one.timings)
    assert found.facts["start_method"] == "fork"
    text = page.read_text("utf-8")
    assert text.count("<svg") == len(PATTERNS)
    assert "<script" not in text
    assert ran.err == ""


def test_a_workload_ends_in_advice(tmp_path: Path) -> None:
    path, page = tmp_path / "run.json", tmp_path / "report.html"
    shape = ("--payload", "1kB", "--keys", 10, "--reads", 0.5, "--item-cost", "10us")
    own = ("--engine", "processes")  # in `test_bench_remote.py` there are the others, too
    ran = run("bench", *TINY, *shape, *own, "--json", path, "--html", page)
    assert ran.code == 0, ran.err
    found = record.read(path)
    assert found.shape == {"payload": 1000, "keys": 10, "reads": 0.5, "item_cost": 1e-5}
    assert [one.pattern for one in found.groups] == [advice.HANDING_OVER, *PATTERNS]
    assert found.advice.startswith(("Use ", "Don't use processes for this: "))
    assert ran.out.endswith(f"{found.advice}\n")
    assert found.advice.split(":")[0].replace("'", "&#x27;") in page.read_text("utf-8")
