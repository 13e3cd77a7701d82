"""Types, strictly: of the projects, and of the job that their README shows."""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Render
from matrix import ENGINE_SETS
from rendering import IGNORED, PATTERNS, ROOT, SETS, command, name_of

#: How often `Any` may stand in `sharing/`. It goes down only.
MOST = 79


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy learnt from one project of the libraries that all of them use."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.parametrize("patterns", SETS, ids=name_of)
def test_mypy_has_nothing_to_say(fresh: Render, known: Path, patterns: tuple[str, ...]) -> None:
    project = fresh(patterns=list(patterns))
    example = example_of(project / "README.md")
    (project / "src/my_service/jobs/measure.py").write_text(example, "utf-8")
    output = command(sys.executable, "-m", "mypy", "--cache-dir", known, cwd=project)
    assert re.search(r"^Success: no issues found in \d{2,} source files$", output, re.MULTILINE)


def test_mypy_has_nothing_to_say_of_the_suite_of_chaos(fresh: Render, known: Path) -> None:
    project = fresh(patterns=list(PATTERNS))
    shutil.copytree(ROOT / "tests/chaos", project / "tests/chaos", ignore=IGNORED)
    mypy = (sys.executable, "-m", "mypy", "--cache-dir", known, "tests")
    output = command(*mypy, cwd=project, MYPYPATH="tests/chaos")
    assert output.startswith("Success: no issues found in ")


@pytest.mark.parametrize(
    ("engines", "patterns"),
    # An engine is the same file with every pattern: one each will do, and all together.
    [(ENGINE_SETS[-1], SETS[-1]), *((engines, SETS[0]) for engines in ENGINE_SETS[1:-1])],
    ids=name_of,
)
def test_mypy_has_nothing_to_say_of_engines(
    fresh: Render, known: Path, engines: tuple[str, ...], patterns: tuple[str, ...]
) -> None:
    project = fresh(patterns=list(patterns), engines=list(engines))
    output = command(sys.executable, "-m", "mypy", "--cache-dir", known, cwd=project)
    assert re.search(r"^Success: no issues found in \d{2,} source files$", output, re.MULTILINE)


def test_a_mistake_is_seen(fresh: Render, known: Path) -> None:
    project = fresh(patterns=["counter"])
    example = example_of(project / "README.md").replace("words.add()", 'words.add("one")')
    (project / "src/my_service/jobs/measure.py").write_text(example, "utf-8")
    with pytest.raises(AssertionError, match=r'measure\.py:\d+: error: .*"str".*"SupportsIndex"'):
        command(sys.executable, "-m", "mypy", "--cache-dir", known, cwd=project)


@pytest.mark.parametrize("patterns", SETS, ids=name_of)
def test_the_job_of_the_readme_runs(fresh: Render, patterns: tuple[str, ...]) -> None:
    project = fresh(patterns=list(patterns))
    example = example_of(project / "README.md")
    (project / "src/my_service/jobs/measure.py").write_text(example, "utf-8")
    output = command(
        *(
            sys.executable,
            "-m",
            "my_service",
            "measure",
            "one",
            "three",
            "--workers",
            "2",
            "--json",
        ),
        cwd=project,
        PYTHONPATH=os.pathsep.join((str(project / "src"), os.environ.get("PYTHONPATH", ""))),
    )
    assert '"lengths": [3, 5]' in output or '"lengths":[3,5]' in output


def example_of(readme: Path) -> str:
    text = readme.read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 1
    return str(examples[0])


def any_in(source: str) -> int:
    """Count where a type is left open, imports apart."""
    return sum(
        isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(source))
    )


def test_a_type_is_rarely_left_open() -> None:
    """`Any` is for what has no types (dask, ray), and for what goes through a pipe or a service."""
    sharing = ROOT / "template/src/{{ package_name }}/sharing"
    found = {path: any_in(path.read_text("utf-8")) for path in sharing.rglob("*.py")}
    assert any_in("import typing\nfrom typing import Any\nx: Any = list[Any]\ny = 'Any'") == 2
    assert len(found) > 40
    assert sum(found.values()) <= MOST
