"""Rules for the template's own tree, which keep it plain and every path checkable."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from arrows import PRIVATE, TOOLS, broken, uses_of
from conftest import Render
from rendering import CONFIG, ENGINES, IGNORED, PATTERNS, PYTHONS, TEMPLATE

SHARING = TEMPLATE / "src/{{ package_name }}/sharing"
JOBS = TEMPLATE / "src/{{ package_name }}/jobs"
BENCH = TEMPLATE / "src/{{ package_name }}/bench"
#: What every project has in a folder of `sharing`, whatever it shares.
CORE = {
    "": "__init__.py.jinja chosen.py.jinja errors.py options.py machine patterns engines",
    "machine": "__init__.py children.py lifeline.py limits.py memory.py mutex.py nursery.py "
    "owners.py parcel.py primitives.py reasons.py service.py threads.py",
    "patterns": "__init__.py base.py per_worker.py search.py",
    "engines": "__init__.py chunks.py crew.py desk.py driver.py engine.py events.py failure.py "
    "lifecycles.py pump.py runs.py salvage.py scheduler.py setup.py signals.py sources.py "
    "threads.py verdict.py processes",
}
#: What comes with patterns, and with engines beside `processes`.
CHOSEN = {
    "machine": {"leases.py"},
    "patterns": {f"{name}.py" for name in PATTERNS},
    "engines": {"remote.py", *ENGINES},
}
FILES = [
    path.relative_to(TEMPLATE)
    for path in sorted(TEMPLATE.rglob("*"))
    if path.is_file() and not set(path.parts) & IGNORED("", list(path.parts))
]


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 40
    assert len(PATTERNS) == 4


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_path_can_be_checked_out_anywhere(path: Path) -> None:
    assert not re.search(r'["|<>?*:\\]', str(path))
    assert "{%" not in str(path)


@pytest.mark.parametrize("path", [path for path in FILES if ".py" in path.suffixes], ids=str)
def test_python_is_plain(path: Path) -> None:
    text = (TEMPLATE / path).read_text("utf-8")
    if path.suffix != ".jinja":
        ast.parse(text, feature_version=(3, 11))
        assert "{%" not in text
    elif path.name not in {"__init__.py.jinja", "chosen.py.jinja"}:
        assert "{%" not in text
        assert set(re.findall(r"{{.*?}}", text)) == {"{{ package_name }}"}


def test_each_file_of_sharing_belongs_to_one_pattern_or_to_the_core() -> None:
    for folder, core in CORE.items():
        entries = {path.name for path in (SHARING / folder).iterdir()}
        entries -= IGNORED("", sorted(entries))
        assert entries == {*core.split(), *CHOSEN.get(folder, set())}


def test_tests_of_sharing_lie_beside_those_of_jobs() -> None:
    tests = {path.name for path in (TEMPLATE / "tests").iterdir()}
    assert tests - IGNORED("", sorted(tests)) == {"conftest.py", "jobs", "sharing"}


def test_each_pattern_has_all_of_its_files() -> None:
    for name, pattern in PATTERNS.items():
        for path in (
            SHARING / f"patterns/{name}.py",
            JOBS / f"{pattern['job']}.py",
            TEMPLATE / f"tests/sharing/test_{name}.py",
            TEMPLATE / f"tests/jobs/test_{pattern['job']}.py.jinja",
            BENCH / f"{name}.py",
            TEMPLATE / f"benchmarks/bench_{name}.py",
        ):
            assert path.is_file(), path
        exports = pattern["exports"].split(", ")
        assert pattern["class"] in exports
        assert set(exports) <= {
            node.name
            for node in ast.parse((SHARING / f"patterns/{name}.py").read_text("utf-8")).body
            if isinstance(node, ast.ClassDef)
        }


def test_each_job_and_benchmark_belongs_to_a_pattern() -> None:
    assert {path.stem for path in JOBS.glob("*.py")} == {
        "__init__",
        *(pattern["job"] for pattern in PATTERNS.values()),
    }
    assert {path.stem for path in (TEMPLATE / "benchmarks").glob("bench_*.py")} == {
        f"bench_{name}" for name in PATTERNS
    }


def every_file(rendered: Render) -> Path:
    project = rendered(patterns=list(PATTERNS), engines=list(ENGINES))
    return project / "src/my_service"


def test_imports_keep_the_arrows(rendered: Render) -> None:
    assert broken(every_file(rendered)) == []


def test_no_exception_outlives_its_reason(rendered: Render) -> None:
    found = [use for path in every_file(rendered).rglob("*.py") for use in uses_of(path)]
    known = {(path, f"sharing.{name}") for path, names in TOOLS.items() for name in names}
    assert known - {(use.path, use.what) for use in found} == set()
    assert PRIVATE - {use.what for use in found if use.is_private} == set()


#: By the part that goes against the rules: a file, what is in it, and what is said of it.
WRONG = {
    "machine needs no pattern": (
        "sharing/machine/bad.py",
        "from ..patterns.base import Pattern",
        "imports sharing.patterns.base",
    ),
    "machine needs no engine": (
        "sharing/machine/bad.py",
        "def work():\n    from .. import engines",
        "imports sharing.engines",
    ),
    "machine needs not what was chosen": (
        "sharing/machine/bad.py",
        "from ..chosen import PATTERNS",
        "imports sharing.chosen",
    ),
    "a pattern needs no engine for its types": (
        "sharing/patterns/bad.py",
        "if TYPE_CHECKING:\n    from ..engines.engine import Engine",
        "imports sharing.engines.engine",
    ),
    "a pattern needs no engine by another way": (
        "sharing/patterns/bad.py",
        'importlib.import_module(f"..engines.{name}.engine", __package__)',
        "imports sharing.engines.*.engine",
    ),
    "a pattern needs no engine under its full name": (
        "sharing/patterns/bad.py",
        "import my_service.sharing.engines.driver",
        "imports sharing.engines.driver",
    ),
    "nothing inside needs what is shown outside": (
        "sharing/engines/processes/bad.py",
        "from ... import Counter",
        "imports sharing",
    ),
    "sharing needs nothing around it": (
        "sharing/engines/bad.py",
        "from ...progress import track",
        "imports progress",
    ),
    "a job needs sharing alone": (
        "jobs/bad.py",
        "from ..sharing.patterns.counter import Counter",
        "imports sharing.patterns.counter",
    ),
    "a job needs no part of sharing": (
        "jobs/bad.py",
        "from ..sharing import machine",
        "imports sharing.machine",
    ),
    "a private name stays at home": (
        "sharing/engines/bad.py",
        "from .driver import _hidden",
        "uses _hidden",
    ),
    "a private module stays at home": (
        "sharing/engines/bad.py",
        "from multiprocessing._hidden import one",
        "uses multiprocessing._hidden",
    ),
    "a private attribute stays at home": (
        "sharing/engines/bad.py",
        "from ..machine import memory\n\nmemory._hidden.one",
        "uses memory._hidden",
    ),
    "an object keeps its attributes for its module": (
        "sharing/engines/bad.py",
        "def work(engine):\n    return engine.crew._hidden",
        "uses engine.crew._hidden",
    ),
    "an object keeps its attributes also from who asks by name": (
        "jobs/bad.py",
        'def work(item, state):\n    setattr(state, "_hidden", item)',
        "uses state._hidden",
    ),
    "an imported object keeps its attributes though one's own has some of that name": (
        "sharing/engines/bad.py",
        "from ..machine.memory import Words\n\n_hidden = Words._hidden",
        "uses Words._hidden",
    ),
}

#: What keeps to the rules.
RIGHT = {
    "an object of one's own module": (
        "class One:\n    def __init__(self):\n        self._own = 1\n\n"
        "    def __eq__(self, other):\n        return self._own == other._own"
    ),
    "what a base has": "class One(Base):\n    def get(self):\n        return self._inherited",
    "a tuple with names": "def work(found):\n    return found._replace(late=True)",
    "a documented function": "import os\n\nos._exit(1)",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_the_arrows_is_named(tmp_path: Path, rendered: Render, name: str) -> None:
    path, text, said = WRONG[name]
    package = Path(shutil.copytree(every_file(rendered), tmp_path / "my_service"))
    (package / path).write_text(f"{text}\n")
    assert [line.partition(" ")[2] for line in broken(package)] == [said]


@pytest.mark.parametrize("name", RIGHT)
def test_what_keeps_the_arrows_is_not(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "my_service/sharing/engines"
    folder.mkdir(parents=True)
    for path in (folder, *folder.parents[:2]):
        (path / "__init__.py").touch()
    (folder / "good.py").write_text(f"{RIGHT[name]}\n")
    assert broken(tmp_path / "my_service") == []


def test_nobody_has_to_trust_the_template() -> None:
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & CONFIG.keys()


def test_paths_are_excluded_from_the_root() -> None:
    blocks = [entry for entry in CONFIG["_exclude"] if "\n" in entry]
    lines = [line for block in blocks for line in block.splitlines() if "{%" not in line]
    assert len(lines) >= 10
    assert [line for line in lines if not line.startswith("/")] == []


@pytest.mark.parametrize("version", [*PYTHONS, "3.15"])
def test_no_module_of_python_is_free_as_a_name(version: str) -> None:
    here = "{}.{}".format(*sys.version_info)
    python = sys.executable if version == here else shutil.which(f"python{version}")
    script = (
        "import keyword, sys; print(*sys.stdlib_module_names, *keyword.kwlist, *keyword.softkwlist)"
    )
    found = python and subprocess.run([python, "-c", script], capture_output=True, text=True)
    if not found or found.returncode:
        pytest.skip(f"there is no Python {version} here")
    names = {name for name in found.stdout.split() if re.fullmatch(r"[a-z][a-z0-9_]*", name)}
    assert len(names) > 150
    assert names - set(CONFIG["taken_names"]["default"].split()) == set()
