"""Rules for the template's own tree, which keep it plain and every path checkable."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rendering import CONFIG, ENGINES, IGNORED, PATTERNS, PYTHONS, TEMPLATE

SHARING = TEMPLATE / "src/{{ package_name }}/sharing"
JOBS = TEMPLATE / "src/{{ package_name }}/jobs"
BENCH = TEMPLATE / "src/{{ package_name }}/bench"
#: What every project has, whatever it shares.
CORE = {
    "__init__.py.jinja",
    "chosen.py.jinja",
    "driver.py",
    "engine.py",
    "errors.py",
    "limits.py",
    "owners.py",
    "pattern.py",
    "per_worker.py",
    "processes",
    "runs.py",
    "work.py",
}
#: What comes with engines beside `processes`.
APART = {"remote.py", "leases.py"}
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
    entries = {path.name for path in SHARING.iterdir()}
    entries -= IGNORED("", sorted(entries))
    assert entries == {*CORE, *APART, *ENGINES, *(f"{name}.py" for name in PATTERNS)}


def test_each_pattern_has_all_of_its_files() -> None:
    for name, pattern in PATTERNS.items():
        for path in (
            SHARING / f"{name}.py",
            JOBS / f"{pattern['job']}.py",
            TEMPLATE / f"tests/test_{name}.py",
            TEMPLATE / f"tests/jobs/test_{pattern['job']}.py.jinja",
            BENCH / f"{name}.py",
            TEMPLATE / f"benchmarks/bench_{name}.py",
        ):
            assert path.is_file(), path
        assert pattern["class"] in {
            node.name
            for node in ast.parse((SHARING / f"{name}.py").read_text("utf-8")).body
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
