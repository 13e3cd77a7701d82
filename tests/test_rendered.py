"""Every set of patterns, rendered and looked at."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Render
from matrix import BRINGS, ENGINE_SETS
from rendering import ENGINES, PATTERNS, SETS, command, files_in, name_of, parse

#: Plain words that are no names of ours.
ENGLISH = re.compile(
    r"threading\.Lock\b|functools\.cache\b|collections\.Counter\b|\bcache lines?\b|\bcore's cache\b"
)
#: What looks for the patterns that a project has, by their names, and does without the others.
LOOKING = {
    "src/my_service/sharing/machine/lifeline.py",
    "tests/sharing/children_jobs.py",
    "tests/sharing/driven_jobs.py",
    "tests/sharing/needs.py",
    "tests/sharing/test_children.py",
    "tests/sharing/test_driven_by_itself.py",
    "tests/sharing/test_interrupts.py",
    "tests/sharing/test_salvage.py",
    "tests/sharing/test_starts.py",
}
every_set = pytest.mark.parametrize("patterns", SETS, ids=name_of)


def files_of(template: Path, pattern: str) -> set[str]:
    job = PATTERNS[pattern]["job"]
    return {
        f"src/my_service/sharing/patterns/{pattern}.py",
        f"src/my_service/jobs/{job}.py",
        f"tests/sharing/test_{pattern}.py",
        *(
            f"tests/sharing/{path.name.removesuffix('.jinja')}"
            for kind in ("{}_*.py*", "test_{}_*.py")
            for path in (template / "tests/sharing").glob(kind.format(pattern))
        ),
        f"tests/jobs/test_{job}.py",
        f"src/my_service/bench/{pattern}.py",
        f"benchmarks/bench_{pattern}.py",
    }


def files_of_engine(template: Path, engine: str) -> set[str]:
    folder = template / f"src/{{{{ package_name }}}}/sharing/engines/{engine}"
    return {
        f"src/my_service/sharing/engines/{engine}/{path.name}" for path in folder.glob("*.py")
    } | {
        f"tests/sharing/{path.name}"
        for kind in ("{}_*.py", "test_{}.py")
        for path in (template / "tests/sharing").glob(kind.format(engine))
    }


def files_of_any_engine(template: Path) -> set[str]:
    """Return what comes with the first engine beside `processes`."""
    tests = template / "tests/sharing"
    found = {*tests.glob("*_remote*.py*"), *tests.glob("remote_*.py")}
    names = {path.name.removesuffix(".jinja") for path in found}
    return {
        "src/my_service/sharing/engines/remote.py",
        *(f"tests/sharing/{name}" for name in names),
    }


def all_files(template: Path) -> Iterator[str]:
    for path in template.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(template)).removesuffix(".jinja")
            name = name.replace("{{ package_name }}", "my_service")
            yield name.replace("{{_copier_conf.answers_file}}", ".copier-answers.yml")


def expected(
    template: Path,
    patterns: tuple[str, ...],
    ci: str = "github",
    docker: bool = False,
    engines: tuple[str, ...] = (),
) -> set[str]:
    unchosen = set().union(*(files_of(template, name) for name in PATTERNS if name not in patterns))
    unchosen |= set().union(*(files for name, files in BRINGS["ci"].items() if name != ci))
    unchosen |= set().union(
        *(files_of_engine(template, name) for name in ENGINES if name not in engines)
    )
    if not engines:
        unchosen |= files_of_any_engine(template)
    if not engines or "locks" not in patterns:
        unchosen |= {"src/my_service/sharing/machine/leases.py", "tests/sharing/test_leases.py"}
    return set(all_files(template)) - unchosen - (set() if docker else BRINGS["docker"][True])


def names_of(template: Path, pattern: str) -> set[str]:
    """Return the words that only a project with this pattern may hold."""
    job = PATTERNS[pattern]["job"]
    module = template / f"src/{{{{ package_name }}}}/sharing/patterns/{pattern}.py"
    public = {
        node.name
        for node in ast.parse(module.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    names = {pattern, PATTERNS[pattern]["class"], job, job.replace("_", "-"), *public}
    names |= {f"test_{pattern}", f"test_{job}", f"bench_{pattern}"}
    return names | ({"numpy", "np", "npy", "ndarray"} if pattern == "arrays" else set())


def check_syntax(template: Path, project: Path, typed: bool = False) -> None:
    """Every file parses as what its name says, and holds nothing of the template's language.

    Where texts were typed, the files that carry them hold what they hold.
    """
    carriers = {".copier-answers.yml", "pyproject.toml", "README.md"} if typed else set()
    for path in files_in(project):
        text = path.read_text("utf-8")
        source = template / str(path.relative_to(project)).replace(
            "my_service", "{{ package_name }}"
        )
        if path.name in carriers:
            pass
        elif source.is_file():
            assert text == source.read_text("utf-8")
        else:
            left = re.sub(r"\$\{\{ [a-z_.]+ \}\}", "", text)
            assert not re.search(r"{{|}}|{%|%}|{#|#}", left), path
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert "\n\n\n\n" not in text, path
        assert not re.search(r"[ \t]\n", text), path
        parse(path)
    empty = [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert empty == []


@every_set
def test_a_set_brings_its_files_and_no_others(
    rendered: Render, template: Path, patterns: tuple[str, ...]
) -> None:
    project = rendered(patterns=list(patterns))
    assert {str(path.relative_to(project)) for path in files_in(project)} == expected(
        template, patterns
    )


@every_set
def test_every_file_is_valid(rendered: Render, template: Path, patterns: tuple[str, ...]) -> None:
    check_syntax(template, rendered(patterns=list(patterns)))


def names_of_engine(engine: str) -> set[str]:
    """Return the words that only a project with this engine may hold."""
    needs = {re.split(r"[^\w-]", need)[0] for need in ENGINES[engine]["needs"]}
    return {engine, *needs} - {"cloudpickle"}


@pytest.mark.parametrize("engines", ENGINE_SETS, ids=name_of)
@pytest.mark.parametrize("patterns", [SETS[0], SETS[3], SETS[-1]], ids=name_of)
def test_no_unchosen_engine_is_left(
    rendered: Render, patterns: tuple[str, ...], engines: tuple[str, ...]
) -> None:
    project = rendered(patterns=list(patterns), engines=list(engines))
    unchosen = set().union(*(names_of_engine(name) for name in ENGINES if name not in engines))
    if not engines:
        unchosen |= {"cloudpickle", "RemoteHost", "LeaseStore"}
    assert words_in(project, unchosen) == []


@every_set
def test_no_unchosen_name_is_left(
    rendered: Render, template: Path, patterns: tuple[str, ...]
) -> None:
    project = rendered(patterns=list(patterns), engines=list(ENGINES))
    unchosen = set().union(*(names_of(template, name) for name in PATTERNS if name not in patterns))
    unchosen -= set().union(*(names_of(template, name) for name in patterns))
    found = words_in(project, unchosen)
    assert [line for line in found if line.partition(":")[0] not in LOOKING] == []


def words_in(project: Path, words: set[str]) -> list[str]:
    """Return the lines in which one of these stands by itself."""
    word = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})(?![\w-])")
    return [
        f"{path.relative_to(project)}:{number}: {line.strip()}"
        for path in files_in(project)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if words and word.search(ENGLISH.sub("", line))
    ]


@every_set
def test_ruff_has_nothing_to_say(
    rendered: Render, template: Path, patterns: tuple[str, ...]
) -> None:
    project = rendered(patterns=list(patterns))
    command(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=project)
    command(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=project)


@every_set
def test_only_arrays_need_numpy(
    rendered: Render, template: Path, patterns: tuple[str, ...]
) -> None:
    project = rendered(patterns=list(patterns))
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    names = {re.split(r"[^\w-]", one)[0] for one in settings["project"]["dependencies"]}
    assert names == {"rich", "typer"} | ({"numpy"} if "arrays" in patterns else set())


def test_the_message_says_what_to_type(snapshot: Path, tmp_path: Path) -> None:
    project = tmp_path / "a b"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "copier", "copy", "--defaults", "-d", "project_name=Sum it"),
            *("-d", "patterns=[cache, locks]", "-d", "docker=yes", snapshot, project),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    message = done.stderr.rpartition(" is in ")[2]
    assert f"cd '{project}'\n" in message
    assert ".venv/bin/sum-it demo\n" in message
    assert "  src/sum_it/jobs/enrich_orders.py\n  src/sum_it/jobs/post_transfers.py\n" in message
    assert "docker compose run" in message
    assert "crunch" not in message
