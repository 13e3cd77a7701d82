"""Projects installed as wheels and used as their users would: by the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Render
from rendering import PATTERNS, SETS, command, files_in, install, name_of

SOME = [chosen for chosen in SETS if len(chosen) in {1, len(PATTERNS)}]


@pytest.mark.parametrize("patterns", SOME, ids=name_of)
def test_the_demo_runs_every_job_of_the_project(
    rendered: Render, tmp_path: Path, patterns: tuple[str, ...]
) -> None:
    environment = install(rendered(patterns=list(patterns)), tmp_path / "site")
    output = command("my-service", "demo", cwd=tmp_path, **environment)
    help_ = command("my-service", "--help", cwd=tmp_path, **environment)
    for name, pattern in PATTERNS.items():
        job = pattern["job"].replace("_", "-")
        assert (f"my-service {job}" in output) == (name in patterns)
        assert (job in help_) == (name in patterns)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_wheel_holds_the_package_and_nothing_else(rendered: Render, tmp_path: Path) -> None:
    project = rendered(patterns=list(PATTERNS))
    install(project, tmp_path / "site")
    package = {
        str(path.relative_to(project / "src"))
        for path in files_in(project / "src")
        if path.suffix != ".pyc"
    }
    assert "my_service/py.typed" in package
    assert package == {
        str(path.relative_to(tmp_path / "site"))
        for path in files_in(tmp_path / "site/my_service")
        if path.suffix != ".pyc"
    }
    assert {path.name for path in (tmp_path / "site").iterdir()} == {
        "bin",
        "my_service",
        "my_service-0.1.0.dist-info",
    }


@pytest.mark.parametrize("start", [("my-service",), (sys.executable, "-m", "my_service")])
def test_both_ways_to_start_do_the_same(
    rendered: Render, tmp_path: Path, start: tuple[str, ...]
) -> None:
    environment = install(rendered(patterns=["counter"]), tmp_path / "site")
    log = tmp_path / "access.log"
    log.write_text('1.2.3.4 - - [01/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 12\nno line\n')
    report = json.loads(command(*start, "crunch-logs", log, "--json", cwd=tmp_path, **environment))
    assert (report["lines"], report["bad_lines"], report["bytes"]) == (2, 1, 12)
    assert report["status"]["2xx"] == 1

    done = subprocess.run(
        [*start, "crunch-logs", tmp_path / "missing.log"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("my-service: ")
    assert done.stderr.count("\n") == 1
    assert "missing.log" in done.stderr
