"""Updates across the move of the files: by the `update.py` that projects had before it.

At the commit `BEFORE` all files of `sharing` lay in one folder, and all tests in another. Projects
of that version are updated by their own `update.py`, so nothing that has been changed in it since
can help them: it is run here as it was, on a project made as it was.
"""

import difflib
import itertools
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import copier
import pytest
import yaml
from rendering import ENGINES, ROOT, TEMPLATE, command
from updating import ALL, GIT, Workshop, add_line, commit, git, state, unmerged

#: The last version of the template before the move.
BEFORE = "6350ca1f999b30ec7e3dc62439033a6e41d7458f"
#: Files that have got another name with their other folder.
RENAMED = {"pattern.py": "base.py", "work.py": "desk.py"}
#: Files of which so little is left that no edit can follow them.
REWRITTEN = {
    "src/my_service/sharing/driver.py": "src/my_service/sharing/engines/driver.py",
    "src/my_service/sharing/runs.py": "src/my_service/sharing/engines/runs.py",
    "src/my_service/sharing/processes/engine.py": (
        "src/my_service/sharing/engines/processes/engine.py"
    ),
}
#: Files that have moved and are as they were.
SAME = {
    "src/my_service/sharing/owners.py": "src/my_service/sharing/machine/owners.py",
    "tests/killer.py": "tests/sharing/killer.py",
}
KEPT = "you changed it, the template has it no more"
#: Where in a file a line is added: as a part of its length.
PLACES = {"on top": 0.0, "in the middle": 0.5, "at the end": 1.0}
#: By name: answers of the project, and those that change with the update.
ANSWERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "all patterns and joblib": ({"engines": ["joblib"]}, ()),
    "all engines": ({"engines": list(ENGINES)}, ()),
    "one pattern": ({"patterns": ["counter"]}, ()),
    "patterns come": ({"patterns": ["counter"]}, (f"patterns=[{', '.join(ALL)}]",)),
    "patterns go": ({"engines": ["ray"]}, ("patterns=[locks]", "engines=[]")),
    "patterns change places": ({"patterns": ["cache", "locks"]}, ("patterns=[counter, arrays]",)),
}

#: Each place with the answers that most projects have; the other answers take turns.
PAIRS = [
    *((place, next(iter(ANSWERS))) for place in PLACES),
    *zip(itertools.cycle(PLACES), list(ANSWERS)[1:], strict=False),
]

Capture = pytest.CaptureFixture[str]


def take_old(folder: Path, revision: str = BEFORE) -> Path:
    """Write what Copier reads as it was at a commit of this repository."""
    packed = folder.with_suffix(".tar")
    done = subprocess.run(
        ["git", "archive", f"--output={packed}", revision, "copier.yml", "template"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(
            f"There is no commit {revision[:7]} here, from which these tests update. Bring the "
            "history with `git fetch --unshallow` (in CI: `fetch-depth: 0` of actions/checkout). "
            f"git said: {done.stderr.strip()}"
        )
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    packed.unlink()
    return folder


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Workshop]:
    """The version before the move as v1.0.0, the working tree as v2.0.0, and their projects."""
    versions = take_old(tmp_path_factory.mktemp("moves") / "template")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in GIT.items():
            patch.setenv(name, value)
        commit(versions, "v1.0.0")
        shutil.rmtree(versions / "template")
        shutil.copytree(snapshot, versions, dirs_exist_ok=True)
        commit(versions, "v2.0.0")
        yield Workshop(versions, tmp_path_factory.mktemp("moved"))


class Updated(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said of files."""
        return [line.strip() for line in self.out.splitlines() if line.startswith("  ")]


def run(project: Path, *arguments: str) -> Updated:
    """Update by the project's own `update.py`, as `nox -s update` does."""
    done = subprocess.run(
        [sys.executable, "update.py", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Updated(done.returncode, done.stdout, done.stderr)


def is_yours(path: str) -> bool:
    return "/jobs/" in path


def texts(project: Path) -> dict[str, str]:
    """Return the content of each Python file, by its path, that git tracks or doesn't yet."""
    names = git(project, "ls-files", "--cached", "--others", "--deduplicate", "*.py").splitlines()
    return {
        name: (project / name).read_text("utf-8") for name in names if (project / name).exists()
    }


def mark_of(path: str) -> str:
    return f"# An edit of {path}.\n"


def edit(project: Path, where: float = 1.0) -> list[str]:
    """Add to each file of the template's a line that is in no other, and commit."""
    paths = [path for path in texts(project) if not is_yours(path)]
    for path in paths:
        number = round(where * len((project / path).read_text("utf-8").splitlines()))
        add_line(project / path, mark_of(path).rstrip(), number)
    commit(project)
    return paths


def where_is(project: Path, paths: list[str]) -> dict[str, list[str]]:
    """Return in which files the edit of each of these files stands."""
    found = texts(project)
    return {path: [one for one in found if mark_of(path) in found[one]] for path in paths}


@pytest.mark.parametrize(("place", "answers"), PAIRS)
def test_an_edit_moves_along_or_is_a_conflict(moving: Workshop, place: str, answers: str) -> None:
    before, given = ANSWERS[answers]
    project = moving.made(**before)
    paths = edit(project, PLACES[place])
    updated = run(project, *(part for one in given for part in ("-d", one)))
    assert updated.code == 3, updated
    conflicts = unmerged(project)
    after = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    chosen = {name: after[name] for name in ("patterns", "engines")}
    theirs = texts(moving.made(version="v2.0.0", **chosen))
    found = texts(project)
    moved = 0
    for path, places in where_is(project, paths).items():
        assert len(places) == 1, (path, places)
        if places == [path]:
            if path not in theirs:
                assert conflicts.get(path) == "UD", path
                assert f"conflict  {path}: {KEPT}" in updated.lines
            continue
        (new,) = places
        name = PurePosixPath(path).name
        assert PurePosixPath(new).name in {name, RENAMED.get(name, name)}, (path, new)
        assert new in theirs
        moved += 1
        told = f"conflict  {new}: both changed it" if new in conflicts else f"{path} to {new}"
        assert any(line.endswith(told) for line in updated.lines), told
    gone = [path for path in paths if path not in theirs]
    assert moved > len(gone) / (3 if not given else 20)
    # Nor is anything lost of the template's: each of its files is there, as it is to be.
    marks = {mark_of(path) for path in paths}
    for path, text in theirs.items():
        if path not in conflicts and not is_yours(path):
            kept = [line for line in found[path].splitlines(True) if line not in marks]
            assert "".join(kept) == text, "".join(
                difflib.unified_diff(text.splitlines(True), kept, path, path)
            )
        elif conflicts.get(path) == "UU":
            # Both sides, between marks: what is taken as the template's is all of it.
            assert git(project, "show", f":3:{path}") == text
            assert re.search(r"(?ms)^<{7} .*^={7}$.*^>{7} ", found[path])


def test_an_edit_of_a_rewritten_file_stays_in_the_old_one(moving: Workshop) -> None:
    project = moving.made(engines=["joblib"])
    for path in REWRITTEN:
        add_line(project / path, "# Mine.")
    commit(project)
    mine = {path: (project / path).read_bytes() for path in REWRITTEN}
    updated = run(project)
    assert updated.code == 3
    assert "Settle what is marked as a conflict (3)" in updated.err
    assert [line for line in updated.lines if line.startswith("conflict")] == [
        f"conflict  {path}: {KEPT}" for path in sorted(REWRITTEN)
    ]
    assert unmerged(project) == dict.fromkeys(REWRITTEN, "UD")
    theirs = texts(moving.made(version="v2.0.0", engines=["joblib"]))
    for path, new in REWRITTEN.items():
        assert (project / path).read_bytes() == mine[path]
        assert (project / new).read_text("utf-8") == theirs[new]


def test_an_edit_of_a_file_that_only_moved_is_no_conflict(moving: Workshop) -> None:
    project = moving.made(engines=["joblib"])
    for path in SAME:
        add_line(project / path, "# Mine.")
    commit(project)
    updated = run(project)
    assert updated.code == 0, updated
    for path, new in SAME.items():
        assert f"moved     {path} to {new}" in updated.lines
        assert not (project / path).exists()
        assert (project / new).read_text("utf-8").endswith("# Mine.\n")


def test_looks_over_the_move_change_nothing(moving: Workshop) -> None:
    project = moving.made(engines=["joblib"])
    clean, edited = state(project), moving.made(engines=["joblib"])
    looked = run(project, "--check")
    assert (looked.code, looked.err) == (2, "")
    assert "has a newer version" in looked.out
    preview = run(project, "--preview")
    assert (preview.code, preview.err) == (0, "")
    assert state(project) == clean
    assert run(project).lines == preview.lines
    edit(edited)
    before = state(edited)
    preview = run(edited, "--preview")
    assert (preview.code, preview.err) == (3, "")
    assert state(edited) == before
    assert run(edited).lines == preview.lines


def test_a_file_that_the_user_deleted_is_named(moving: Workshop) -> None:
    """One that moved nearly as it was is a conflict; one that was rewritten comes as a new one."""
    project = moving.made(engines=["joblib"])
    for path in ("tests/killer.py", "src/my_service/sharing/runs.py"):
        (project / path).unlink()
    commit(project)
    updated = run(project)
    assert updated.code == 3
    assert [line for line in updated.lines if line.startswith("conflict")] == [
        "conflict  tests/sharing/killer.py: you deleted it, the template changed it"
    ]
    assert "new       src/my_service/sharing/engines/runs.py" in updated.lines


def import_from_sharing(project: Path) -> list[str]:
    """Do what docs/updating.md says of the tests that name a module that is gone."""
    mended = []
    for path in sorted(project.glob("tests/jobs/*.py")):
        text = path.read_text("utf-8")
        new = re.sub(r"(?m)^(from \w+\.sharing)\.(?:locks|arrays) import", r"\1 import", text)
        if new != text:
            path.write_text(new, "utf-8")
            mended.append(str(path.relative_to(project)))
    return mended


def test_a_project_without_edits_works_after_the_update(moving: Workshop, tmp_path: Path) -> None:
    project = moving.made(engines=["joblib"])
    updated = run(project)
    assert (updated.code, updated.err) == (0, "")
    yours = [line for line in updated.lines if line.startswith("yours")]
    assert yours == [
        "yours     tests/jobs/test_post_transfers.py uses locks, which is gone",
        "yours     tests/jobs/test_standardize.py uses arrays, which is gone",
    ]
    assert unmerged(project) == {}
    fresh, here = texts(moving.made(version="v2.0.0", engines=["joblib"])), texts(project)
    assert here.keys() == fresh.keys()
    assert {path for path in fresh if here[path] != fresh[path] and not is_yours(path)} == set()
    named = [line.split()[1] for line in yours]
    assert import_from_sharing(project) == named
    source = str(project / "src")
    said = command(sys.executable, "-m", "my_service", "--help", PYTHONPATH=source)
    assert "crunch-logs" in said
    # The user's jobs and tests are as the old version brought them.
    command(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--start-method", "fork", "tests/sharing/test_counter.py", "tests/jobs"),
        cwd=project,
        PYTHONPATH=source,
        TMPDIR=str(tmp_path),
    )


def test_a_later_update_says_what_to_import_instead(moving: Workshop, capsys: Capture) -> None:
    """The present `update.py`, on a project of the old version."""
    project = moving.made()
    own = project / "src/my_service/jobs/own.py"
    own.write_text(
        "from ..sharing.counter import Counter, Log\n"
        "from ..sharing.cache import Cache\n"
        "from ..sharing import limits, open_engine\n"
        "from ..sharing.pattern import Pattern\n"
    )
    commit(project)
    assert moving.update(project) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines() if "yours" in line]
    assert [line.partition("yours     ")[2].partition(": write ")[::2] for line in said] == [
        (
            "src/my_service/jobs/own.py uses cache, counter, limits, pattern, which is gone",
            "`from ..sharing import Cache, Counter, Log`",
        ),
        (
            "tests/jobs/test_post_transfers.py uses locks, which is gone",
            "`from my_service.sharing import Guarded`",
        ),
        (
            "tests/jobs/test_standardize.py uses arrays, which is gone",
            "`from my_service.sharing import SharedArray`",
        ),
    ]


def test_copier_alone_loses_edits_over_the_move(moving: Workshop) -> None:
    """The control, and the reason why docs/updating.md warns of it."""
    project = moving.made(engines=["joblib"])
    paths = edit(project)
    copier.run_update(project, defaults=True, overwrite=True, quiet=True)
    lost = [path for path, places in where_is(project, paths).items() if not places]
    assert set(lost) >= {*SAME, *REWRITTEN}


def test_without_the_history_it_fails_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no commit 0{7} here.*git fetch --unshallow"):
        take_old(tmp_path / "template", "0" * 40)


def test_ci_fetches_the_history() -> None:
    flow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    (checkout,) = [step for step in flow["jobs"]["run"]["steps"] if "checkout" in str(step)]
    assert "matrix.session == 'updates' && '0'" in checkout["with"]["fetch-depth"]


def test_the_old_version_is_updated_by_its_own_script(moving: Workshop) -> None:
    """What the other tests rest on: the script is the one of then, and has not been replaced."""
    then = command("git", "show", f"{BEFORE}:template/update.py", cwd=ROOT)
    assert (moving.made() / "update.py").read_text("utf-8") == then
    assert then != (TEMPLATE / "update.py").read_text("utf-8")


def test_sharing_offers_all_names_that_it_did(moving: Workshop) -> None:
    """So that `from ..sharing import` is what to write, as docs/updating.md says."""
    before, after = (
        set(
            re.findall(
                r'^    "(\w+)",$', project["src/my_service/sharing/__init__.py"], re.MULTILINE
            )
        )
        for project in (texts(moving.made(version=version)) for version in ("v1.0.0", "v2.0.0"))
    )
    assert {"Counter", "Guarded", "SharedArray", "open_engine"} <= before <= after
