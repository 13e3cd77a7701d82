"""Two versions of the template, projects made of them, and edits that users make."""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import copier
import pytest
from rendering import PATTERNS, TEMPLATE, command

ALL = list(PATTERNS)
GIT = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    # Nothing here has to survive a power cut, and waiting for the disk takes most of the time.
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "core.fsync",
    "GIT_CONFIG_VALUE_0": "none",
}
#: What the second version of the template does to files, beside changing lines.
MOVED, REMOVED, NEW = "files.py", "progress.py", "brought.py"
SECOND = "From the second version."


def load(path: Path) -> ModuleType:
    """Import `update.py`, which is the same in every project."""
    spec = importlib.util.spec_from_file_location("update", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["update"] = module
    spec.loader.exec_module(module)
    return module


update = load(TEMPLATE / "update.py")


def git(folder: Path, *arguments: object) -> str:
    return command("git", *arguments, cwd=folder, **GIT)


def commit(folder: Path, tag: str | None = None) -> Path:
    """Commit all that is in a folder, in a repository of its own if it is in none."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "As it is")
    if tag:
        git(folder, "tag", tag)
    return folder


def add_line(path: Path, line: str, number: int | None = None) -> None:
    """Add a line as a user or a new version of the template would: at the end, or before one."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    lines.insert(len(lines) if number is None else number, line + "\n")
    path.write_text("".join(lines), "utf-8")


def replace(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text("utf-8"), flags=re.MULTILINE)
    assert count, f"{path} has no {pattern}"
    path.write_text(text, "utf-8")


def make_versions(snapshot: Path, folder: Path) -> Path:
    """Make the template a repository with two versions."""
    shutil.copytree(snapshot, folder)
    commit(folder, "v1.0.0")
    template = folder / "template"
    package = template / "src/{{ package_name }}"
    for path in package.glob("sharing/**/*.py"):
        replace(path, r"\A\"\"\"", f"# {SECOND}\n" + '"""')
    for path in (*package.glob("jobs/*.py"), *template.glob("tests/jobs/*")):
        add_line(path, f"# {SECOND}")
    for name in (
        "noxfile.py",
        "tests/sharing/test_engine.py",
        "Dockerfile.jinja",
        "compose.yaml.jinja",
    ):
        add_line(template / name, f"# {SECOND}")
    for name in (".github/workflows/ci.yml.jinja", ".gitlab-ci.yml.jinja"):
        replace(template / name, r"(timeout.*)15", r"\g<1>16")
    replace(template / "pyproject.toml.jinja", r'^( +"[\w-]+>=[\d.]+)', r"\g<1>.1")
    replace(template / "pyproject.toml.jinja", r'^( +"typer)', r'    "attrs>=24",\n\g<1>')
    replace(template / "README.md.jinja", r"^## First steps$", f"## First steps\n\n{SECOND}")
    (package / MOVED).rename(package / f"moved_{MOVED}")
    (package / REMOVED).unlink()
    (package / NEW).write_text(f'"""{SECOND}"""\n')
    return commit(folder, "v2.0.0")


class Workshop:
    """Makes projects and updates them, and renders nothing twice."""

    def __init__(self, versions: Path, folder: Path) -> None:
        self.versions = versions
        self.folder = folder
        self.number = 0
        self.real_render = update.render

    def made(self, path: Path | None = None, version: str = "v1.0.0", **answers: object) -> Path:
        """Return a project of its own, made by a version of the template."""
        data = {"project_name": "My service", "patterns": ALL} | answers
        master = self.folder / self.key(version, sorted(data.items()))
        if not master.exists():
            source = str(self.versions)
            copier.run_copy(source, master, data, defaults=True, quiet=True, vcs_ref=version)
            commit(master)
            git(master, "gc", "--quiet")  # one file instead of one an object, in each copy
        self.number += 1
        path = path or self.folder / f"project{self.number}"
        return Path(shutil.copytree(master, path, symlinks=True))

    def key(self, *parts: object) -> str:
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def render(self, project: Path, folder: Path, ref: str | None, given: dict[str, str]) -> None:
        """Stand in for the function of `update.py`: with the same answers comes the same."""
        answers = (project / update.ANSWERS).read_bytes()
        master = self.folder / self.key(answers, ref, sorted(given.items()))
        if not master.exists():
            self.real_render(project, master, ref, given)
        shutil.copytree(master, folder)

    def update(self, project: Path, *arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(update, "render", self.render)
            return int(update.main(list(arguments), project))


def unmerged(project: Path) -> dict[str, str]:
    """Return how git marks the conflicts, by path."""
    entries = git(project, "status", "--porcelain", "--untracked-files=no", ".").splitlines()
    marks = {"DD", "AU", "UD", "UA", "DU", "AA", "UU"}
    return {entry[3:].strip('"'): entry[:2] for entry in entries if entry[:2] in marks}


def state(project: Path) -> dict[str, Any]:
    """Return all that an update may change, to the byte."""
    files = {
        str(path.relative_to(project)): (path.lstat().st_mode, path.read_bytes())
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(project).parts
    }
    if not (project / ".git").is_dir():
        return files
    return {
        **files,
        "index": git(project, "ls-files", "--stage"),
        "refs": git(project, "for-each-ref"),
        "head": (project / ".git/HEAD").read_text(),
        "worktrees": git(project, "worktree", "list"),
        "stash": git(project, "stash", "list"),
    }


Check = Callable[[], bool]


class Edits:
    """What users do to a project, each with a way to see that it is still there."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.package = project / "src/my_service"

    def has(self, path: Path, mark: str, *others: Path) -> Check:
        """The edit stands in its file, between the marks of a conflict or not."""
        return lambda: any(
            mark in one.read_bytes().decode("utf-8") for one in (path, *others) if one.is_file()
        )

    def same(self, path: Path) -> Check:
        """The file is as the user left it, to the byte."""
        content = path.read_bytes()
        return lambda: path.is_file() and path.read_bytes() == content

    def gone(self, path: Path) -> Check:
        """The file is not there, or git calls it a conflict."""
        name = str(path.relative_to(self.project))
        return lambda: not path.exists() or name in unmerged(self.project)

    def line(self, path: Path, mark: str, number: int | None = None) -> Check:
        add_line(path, mark, number)
        return self.has(path, mark)

    def in_toml(self, mark: str, pattern: str, new: str) -> Check:
        replace(self.project / "pyproject.toml", pattern, new.replace("MARK", mark))
        return self.has(self.project / "pyproject.toml", mark)

    def every(self, folder: str) -> Iterator[Path]:
        return (path for path in sorted(self.project.glob(f"{folder}/*.py")))

    def job_changed(self) -> Iterator[Check]:
        for path in self.every("src/my_service/jobs"):
            add_line(path, "# edit of a job")
            yield self.same(path)

    def job_added(self) -> Iterator[Check]:
        (self.package / "jobs/own.py").write_text("from ..sharing import open_engine\n")
        yield self.same(self.package / "jobs/own.py")

    def job_deleted(self) -> Iterator[Check]:
        for path in self.every("src/my_service/jobs"):
            if path.stem != "__init__":
                path.unlink()
                yield self.gone(path)

    def job_test_changed(self) -> Iterator[Check]:
        for path in self.every("tests/jobs"):
            add_line(path, "# edit of a job's test", 1)
            yield self.same(path)

    def dependency_first(self) -> Iterator[Check]:
        yield self.in_toml("aaa-first", r"^dependencies = \[\n", 'dependencies = [\n    "MARK",\n')

    def dependency_between(self) -> Iterator[Check]:
        yield self.in_toml("s-between", r'^    "typer', '    "MARK>=1",\n    "typer')

    def dependency_last(self) -> Iterator[Check]:
        yield self.in_toml("zzz-last", r'^(    "typer.*\n)', r'\g<1>    "MARK",\n')

    def dependency_of_tests(self) -> Iterator[Check]:
        yield self.in_toml("hypothesis", r"^(test = \[\n)", r'\g<1>    "MARK",\n')

    def table_at_the_end(self) -> Iterator[Check]:
        yield self.line(self.project / "pyproject.toml", "\n[tool.mine]\nvalue = 1")

    def version_raised(self) -> Iterator[Check]:
        yield self.in_toml('version = "7.8.9"', r'^version = ".*"$', "MARK")

    def readme_line(self) -> Iterator[Check]:
        readme = self.project / "README.md"
        yield self.line(readme, "Edit near the title.", 2)
        yield self.line(readme, "Edit at the end.")
        replace(readme, r"^(\| for \| there is)", r"Edit above the table.\n\n\g<1>")
        yield self.has(readme, "Edit above the table.")

    def sharing_changed(self) -> Iterator[Check]:
        for path in self.every("src/my_service/sharing/**"):
            yield self.line(path, f"# edit of {path.stem}")

    def sharing_changed_on_top(self) -> Iterator[Check]:
        for path in self.every("src/my_service/sharing/**"):
            yield self.line(path, f"# edit on top of {path.stem}", 0)

    def sharing_added(self) -> Iterator[Check]:
        path = self.package / "sharing/own.py"
        path.write_text((self.package / "sharing/errors.py").read_text())
        yield self.same(path)

    def test_changed(self) -> Iterator[Check]:
        for path in (*self.every("tests"), *self.every("tests/sharing")):
            yield self.line(path, f"# edit of {path.stem}")

    def test_deleted(self) -> Iterator[Check]:
        for path in self.every("tests/sharing"):
            if path.stem.startswith("test_"):
                path.unlink()
                yield self.gone(path)

    def automation_changed(self) -> Iterator[Check]:
        for name in (".github/workflows/ci.yml", ".gitlab-ci.yml", "Dockerfile", "compose.yaml"):
            if (self.project / name).exists():
                yield self.line(self.project / name, "# edit of automation")
                yield self.line(self.project / name, "# edit on top", 0)

    def session_added(self) -> Iterator[Check]:
        path = self.project / "noxfile.py"
        yield self.line(path, "# edit of the sessions")

    def moved_and_removed_changed(self) -> Iterator[Check]:
        add_line(self.package / MOVED, "# edit of what moves")
        yield self.has(self.package / MOVED, "# edit of what", self.package / f"moved_{MOVED}")
        yield self.line(self.package / REMOVED, "# edit of what is removed")

    def benchmark_changed(self) -> Iterator[Check]:
        for path in self.every("benchmarks"):
            yield self.line(path, f"# edit of {path.stem}")

    def odd_files(self) -> Iterator[Check]:
        """Bytes, other ends of lines, modes, links, and what git ignores."""
        (self.project / "data.bin").write_bytes(bytes(range(256)))
        (self.project / "ends.txt").write_bytes(b"one\r\ntwo\r\n")
        (self.project / "run").write_text("#!/bin/sh\n")
        (self.project / "run").chmod(0o755)
        (self.project / "link").symlink_to("run")
        (self.project / "build").mkdir()
        (self.project / "build/ignored").write_text("ignored")
        for name in ("data.bin", "ends.txt", "run", "build/ignored"):
            yield self.same(self.project / name)
        yield (self.project / "link").is_symlink
        yield lambda: bool((self.project / "run").stat().st_mode & 0o100)
        noxfile = self.project / "noxfile.py"
        noxfile.write_bytes(noxfile.read_bytes().replace(b"\n", b"\r\n"))
        yield self.has(noxfile, "import nox\r\n")
        (self.package / "cli.py").chmod(0o755)
        yield lambda: bool((self.package / "cli.py").stat().st_mode & 0o100)


#: Each by itself, and those that can stand together at once.
EDITS = [
    name
    for name, one in vars(Edits).items()
    if callable(one) and one.__annotations__.get("return") == Iterator[Check]
]
NOT_AT_ONCE = [name for name in EDITS if name.endswith("_deleted") or name == "odd_files"]
AT_ONCE = [name for name in EDITS if name not in NOT_AT_ONCE]


def apply(project: Path, names: list[str]) -> list[tuple[str, Check]]:
    """Make the edits and commit them; return a check for each, by the edit's name."""
    edits = Edits(project)
    checks = [(name, check) for name in names for check in getattr(edits, name)()]
    commit(project)
    return checks


def lost(checks: list[tuple[str, Check]]) -> list[str]:
    return [name for name, check in checks if not check()]
