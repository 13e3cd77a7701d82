"""The two commands of the README: they are what CI runs, and they run."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from rendering import ROOT, command, take_snapshot
from updating import commit

COMMANDS = re.findall(r"^```sh\n(.*)\n```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_there_are_two_commands_of_one_line() -> None:
    assert len(COMMANDS) == 2
    assert not any("\n" in one for one in COMMANDS)


def test_ci_runs_the_second_one() -> None:
    script = ROOT / ".ci/run"
    assert script.read_text("utf-8").splitlines()[-1] == COMMANDS[1]
    assert os.access(script, os.X_OK)


def test_nobody_needs_trust() -> None:
    assert not any("trust" in one.lower() for one in COMMANDS)


def test_the_picture_is_there() -> None:
    (picture,) = re.findall(
        r"^!\[.*\]\((.*)\)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    text = (ROOT / picture).read_text("utf-8")
    assert text.startswith("<svg")
    for part in ("crunch-logs", "enrich-orders", "standardize", "post-transfers"):
        assert part in text


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What writes the numbers."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("peers.readme")


def test_its_numbers_are_those_of_the_page_on_performance(numbers: ModuleType) -> None:
    readme, page = (path.read_text("utf-8") for path in (numbers.README, numbers.PAGE))
    anew = numbers.with_numbers(readme, page)
    assert readme == anew, "write them anew: python docs/peers/readme.py"


def test_numbers_that_were_measured_anew_are_taken_over(numbers: ModuleType) -> None:
    readme, page = (path.read_text("utf-8") for path in (numbers.README, numbers.PAGE))
    row = "| counters: Counter.add(1), as fast as Value with its lock | at least 20.0× |"
    assert row in page
    changed = numbers.with_numbers(readme, page.replace(row, f"{row} 1,234.6× | met |\n"))
    assert re.search(r"an\s+add\s+1,235\s+times\s+as\s+fast\s+as\s+`Value`", changed)
    with pytest.raises(ValueError, match="has no target"):
        numbers.with_numbers(readme, page.replace(row, ""))
    with pytest.raises(ValueError, match="0 times, not once"):
        numbers.with_numbers(readme.replace("`Value`", "`Array`"), page)


def test_local_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.timeout(1000)
def test_the_first_one_shows_a_demo_in_a_fresh_clone(tmp_path: Path) -> None:
    """Nothing of this machine's user helps: HOME is empty, and PATH holds git and Python."""
    origin = take_snapshot(tmp_path / "origin")
    for name in ("README.md", ".gitignore"):
        shutil.copy2(ROOT / name, origin)
    commit(origin)
    clone, home, tools = tmp_path / "clone", tmp_path / "home", tmp_path / "tools"
    command("git", "clone", "--quiet", origin, clone)
    home.mkdir()
    tools.mkdir()
    base = Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}")
    (tools / "python3").symlink_to(base)
    done = subprocess.run(
        ["/bin/sh", "-c", COMMANDS[0]],
        cwd=clone,
        env={"HOME": str(home), "PATH": f"{tools}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=980,
    )
    assert done.returncode == 0, done.stdout
    for job in ("crunch-logs", "enrich-orders", "standardize", "post-transfers"):
        assert f"my-service {job}" in done.stdout
    assert (clone / "my-service/src/my_service").is_dir()
    assert command("git", "status", "--porcelain", cwd=clone) == ""
