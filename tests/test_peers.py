"""`nox -s peers`: what can go wrong with a peer is shown, and nothing of it stays behind."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Render
from rendering import PATTERNS, ROOT, command

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def source(rendered: Render) -> Path:
    return rendered(patterns=list(PATTERNS)) / "src"


@pytest.fixture
def compare(source: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in (source, DOCS):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module("peers.compare")


def test_a_field_is_measured_without_its_peers(source: Path, tmp_path: Path) -> None:
    """Some are installed here and some are not: each is in the page, or why it isn't."""
    page, numbers = tmp_path / "performance.md", tmp_path / "numbers.json"
    command(
        *(sys.executable, "-m", "peers", "counters", "--quick"),
        *("--page", page, "--json", numbers),
        PYTHONPATH=f"{DOCS}:{source}",
    )
    before = page.read_text("utf-8")
    command(
        *(sys.executable, "-m", "peers", "--rest", numbers, "--page", page),
        PYTHONPATH=f"{DOCS}:{source}",
    )
    text = page.read_text("utf-8")
    assert text == before
    (comparison,) = json.loads(numbers.read_text("utf-8"))["fields"]["counters"]["comparisons"]
    ways = {way["name"] for way in comparison["ways"]}
    assert {"Counter.add(1)", "Value with its lock"} <= ways
    assert len(ways | set(comparison["failed"])) == 9
    for name in ways | set(comparison["failed"]):
        assert f"| {name} |" in text or f"| **{name}** |" in text
    assert all("not installed" in why for why in comparison["failed"].values())
    assert text.count("counters: Counter.add(1)") == 4
    picture = (tmp_path / "performance/counters.svg").read_text("utf-8")
    assert picture.startswith("<svg")
    assert picture.count("<rect") >= len(ways)
    assert "<script" not in picture


def test_the_page_says_what_its_maker_says(compare: Any) -> None:
    """But for what was measured, which only a run can say."""
    page = importlib.import_module("peers.page")
    text = (DOCS / "performance.md").read_text("utf-8")
    assert page.INTRODUCTION in text
    notes = re.findall(r"\*\*not met\*\*\. (.*) \|$", text, re.MULTILINE)
    assert notes
    known = {
        value
        for name in ("arrays", "caches", "copies", "counters", "locks", "tasks")
        for value in vars(importlib.import_module(f"peers.{name}")).values()
        if isinstance(value, str)
    }
    assert set(notes) <= known


def test_what_goes_wrong_with_one_way_is_said_and_the_others_go_on(compare: Any) -> None:
    closed = []

    def entry(name: str, opens: Exception | None = None, *runs: float | Exception) -> Any:
        left = list(runs)

        @contextmanager
        def opener(_setting: object) -> Iterator[Any]:
            def run() -> float:
                number = left.pop(0)
                if isinstance(number, Exception):
                    raise number
                return number

            if opens is not None:
                raise opens
            try:
                yield run
            finally:
                closed.append(name)
                if name == "unclosed":
                    raise OSError("still in use")

        return compare.Entry(name, opener)

    comparison = compare.Comparison(
        "some",
        "Doing it",
        [
            entry("good", None, 9.0, 2.0, 4.0, 3.0),
            entry("absent", ModuleNotFoundError("No module", name="absent")),
            entry("broken", RuntimeError("no\nserver")),
            entry("wrong", None, 1.0, compare.Wrong("wrong: 3 adds instead of 4")),
            entry("unclosed", None, 1.0, 1.0, 1.0, 1.0),
            entry("other", None, 9.0, 1.0, 1.0, 1.0),
        ],
        rounds=3,
    )
    timing = importlib.import_module("my_service.bench.timing")
    comparison.measure(timing.Setting())
    assert [way.name for way in comparison.ways] == ["good", "unclosed", "other"]
    assert comparison.ratio("good", "other") == 3.0
    assert comparison.ratio("good", "wrong") is None
    assert comparison.failed == {
        "absent": "not installed: absent",
        "broken": "failed: RuntimeError: no server",
        "wrong": "wrong: 3 adds instead of 4",
        "unclosed": "failed: OSError: still in use",
    }
    assert sorted(closed) == ["good", "other", "unclosed", "wrong"]


def test_what_is_stuck_is_ended(compare: Any) -> None:
    with pytest.raises(compare.Stuck, match="no end after"), compare.limit(0.05):
        while True:
            pass


def test_the_page_shows_all_its_charts() -> None:
    text = (DOCS / "performance.md").read_text("utf-8")
    pictures = {f"performance/{path.name}" for path in (DOCS / "performance").glob("*.svg")}
    assert set(re.findall(r"\]\((.*?\.svg)\)", text)) == pictures
    for field in ("Counters", "Caches", "Arrays", "Locks", "Tasks", "Copies"):
        assert f"\n## {field}: " in text
