"""Each variant rendered and looked at; those that the matrix chooses installed and tested."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Render
from matrix import (
    CONFIG,
    PATTERNS,
    PYTHONS,
    TEMPLATE,
    TEXT_QUESTIONS,
    TEXTS,
    Variant,
    name_of,
    rendered_variants,
    run_variants,
    untested,
)
from rendering import command, install
from test_rendered import check_syntax, expected

HERE = "{}.{}".format(*sys.version_info)
#: Names that would go wrong if a file were found by its name alone, or a word by itself.
PACKAGES = {"plain": "my_service", "quotes": "cache_tools", "letters": "locks"}
START_METHODS = ("spawn", "forkserver", "fork")
#: The tests of what an engine does by itself, whatever is shared, in an order in which neighbours
#: take about as long: see `part_of_tests`.
ENGINE_TESTS = (
    *("children", "closed", "interrupts", "threads"),
    *("starts", "salvage", "driven_by_itself", "verdict"),
    *("items_end", "scheduler", "bounds", "processes"),
)
#: The tests of one pattern, which find the same whatever else there is.
PATTERN_TESTS = {
    "counter": ("counter", "counter_log"),
    "cache": ("cache",),
    "arrays": ("arrays",),
    "locks": ("locks",),
}
#: Made up for the scheduler in the project that runs everything.
EVENTS = 1_000_000
Count = Callable[[str, object], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take the variants of one set, or all; the longest first, so that none is left at the end."""
    if "variant" not in metafunc.fixturenames:
        return
    chosen, full = (metafunc.config.getoption(name) for name in ("variant", "full"))
    ran = metafunc.function is test_its_own_tests_pass
    variants = list(run_variants(full or HERE) if ran else rendered_variants())
    variants = [one for one in variants if one.python in {HERE, None}]
    variants = [one for one in variants if chosen in {"", name_of(one.patterns)}]
    if not variants:
        raise pytest.UsageError(f"There is no variant {chosen!r} for Python {HERE}.")
    variants.sort(key=lambda one: len(one.patterns), reverse=True)
    metafunc.parametrize("variant", variants, ids=str)


def test_each_choice_has_a_test() -> None:
    assert untested(CONFIG) == []


@pytest.mark.parametrize(
    ("question", "change", "named"),
    [
        ("ci", {"choices": ["github", "gitlab", "none", "jenkins"]}, "ci=jenkins"),
        ("ci", {"choices": ["github", "gitlab"]}, "ci=none"),
        ("all_pythons", {"default": [*PYTHONS, "3.15"]}, "python_min=3.15"),
        (
            "pattern_table",
            {"default": {**CONFIG["pattern_table"]["default"], "queue": {}}},
            "patterns=queue",
        ),
        ("license", {"type": "str", "choices": ["MIT"]}, "license=MIT"),
        ("motto", {"type": "str"}, "motto"),
    ],
)
def test_a_choice_without_a_test_is_named(
    question: str, change: dict[str, object], named: str
) -> None:
    assert untested(CONFIG | {question: CONFIG.get(question, {}) | change}) == [named]


def test_each_two_values_meet() -> None:
    for full in PYTHONS:
        variants = run_variants(full)
        assert len(variants) <= 40
        sets = {one.patterns for one in variants if one.python == full}
        assert len(sets) == 15
        met = {
            (ci, docker, text)
            for one in variants
            for ci, docker, text in [[dict(one.others)[key] for key in ("ci", "docker", "text")]]
        }
        assert {(ci, docker) for ci, docker, _ in met} == {
            (ci, docker) for ci in CONFIG["ci"]["choices"].values() for docker in (True, False)
        }
        assert {(ci, text) for ci, _, text in met} == {
            (ci, text) for ci in CONFIG["ci"]["choices"].values() for text in TEXTS
        }


def ignored(variant: Variant, full: str) -> set[str]:
    """Return the names of the files of tests that are left out there."""
    found = (re.fullmatch(r"--ignore=(.*)", part) for part in part_of_tests(variant, full))
    paths = [match[1] for match in found if match]
    assert [path for path in paths if not (TEMPLATE / path).is_file()] == []
    return {Path(path).stem.removeprefix("test_") for path in paths}


def test_each_file_of_tests_runs_where_it_finds_something() -> None:
    for full in PYTHONS:
        ran = {variant: ignored(variant, full) for variant in run_variants(full)}
        for test in (*ENGINE_TESTS, "chaos"):
            there = [variant for variant in ran if test not in ran[variant]]
            assert {one.python for one in there} >= (set(PYTHONS) if test != "chaos" else {full})
            here = [set(one.patterns) for one in there if one.python == full]
            assert set(PATTERNS) in here
            for pattern in PATTERNS:
                assert any(pattern not in patterns for patterns in here), (test, pattern)
        for pattern, tests in PATTERN_TESTS.items():
            there = [one for one in ran if pattern in one.patterns and ran[one].isdisjoint(tests)]
            assert {one.python for one in there} == set(PYTHONS)
            sizes = [len(one.patterns) for one in there if one.python == full]
            # Alone, with all, and with some others.
            assert {1, len(PATTERNS)} < set(sizes), pattern
        of_patterns = {test for tests in PATTERN_TESTS.values() for test in tests}
        assert set().union(*ran.values()) == {*ENGINE_TESTS, "chaos", *of_patterns}


def test_it_is_as_the_answers_say(
    fresh: Render, template: Path, record_property: Count, variant: Variant
) -> None:
    others = dict(variant.others)
    project = fresh(package_name="my_service", **variant.answers)
    check_syntax(template, project, typed=others["text"] != "plain")
    assert {
        str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()
    } == expected(
        template, variant.patterns, str(others["ci"]), bool(others["docker"]), variant.engines
    )
    command(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=project)
    command(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=project)

    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    versions = PYTHONS[PYTHONS.index(str(others["python_min"])) :]
    assert settings["requires-python"] == f">={versions[0]}"
    kept = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    text = TEXTS[str(others["text"])]
    assert not text or all(kept[name] == text for name in TEXT_QUESTIONS)
    if others["ci"] == "github":
        flow = yaml.safe_load((project / ".github/workflows/ci.yml").read_text("utf-8"))
        assert flow["jobs"]["tests"]["strategy"]["matrix"]["python"] == versions
    if others["ci"] == "gitlab":
        flow = yaml.safe_load((project / ".gitlab-ci.yml").read_text("utf-8"))
        assert flow["tests"]["parallel"]["matrix"] == [{"PYTHON": versions}]
    if others["docker"]:
        service = yaml.safe_load((project / "compose.yaml").read_text("utf-8"))["services"]["app"]
        assert service["init"] is True
        assert service["shm_size"] == ("2gb" if "arrays" in variant.patterns else "128mb")
        assert "USER app" in (project / "Dockerfile").read_text("utf-8")
    record_property("variant", "rendered")


@pytest.mark.timeout(1000)
def test_its_own_tests_pass(
    pytestconfig: pytest.Config,
    fresh: Render,
    tmp_path: Path,
    record_property: Count,
    variant: Variant,
) -> None:
    patterns = variant.patterns
    project = fresh(package_name=PACKAGES[str(dict(variant.others)["text"])], **variant.answers)
    record_property("variant", "run")
    environment = install(project, tmp_path / "installed")
    if "arrays" not in patterns:
        environment["PYTHONPATH"] += os.pathsep + str(without_numpy(tmp_path / "without"))
    # Short, since a socket's path must be; its own, since others run beside it.
    temporary = tempfile.mkdtemp(prefix="v")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *part_of_tests(variant, pytestconfig.getoption("full") or HERE),
        ],
        cwd=project,
        env=os.environ | environment | {"TMPDIR": temporary},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=980,
    )
    shutil.rmtree(temporary)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"^(\d+) passed.*", done.stdout, re.MULTILINE)
    assert passed, done.stdout
    assert int(passed[1]) >= 30
    assert not re.search(r"\d+ (failed|error|xpassed)", passed[0])
    record_property("counted", f"{variant}: {passed[0]}")
    record_property("variant", "passed")


def part_of_tests(variant: Variant, full: str) -> list[str]:
    """Say what is left out where it finds no more than in a project of all patterns.

    That one runs everything. The others take turns with the start methods, and leave out the
    faults on purpose; of two or three patterns at once, the storm, too. What an engine does by
    itself is the same in each project, so its tests run in two that have one pattern, of which
    at least one misses whatever a test might need. On every other Python, the largest set has
    them, under one start method. The tests of a pattern run where it is alone, with all others,
    and with the one behind it.
    """
    if len(variant.patterns) == len(PATTERNS):
        return [f"--events={EVENTS}"]
    beside = [one for one in run_variants(full) if one.python == variant.python]
    method = START_METHODS[beside.index(variant) % len(START_METHODS)]
    options = [f"--start-method={method}", "-k", "not goes_red"]
    out = set() if len(variant.patterns) == 1 else {"chaos"}
    names = list(PATTERNS)
    if variant.python != full:
        largest = max(beside, key=lambda one: len(one.patterns))
        out |= set() if variant == largest else set(ENGINE_TESTS)
    else:
        for place, name in enumerate(names):
            pair = {name, names[(place + 1) % len(names)]}
            if name in variant.patterns and not set(variant.patterns) <= pair:
                out |= set(PATTERN_TESTS[name])
        out |= {
            test
            for place, test in enumerate(ENGINE_TESTS)
            if variant.patterns not in {(names[(place + n) % len(names)],) for n in range(2)}
        }
    return [*options, *(f"--ignore=tests/sharing/test_{name}.py" for name in sorted(out))]


def without_numpy(folder: Path) -> Path:
    """Make a folder that turns any import of numpy into an error, in workers too."""
    (folder / "numpy").mkdir(parents=True)
    (folder / "numpy/__init__.py").write_text('raise ImportError("this project has no arrays")\n')
    return folder
