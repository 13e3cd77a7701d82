"""A pattern is added by one file a folder and one entry in a table, and by nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rendering import CONFIG, files_in, render

PACKAGE = "template/src/{{ package_name }}"
ENTRY = """\
    switch:
      job: find_word
      class: Switch
      exports: Switch
      need: a switch that any worker turns on for all
      cost: 0.1 µs a look
      hazard: copied by hand, others never see it
      limit: nothing turns it off
      promise: on for ever, once it is on
      make: Switch()
      field: "found: Switch"
      use: state.found.turn_on()
"""
FILES = {
    f"{PACKAGE}/sharing/patterns/switch.py": '''\
"""A switch that any worker turns on for all."""

from __future__ import annotations

from ..machine.primitives import Words
from .base import Host, Pattern


class Switch(Pattern):
    """It is off till somebody turns it on."""

    def __init__(self) -> None:
        self._words: Words | None = None
        self._was_on = False

    @property
    def is_on(self) -> bool:
        """Whether anybody has turned it on."""
        return bool(self._words.view[0]) if self._words else self._was_on

    def turn_on(self) -> None:
        """Turn it on for everybody."""
        self._was_on = True
        if self._words:
            self._words.view[0] = 1

    def open(self, host: Host) -> None:
        self._words = host.words(1)
        self._words.view[0] = self._was_on

    def close(self, *, whole: bool) -> None:
        self._was_on, self._words = self.is_on, None
''',
    f"{PACKAGE}/jobs/find_word.py": '''\
"""Say whether a word is among others."""

from dataclasses import dataclass, field
from typing import Unpack

from ..sharing import EngineOptions, Switch, open_engine


@dataclass
class State:
    """What the workers share."""

    word: str
    found: Switch = field(default_factory=Switch)


def look(word: str, state: State) -> None:
    """Look at one word."""
    if word == state.word:
        state.found.turn_on()


def main(word: str, among: list[str], **options: Unpack[EngineOptions]) -> dict[str, object]:
    """Look at them all."""
    with open_engine(State(word), **options) as engine:
        for _ in engine.map(look, among):
            pass
        return {"found": engine.state.found.is_on}
''',
    f"{PACKAGE}/bench/switch.py": '''\
"""Looking whether a switch is on, by all workers at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from ..sharing import Switch
from .timing import CONTEXT, Setting, Way, at_once, given, pool, together
from .workload import Item, Shape, Work, burn


@dataclass
class State:
    barrier: Barrier
    switch: Switch


def ours(times: int, state: State) -> float:
    def work(times: int) -> None:
        for _ in range(times):
            state.switch.is_on  # noqa: B018

    return together(state.barrier, times, work)


def copied(times: int) -> float:
    barrier, value = given

    def work(times: int) -> None:
        for _ in range(times):
            value.value  # noqa: B018

    return together(barrier, times, work)


def floor(times: int, state: State) -> float:
    def work(times: int) -> None:
        for _ in range(times):
            pass

    return together(state.barrier, times, work)


@contextmanager
def ways(setting: Setting) -> Iterator[list[Way]]:
    times = setting.times(50_000)
    with (
        setting.open(State(setting.barrier(), Switch())) as engine,
        pool(setting.barrier(), CONTEXT.Value("b", 0), workers=setting.workers) as in_pool,
    ):
        yield [
            Way("Switch.is_on", lambda: at_once(engine, ours, times)),
            Way("Value", lambda: in_pool(copied, times), "copied"),
            Way("nothing", lambda: at_once(engine, floor, times), "floor"),
        ]


@dataclass
class Turn:
    switch: Switch
    cost: float


def turn(item: Item, state: Turn) -> None:
    burn(state.cost)
    state.switch.turn_on()


def work(shape: Shape) -> Work[Turn]:
    """An item turns it on."""

    def alone(item: Item) -> None:
        burn(shape.item_cost)

    return Work(Turn(Switch(), shape.item_cost), turn, alone, carries=False)
''',
    "template/benchmarks/bench_switch.py": '''\
"""One look at a switch, by one process that nobody disturbs."""

from pytest_benchmark.fixture import BenchmarkFixture

from .subject import sharing


def test_switch(benchmark: BenchmarkFixture) -> None:
    switch = sharing.Switch()
    benchmark(lambda: switch.is_on)
''',
    "template/tests/sharing/test_switch.py": '''\
"""A switch."""

from dataclasses import dataclass

from under_test import sharing


@dataclass
class State:
    switch: sharing.Switch


def turn_on(item: int, state: State) -> bool:
    state.switch.turn_on()
    return state.switch.is_on


def test_who_turns_it_on_does_it_for_all(start_method: str) -> None:
    state = State(sharing.Switch())
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        assert not state.switch.is_on
        assert list(engine.map(turn_on, [1])) == [True]
        assert state.switch.is_on
    assert state.switch.is_on
''',
    "template/tests/jobs/test_find_word.py.jinja": """\
from command_line import report

from {{ package_name }}.jobs import find_word
from {{ package_name }}.sharing import Switch


def test_a_word_is_looked_at() -> None:
    state = find_word.State("b", Switch())
    find_word.look("a", state)
    assert not state.found.is_on
    find_word.look("b", state)
    assert state.found.is_on


def test_the_command_says_whether_it_is_there() -> None:
    options = ("--workers", 1, "--start-method", "fork")
    assert report("find-word", "b", "a", "b", *options) == {"found": True}
    assert report("find-word", "c", "a", "b", *options) == {"found": False}
""",
}


@pytest.fixture
def grown(snapshot: Path, tmp_path: Path) -> Path:
    """A copy of the template with one pattern more."""
    template = Path(shutil.copytree(snapshot, tmp_path / "grown"))
    for name, text in FILES.items():
        assert not (template / name).exists()
        (template / name).write_text(text, "utf-8")
    config = template / "copier.yml"
    before, after, rest = config.read_text("utf-8").partition("pattern_table:")
    top, default, entries = rest.partition("  default:\n")
    config.write_text(before + after + top + default + ENTRY + entries, "utf-8")
    return template


def run(project: Path, *arguments: object) -> None:
    """Run a module of Python in a project; it has to succeed."""
    places = [str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def names_in(project: Path) -> set[str]:
    return {str(path.relative_to(project)) for path in files_in(project)}


@pytest.mark.parametrize("others", [[], ["counter"], list(CONFIG["pattern_table"]["default"])])
def test_a_project_has_it_and_its_tests_pass(
    grown: Path, tmp_path: Path, others: list[str]
) -> None:
    project = render(grown, tmp_path / "project", patterns=[*others, "switch"])
    rendered = {name.removeprefix("template/").removesuffix(".jinja") for name in FILES}
    rendered = {name.replace("{{ package_name }}", "my_service") for name in rendered}
    assert rendered <= names_in(project)
    run(project, "ruff", "check", "--no-cache", ".")
    run(project, "ruff", "format", "--no-cache", "--check", ".")
    tests = ("tests/sharing/test_switch.py", "tests/jobs/test_find_word.py")
    run(project, "pytest", "-q", "-p", "no:cacheprovider", "--start-method=fork", *tests)
    if not others:
        workload = ("tests/sharing/test_bench.py", "-k", "workload_ends_in_advice")
        run(project, "pytest", "-q", "-p", "no:cacheprovider", *workload)


def test_a_project_without_it_has_nothing_of_it(
    grown: Path, tmp_path: Path, snapshot: Path
) -> None:
    with_table = render(grown, tmp_path / "one", patterns=["counter"])
    as_before = render(snapshot, tmp_path / "other", patterns=["counter"])
    assert names_in(with_table) == names_in(as_before)
    for name in names_in(with_table) - {".copier-answers.yml"}:
        assert (with_table / name).read_bytes() == (as_before / name).read_bytes(), name
