import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rendering import render, take_snapshot
from updating import GIT, Workshop, make_versions

Render = Callable[..., Path]


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Copier reads, as it was when the tests began."""
    return take_snapshot(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="session")
def template(snapshot: Path) -> Path:
    """The part of the snapshot that is rendered."""
    return snapshot / "template"


@pytest.fixture(scope="session", autouse=True)
def no_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The answers that a developer's own Copier settings would change stay out."""
    settings = tmp_path_factory.mktemp("settings") / "settings.yml"
    settings.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPIER_SETTINGS_PATH", str(settings))
        yield


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Render:
    """Render a project to read, or return the one that these answers gave before."""
    known: dict[str, Path] = {}

    def rendered(**answers: object) -> Path:
        key = repr(sorted(answers.items()))
        if key not in known:
            known[key] = render(snapshot, tmp_path_factory.mktemp("project"), **answers)
        return known[key]

    return rendered


@pytest.fixture
def fresh(tmp_path: Path, snapshot: Path) -> Render:
    """Render a project that the test may change."""

    def fresh(name: str = "project", **answers: object) -> Path:
        return render(snapshot, tmp_path / name, **answers)

    return fresh


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Workshop]:
    """Two versions of the template, and projects of them to update."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in GIT.items():
            patch.setenv(name, value)
        versions = make_versions(snapshot, tmp_path_factory.mktemp("versions") / "template")
        yield Workshop(versions, tmp_path_factory.mktemp("workshop"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--variant", default="", help="only this set of patterns: counter+locks")
    parser.addoption("--engine", default="", help="only this engine, with all patterns: joblib")
    parser.addoption("--every", action="store_true", help="each engine with each pattern")
    parser.addoption("--full", default="", help="the Python that runs all sets; this one")
    parser.addoption("--count", type=Path, help="where to write how many variants came through")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests counted: with xdist, what they print stays in its workers."""
    sums = {"updates": 0, "lost by copier": 0}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "counted":
                terminalreporter.write_line(str(value))
            elif name in sums:
                sums[name] += value
    if any(sums.values()) and not terminalreporter.getreports("failed"):
        terminalreporter.write_line(
            f"{sums['updates']} updates of edited projects, 0 edits lost; "
            f"{sums['lost by copier']} in a part of them by copier update alone"
        )
    say_what_was_refused(terminalreporter)
    count_variants(terminalreporter)


def say_what_was_refused(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the hostile answers by how they ended."""
    ends: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            ends.update(str(value) for name, value in report.user_properties if name == "hostile")
    if ends:
        terminalreporter.write_line(
            f"hostile answers: {ends.total()} tried, {ends['refused']} refused, "
            f"{ends['generated']} generated" + (f", {ends['bad']} bad" if ends["bad"] else "")
        )


def count_variants(terminalreporter: pytest.TerminalReporter) -> None:
    """Write how many were rendered, run and passed, for the noxfile to add up."""
    target = terminalreporter.config.getoption("count")
    if target:
        counts = dict.fromkeys(("rendered", "run", "passed"), 0)
        for outcome in ("passed", "failed"):
            for report in terminalreporter.getreports(outcome):
                for name, value in report.user_properties:
                    if name == "variant":
                        counts[str(value)] += 1
        target.write_text(json.dumps(counts))
