"""The commands that update a project: what they say, what they end with, what they leave alone."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rendering import ROOT
from updating import (
    MOVED,
    NEW,
    REMOVED,
    SECOND,
    Workshop,
    add_line,
    commit,
    git,
    replace,
    state,
    unmerged,
    update,
)

Capture = pytest.CaptureFixture[str]
DOCS = ROOT / "docs/updating.md"


def test_it_looks_for_a_newer_version(workshop: Workshop, capsys: Capture) -> None:
    project = workshop.made()
    before = state(project)
    assert workshop.update(project, "--check") == 2
    assert "has a newer version" in capsys.readouterr().out
    assert state(project) == before
    assert workshop.update(workshop.made(version="v2.0.0"), "--check") == 0
    assert "has nothing newer" in capsys.readouterr().out


def test_a_preview_changes_nothing_and_says_what_an_update_does(
    workshop: Workshop, capsys: Capture
) -> None:
    project = workshop.made()
    before = state(project)
    assert workshop.update(project, "--preview", "-d", "docker=yes") == 0
    preview = capsys.readouterr().out
    assert state(project) == before
    assert workshop.update(project, "-d", "docker=yes") == 0
    said = capsys.readouterr().out
    assert said.startswith(preview)
    assert "  answer    docker: True\n" in preview
    changed = git(project, "diff", "--cached", "--no-renames", "--name-status").splitlines()
    words = {"A": "new", "M": "changed", "D": "removed"}
    listed = {f"  {words[line[0]]:<9} {line[2:]}" for line in changed}
    package = "src/my_service"
    moved = f"  moved     {package}/{MOVED} to {package}/moved_{MOVED}"
    listed -= {f"  removed   {package}/{MOVED}", f"  new       {package}/moved_{MOVED}"}
    assert listed | {moved} == {
        line for line in preview.splitlines()[1:] if not line.startswith("  answer ")
    }
    assert {f"  new       {package}/{NEW}", f"  removed   {package}/{REMOVED}"} <= listed


def test_an_update_is_staged_and_git_takes_it_back(workshop: Workshop) -> None:
    project = workshop.made()
    before = state(project)
    assert workshop.update(project) == 0
    assert git(project, "diff") == ""
    assert SECOND in (project / "src/my_service/sharing/errors.py").read_text("utf-8")
    assert "_commit: v2.0.0" in (project / ".copier-answers.yml").read_text("utf-8")
    git(project, "reset", "--hard")
    assert state(project) == before


def test_after_an_update_there_is_nothing_left_to_do(workshop: Workshop, capsys: Capture) -> None:
    project = workshop.made()
    assert workshop.update(project) == 0
    commit(project)
    before = state(project)
    assert workshop.update(project) == 0
    assert "There is nothing to change." in capsys.readouterr().out
    assert state(project) == before


def test_conflicts_are_marked_and_can_not_be_committed(workshop: Workshop, capsys: Capture) -> None:
    """The control: what has to conflict does."""
    project = workshop.made()
    sharing = project / "src/my_service/sharing"
    add_line(sharing / "errors.py", "# Mine.", 0)
    add_line(sharing / "patterns/cache.py", "# Mine as well.")
    add_line(project / "src/my_service" / REMOVED, "# Mine, too.")
    (project / "src/my_service" / NEW).write_text("MINE = True\n")
    commit(project)
    assert workshop.update(project, "-d", "patterns=[counter, arrays, locks]") == 3
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert "conflict (4)" in said.err
    expected = {
        "sharing/errors.py": ("UU", "both changed it"),
        "sharing/patterns/cache.py": ("UD", "you changed it, the template has it no more"),
        REMOVED: ("UD", "you changed it, the template has it no more"),
        NEW: ("AA", "both added it"),
    }
    assert unmerged(project) == {
        f"src/my_service/{path}": one for path, (one, _) in expected.items()
    }
    for path, (_, reason) in expected.items():
        assert f"  conflict  src/my_service/{path}: {reason}\n" in said.out
    text = (sharing / "errors.py").read_text("utf-8")
    assert re.match(r"<<<<<<< .*\n# Mine\.\n=======\n# From.*\n>>>>>>> .*2\.0\.0\)\n", text)
    assert (sharing / "patterns/cache.py").read_text("utf-8").endswith("# Mine as well.\n")
    assert (project / "src/my_service" / REMOVED).read_text("utf-8").endswith("# Mine, too.\n")
    assert "MINE = True" in (project / "src/my_service" / NEW).read_text("utf-8")
    with pytest.raises(AssertionError, match="unmerged"):
        git(project, "commit", "--message", "Not yet")
    git(project, "rm", "--quiet", "src/my_service/sharing/patterns/cache.py")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "Settled")


def test_two_versions_of_one_dependency_conflict(workshop: Workshop) -> None:
    """The control: entries beside each other merge, the same entry doesn't."""
    project = workshop.made()
    replace(project / "pyproject.toml", r'^    "typer.*$', '    "typer==1",')
    commit(project)
    assert workshop.update(project) == 3
    assert unmerged(project) == {"pyproject.toml": "UU"}
    assert '    "typer==1",\n=======\n' in (project / "pyproject.toml").read_text("utf-8")


def test_lines_merge_whole_or_not_at_all() -> None:
    """Whatever two sides add, drop and replace: nothing is lost, and nothing comes back."""
    chance = random.Random(7)
    merged = 0

    def changed(lines: list[str], who: str) -> list[str]:
        result = []
        for number, line in enumerate(lines):
            what = chance.random()
            result += [f"{who}{number} added"] if what < 0.15 else []
            result += [] if what > 0.92 else [f"{who}{number} new"] if what > 0.85 else [line]
        return result + ([f"{who} at the end"] if chance.random() < 0.2 else [])

    for _ in range(2000):
        before = [f"line {number}" for number in range(chance.randrange(12))]
        mine, new = changed(before, "mine"), changed(before, "new")
        result = update.merge_lines(before, mine, new)
        if result is not None:
            merged += 1
            kept = set(before) & set(mine) & set(new)
            assert set(result) == kept | set(mine) - set(before) | set(new) - set(before)
            assert len(result) == len(set(result))
            for side in (mine, new):
                shared = [line for line in result if line in side]
                assert shared == [line for line in side if line in shared]
    assert 1000 < merged < 2000


def test_a_pattern_that_is_added_brings_its_starter_job(workshop: Workshop) -> None:
    project = workshop.made(patterns=["counter"])
    assert workshop.update(project, "-d", "patterns=[counter, cache]") == 0
    fresh = workshop.made(version="v2.0.0", patterns=["counter", "cache"])
    # The starter that was there before is the user's: it stays as the first version had it.
    old = {"src/my_service/jobs/__init__.py", "src/my_service/jobs/crunch_logs.py"}
    old |= {"tests/jobs/test_crunch_logs.py"}
    here, there = state(project), state(fresh)
    files = {name for name in there if "/" in name}
    assert {name for name in files if here.get(name) != there[name]} == old
    assert here.keys() == there.keys()


def test_a_starter_job_never_takes_the_place_of_a_job(workshop: Workshop) -> None:
    project = workshop.made(patterns=["counter"])
    mine = project / "src/my_service/jobs/enrich_orders.py"
    mine.write_text("# Mine.\n")
    commit(project)
    assert workshop.update(project, "-d", "patterns=[counter, cache]") == 0
    assert mine.read_text() == "# Mine.\n"
    assert not (project / "tests/jobs/test_enrich_orders.py").exists()
    assert (project / "src/my_service/sharing/patterns/cache.py").exists()


def test_a_job_that_was_deleted_stays_so(workshop: Workshop) -> None:
    project = workshop.made()
    for path in ("src/my_service/jobs/crunch_logs.py", "tests/jobs/test_crunch_logs.py"):
        (project / path).unlink()
    commit(project)
    assert workshop.update(project, "-d", "docker=yes") == 0
    assert not list(project.rglob("*crunch_logs*"))


def test_jobs_that_use_what_is_gone_are_named(workshop: Workshop, capsys: Capture) -> None:
    project = workshop.made(patterns=["counter", "locks"])
    jobs = project / "src/my_service/jobs"
    (jobs / "one.py").write_text("from ..sharing.patterns.locks import Lock\n")
    (jobs / "two.py").write_text("from .. import sharing\n\nsharing.Guarded\n")
    (jobs / "broken.py").write_text("from ..sharing import (\n")
    commit(project)
    before = {path: path.read_bytes() for path in jobs.glob("*.py")}
    assert workshop.update(project, "-d", "patterns=[counter]") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "yours" in line]
    where = "  yours     src/my_service/jobs"
    assert said[:3] == [
        f"{where}/one.py uses Lock, patterns.locks, which is gone",
        f"{where}/post_transfers.py uses Guarded, which is gone",
        f"{where}/two.py uses Guarded, which is gone",
    ]
    assert {path: path.read_bytes() for path in jobs.glob("*.py")} == before


def test_what_the_user_deleted_stays_deleted_and_is_named(
    workshop: Workshop, capsys: Capture
) -> None:
    project = workshop.made()
    (project / "tests/sharing/test_engine.py").unlink()
    commit(project)
    assert workshop.update(project) == 0
    assert "stays     tests/sharing/test_engine.py: deleted by you" in capsys.readouterr().out
    assert not (project / "tests/sharing/test_engine.py").exists()


@pytest.mark.parametrize("folder", ["service", "deep/in the/döpth"])
def test_a_project_in_a_larger_repository(
    workshop: Workshop, tmp_path: Path, folder: str, capsys: Capture
) -> None:
    """Its twin in the same repository, and what else is there, stay as they are."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "README.md").write_text("# All of it\n")
    project, twin = top / folder, top / "twin"
    for one in (project, twin):
        one.parent.mkdir(parents=True, exist_ok=True)
        workshop.made(one)
        shutil.rmtree(one / ".git")
    (project / "tests/sharing/test_engine.py").unlink()
    add_line(project / "src/my_service/sharing/patterns/cache.py", "# Mine.")
    add_line(project / "src/my_service" / MOVED, "# Mine moves along.")
    git(top, "init", "--quiet")
    commit(top)
    (top / "untracked").write_text("elsewhere in the repository")
    before = state(twin), state(top)["refs"]
    assert workshop.update(project, "-d", "patterns=[counter, arrays]") == 3
    assert (state(twin), state(top)["refs"]) == before
    assert (top / "README.md").read_text() == "# All of it\n"
    assert list(unmerged(top).values()) == ["UD"]
    moved = (project / f"src/my_service/moved_{MOVED}").read_text("utf-8")
    assert moved.endswith("# Mine moves along.\n")
    assert not (project / "src/my_service/sharing/patterns/locks.py").exists()
    assert not (project / "tests/sharing/test_engine.py").exists()
    assert f"conflict  {folder}/src/my_service/sharing/patterns/cache.py" in capsys.readouterr().out


def test_new_questions_and_answers_that_are_no_more(
    workshop: Workshop, tmp_path: Path, capsys: Capture
) -> None:
    """A version that asks for more and offers less gets defaults, and says so."""
    versions = Path(shutil.copytree(workshop.versions, tmp_path / "template"))
    replace(versions / "copier.yml", r'default: \["3.11", ', "default: [")
    with (versions / "copier.yml").open("a") as config:
        config.write("\nflavour:\n  type: str\n  default: plain\n")
    commit(versions, "v3.0.0")
    project = workshop.made()
    replace(project / ".copier-answers.yml", r"^_src_path: .*", f"_src_path: {versions}")
    commit(project)
    assert workshop.update(project) == 0
    said = capsys.readouterr().out
    assert "  answer    flavour: plain\n" in said
    assert "  answer    python_min: 3.12\n" in said
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert answers["python_min"] == "3.12"


def refuse_dirty(project: Path) -> list[str]:
    add_line(project / "README.md", "Not committed.")
    return []


def refuse_untracked(project: Path) -> list[str]:
    (project / "not added.txt").write_text("mine")
    return []


def refuse_no_answers(project: Path) -> list[str]:
    (project / ".copier-answers.yml").unlink()
    commit(project)
    return []


def refuse_broken_answers(project: Path) -> list[str]:
    (project / ".copier-answers.yml").write_text("{")
    commit(project)
    return []


def refuse_no_version(project: Path) -> list[str]:
    replace(project / ".copier-answers.yml", r"^_commit: .*\n", "")
    commit(project)
    return []


def refuse_ignored_answers(project: Path) -> list[str]:
    git(project, "rm", "--cached", "--quiet", ".copier-answers.yml")
    add_line(project / ".gitignore", ".copier-answers.yml")
    commit(project)
    return []


def refuse_no_repository(project: Path) -> list[str]:
    shutil.rmtree(project / ".git")
    return []


def refuse_no_commit(project: Path) -> list[str]:
    shutil.rmtree(project / ".git")
    git(project, "init", "--quiet")
    return []


def refuse_no_template(project: Path) -> list[str]:
    replace(project / ".copier-answers.yml", r"^_src_path: .*", "_src_path: /nowhere/at/all")
    commit(project)
    return []


def refuse_no_remote(project: Path) -> list[str]:
    where = "_src_path: file:///nowhere/template.git"
    replace(project / ".copier-answers.yml", r"^_src_path: .*", where)
    commit(project)
    return []


def refuse_lost_version(project: Path) -> list[str]:
    replace(project / ".copier-answers.yml", r"^_commit: .*", "_commit: v0.0.1")
    commit(project)
    return []


def refuse_ignored_in_the_way(project: Path) -> list[str]:
    add_line(project / ".gitignore", "/Dockerfile")
    commit(project)
    (project / "Dockerfile").write_text("# Mine, and ignored.\n")
    return ["-d", "docker=yes"]


def refuse_folder_in_the_way(project: Path) -> list[str]:
    (project / "Dockerfile").mkdir()
    (project / "Dockerfile/mine").write_text("mine")
    commit(project)
    return ["-d", "docker=yes"]


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a changed file": (refuse_dirty, "Commit or stash first: README.md is not as"),
    "a new file": (refuse_untracked, "Commit or stash first: not added.txt is not as"),
    "no answers": (refuse_no_answers, "There is no .copier-answers.yml"),
    "broken answers": (refuse_broken_answers, ".copier-answers.yml can't be read"),
    "no version": (refuse_no_version, ".copier-answers.yml lacks _src_path or _commit"),
    "ignored answers": (refuse_ignored_answers, "Commit the project first"),
    "no repository": (refuse_no_repository, "The project is in no git repository"),
    "no commit": (refuse_no_commit, "Commit the project first"),
    "no template": (refuse_no_template, "The template /nowhere/at/all can't be rendered: "),
    "no remote": (refuse_no_remote, "The template file:///nowhere/template.git can't be rendered"),
    "a lost version": (refuse_lost_version, "can't be rendered: Unknown revision: 'v0.0.1'"),
    "an ignored file in the way": (refuse_ignored_in_the_way, "Dockerfile is in the way, and git"),
    "a folder in the way": (refuse_folder_in_the_way, "Dockerfile is in the way of the"),
}
ARGUMENTS = {
    "-d package_name=other": "package_name can't be changed",
    "-d package_name=json": "An answer was refused: Choose another name",
    "-d patterns=[]": "An answer was refused: Choose at least one",
    "-d patterns=counter": "An answer was refused: Write patterns as a list",
    "-d patterns=[queue]": "Invalid choice",
    "-d ci=jenkins": "Invalid choice",
    "-d author_email=nobody": "An answer was refused: Type an address",
    "-d engine=dask": "The template has no question engine",
    "-d taken_names=a": "An answer was refused: This is a part of the template",
    "-d pattern_table={}": "An answer was refused: This is a part of the template",
    "-d _commit=v9": "The template has no question _commit",
    "-d docker": "'docker' is not NAME=VALUE",
    "-d": "expected one argument",
    "--vcs-ref nowhere": "can't be rendered: Unknown revision: 'nowhere'",
    "--force": "unrecognized arguments: --force",
    "now": "unrecognized arguments: now",
}


def refused(workshop: Workshop, project: Path, arguments: list[str], capfd: Capture) -> str:
    before = state(project)
    capfd.readouterr()
    assert workshop.update(project, *arguments) == 1
    assert state(project) == before
    said = capfd.readouterr().err
    assert re.fullmatch(r"update: .+\n", said), said
    return said


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_against_an_update_is_one_line(
    workshop: Workshop, name: str, capfd: Capture
) -> None:
    project = workshop.made(ci="none")
    prepare, reason = REFUSED[name]
    assert reason in refused(workshop, project, prepare(project), capfd)


def test_a_look_for_a_newer_version_needs_the_template(workshop: Workshop, capfd: Capture) -> None:
    project = workshop.made()
    refuse_no_remote(project)
    said = refused(workshop, project, ["--check"], capfd)
    assert "The template file:///nowhere/template.git can't be reached: fatal: " in said


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_what_can_not_be_asked_for_is_one_line(
    workshop: Workshop, arguments: str, capfd: Capture
) -> None:
    said = refused(workshop, workshop.made(), arguments.split(), capfd)
    assert ARGUMENTS[arguments] in said


def test_an_older_version_is_refused(workshop: Workshop, tmp_path: Path, capfd: Capture) -> None:
    versions = Path(shutil.copytree(workshop.versions, tmp_path / "template"))
    (versions / "later").write_text("later")
    commit(versions)
    project = workshop.made()
    later = git(versions, "describe", "--tags").strip()
    assert re.fullmatch(r"v2\.0\.0-1-g\w+", later)
    replace(project / ".copier-answers.yml", r"^_src_path: .*", f"_src_path: {versions}")
    replace(project / ".copier-answers.yml", r"^_commit: .*", f"_commit: {later}")
    commit(project)
    said = refused(workshop, project, [], capfd)
    assert f"The newest version, v2.0.0, is older than {later}" in said
    assert workshop.update(project, "--vcs-ref", ":current:", "-d", "docker=yes") == 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_during_the_preview_leaves_nothing(
    workshop: Workshop, tmp_path: Path, stop: signal.Signals
) -> None:
    project = workshop.made()
    before = state(project)
    (tmp_path / "tmp").mkdir()
    run = subprocess.Popen(
        [sys.executable, "update.py"],
        cwd=project,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while run.poll() is None and not (project / ".git/worktrees").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    run.send_signal(stop)
    _, said = run.communicate(timeout=300)
    if run.returncode == 0:
        pytest.skip("the update was over before the signal came")
    assert run.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert stop == signal.SIGTERM or said == "update: Stopped, and nothing was changed.\n"
    assert state(project) == before
    assert not (project / ".git/worktrees").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_nox_ends_with_the_code_of_the_update(workshop: Workshop) -> None:
    """By the command that the user types, in the environment of these tests."""
    project = workshop.made()
    add_line(project / "src/my_service/sharing/errors.py", "# Mine.", 0)
    commit(project)
    environment = project / ".nox/update"
    venv.create(environment, symlinks=True)
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "these.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "nox", "--default-venv-backend", "venv", "-R"]
    for arguments, code in (("--check", 2), ("--preview", 3), ("--nonsense", 1), ("", 3)):
        done = subprocess.run(
            [*command, "-s", "update", "--", *arguments.split()],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def documented(page: Path) -> list[str]:
    """Return what follows `nox -s update` in every command that a page shows."""
    command = r"^(?: {4}\.venv/bin/)?nox -s update(?: -- )?(.*?)(?: +#.*|  .*)?$"
    return re.findall(command, page.read_text("utf-8"), re.MULTILINE)


def test_the_documented_commands_run(workshop: Workshop) -> None:
    readme = workshop.made(patterns=["counter", "locks"]) / "README.md"
    shown = documented(DOCS), documented(readme)
    assert [len(commands) for commands in shown] == [7, 4]
    for command in {*shown[0], *shown[1]}:
        project = workshop.made(patterns=["counter", "locks"])
        code = workshop.update(project, *shlex.split(command))
        assert code == (2 if command == "--check" else 0), command


def test_the_codes_are_documented() -> None:
    codes = re.findall(r"^\| ([\d, ]+) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    known = [update.DONE, update.ERROR, update.NEWER, update.CONFLICTS]
    assert codes == [*map(str, known), f"{update.STOPPED}, {128 + signal.SIGTERM}"]
