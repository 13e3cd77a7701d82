# /// script
# requires-python = ">=3.11"
# dependencies = ["copier>=9.18", "packaging>=24", "pyyaml>=6"]
# ///
"""Bring this project up to date with its template, or to other answers, and lose nothing.

`nox -s update` runs this. Copier renders the template twice, as the project was made and as it
is to be; git picks the difference onto the project as if it were somebody's commit. So an edit
stays where it is, moves along with a renamed file, or stands in a conflict.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

import copier
import yaml
from packaging.version import InvalidVersion, Version

DONE, ERROR, NEWER, CONFLICTS, STOPPED = 0, 1, 2, 3, 130
ANSWERS = ".copier-answers.yml"
CURRENT: str = copier.VcsRef.CURRENT.value
#: Yours: an update changes and deletes nothing there.
JOBS = re.compile(r"(?:src/[^/]+|tests)/jobs/(?:test_)?(.*)")
#: What befell a file, by the versions of it that git keeps: 1 as made, 2 yours, 3 the template's.
SIDES = {
    "12": "you changed it, the template has it no more",
    "13": "you deleted it, the template changed it",
    "23": "both added it",
    "123": "both changed it",
}
WORDS = {"A": "new", "M": "changed", "T": "changed", "D": "removed", "R": "moved"}
SETTINGS = {
    "core.fsyncMethod": "batch",
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "merge.directoryRenames": "false",
    "merge.renames": "true",
    "rerere.enabled": "false",
}
VARIABLES = {
    "GIT_AUTHOR_NAME": "update",
    "GIT_AUTHOR_EMAIL": "update",
    "GIT_COMMITTER_NAME": "update",
    "GIT_COMMITTER_EMAIL": "update",
    "GIT_LFS_SKIP_SMUDGE": "1",
}
#: Of a file that was renamed, so much is the same: more than two patterns have in common.
ALIKE = "80%"

Tree = dict[str, str]  # of each file, by its path: mode and object, as git writes them


class Refused(Exception):
    """Why nothing was changed, in one line."""


class GitError(Exception):
    """What git said when it failed."""


class Rendering(NamedTuple):
    folder: Path
    answers: dict[str, Any]
    files: Tree


def git(folder: Path, *arguments: object, text: str = "", **variables: str) -> str:
    """Run git, undisturbed by hooks and by settings that would change its answers."""
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    done = subprocess.run(
        ["git", *settings, *map(str, arguments)],
        cwd=folder,
        env=os.environ | VARIABLES | variables,
        input=os.fsencode(text),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise GitError(os.fsdecode(done.stderr))
    return os.fsdecode(done.stdout)


def listed(output: str) -> list[str]:
    """Return the parts of what git lists with -z."""
    return output.split("\0")[:-1]


def why(text: object) -> str:
    """Return the line that matters of what git or Copier said."""
    lines = [re.sub(r"^(Stderr:)?[ |]+", "", line).rstrip() for line in str(text).splitlines()]
    lines = [line for line in lines if line]
    fatal = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    return (fatal or lines[-1:] or ["no reason given"])[0]


def read_answers(folder: Path) -> dict[str, Any]:
    try:
        answers = yaml.safe_load((folder / ANSWERS).read_text("utf-8"))
    except FileNotFoundError as error:
        raise Refused(f"There is no {ANSWERS}, which says what the template was told.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(f"{ANSWERS} can't be read: {why(error)}") from error
    if not isinstance(answers, dict) or not {"_commit", "_src_path"} <= answers.keys():
        raise Refused(f"{ANSWERS} lacks _src_path or _commit: which template, and its version.")
    return answers


def find_repository(project: Path) -> Path:
    """Return the top of the repository that holds the project, if an update may begin."""
    try:
        top = git(project, "rev-parse", "--show-toplevel").removesuffix("\n")
    except (OSError, GitError) as error:
        raise Refused("The project is in no git repository, and git does the update.") from error
    try:
        git(project, "cat-file", "-e", f"HEAD:./{ANSWERS}")
    except GitError as error:
        raise Refused(f"Commit the project first: the last commit has no {ANSWERS}.") from error
    if changed := listed(git(project, "status", "--porcelain", "-z", "--", ".")):
        raise Refused(f"Commit or stash first: {changed[0][3:]} is not as in the last commit.")
    return Path(top)


def render(project: Path, folder: Path, ref: str | None, given: dict[str, str]) -> None:
    """Render the template with the answers of the project and those that are given."""
    folder.mkdir()
    (folder / ANSWERS).write_bytes((project / ANSWERS).read_bytes())
    version = copier.VcsRef.CURRENT if ref == CURRENT else ref
    with warnings.catch_warnings(action="ignore"):
        copier.run_recopy(
            folder, data=given, vcs_ref=version, defaults=True, overwrite=True, quiet=True
        )


def files_of(folder: Path, tree: str, **variables: str) -> Tree:
    lines = listed(git(folder, "ls-tree", "-r", "-z", "--full-tree", tree, **variables))
    entries = (line.split("\t", 1) for line in lines)
    return {path: " ".join(entry.split()[::2]) for entry, path in entries}


def store(project: Path, folder: Path, ref: str | None, given: dict[str, str]) -> Rendering:
    """Render, and let git store what came out."""
    try:
        render(project, folder, ref, given)
    except Exception as error:  # whatever Copier, Jinja, YAML or git may raise
        reason = why(getattr(error, "stderr", None) or error)
        reason = re.sub(r"^Validation error for question '\w+': ", "", reason)
        if given and not hasattr(error, "stderr"):
            raise Refused(f"An answer was refused: {reason}") from error
        source = read_answers(project)["_src_path"]
        raise Refused(f"The template {source} can't be rendered: {reason}") from error
    variables = {
        "GIT_DIR": git(project, "rev-parse", "--absolute-git-dir").removesuffix("\n"),
        "GIT_WORK_TREE": str(folder),
        "GIT_INDEX_FILE": f"{folder}.index",
    }
    git(folder, "-c", "core.sparseCheckout=false", "add", "--all", "--force", ".", **variables)
    tree = git(folder, "write-tree", **variables).strip()
    return Rendering(folder, read_answers(folder), files_of(folder, tree, **variables))


def plan(old: Tree, new: Tree, mine: Tree, grow: bool) -> tuple[Tree, Tree, list[str]]:
    """Return the two sides of the change, and what stays deleted though the template changed it.

    What neither side has stays as it is: jobs, files of the user's own, and what the user
    deleted. A new starter job comes with new answers only, and only where none has its name.
    """
    before: Tree = {}
    after: Tree = {}
    gone: list[str] = []
    jobs = {match[1] for path in mine if path[:4] == "src/" and (match := JOBS.fullmatch(path))}
    for path in sorted(old.keys() | new.keys()):
        if match := JOBS.fullmatch(path):
            if grow and match[1] not in jobs and path not in old and path not in mine:
                after[path] = new[path]
        elif path in old and path in new and path not in mine:
            gone += [path] if old[path] != new[path] else []
        else:
            before |= {path: old[path]} if path in old else {}
            after |= {path: new[path]} if path in new else {}
    folders = {str(parent) for path in mine for parent in PurePosixPath(path).parents}
    for path in after.keys() - old.keys() - mine.keys():
        above = [str(parent) for parent in PurePosixPath(path).parents]
        for way in (
            [path] if path in folders else [way for way in above if way in mine.keys() - old]
        ):
            raise Refused(f"{way} is in the way of the template's {path}: rename it first.")
    return before, after, gone


def commit(top: Path, index: Path, entries: list[str], *arguments: str) -> str:
    """Store the last commit with other entries, as a commit that belongs to no branch."""
    variables = {"GIT_INDEX_FILE": str(index)}
    git(top, "read-tree", "HEAD", **variables)
    git(top, "update-index", "-z", "--index-info", text="".join(entries), **variables)
    return git(top, "commit-tree", git(top, "write-tree", **variables).strip(), *arguments).strip()


def merge_lines(before: list[str], mine: list[str], new: list[str]) -> list[str] | None:
    """Merge where git gives up since two changes stand side by side; None if they overlap."""
    place = {0: 0}  # where in `new` goes what was added before a line
    same: set[int] = set()
    for kind, start, end, first, last in opcodes(before, new):
        for line in range(start, end):
            place[line + 1] = first + line + 1 - start if kind == "equal" else last
            same |= {line} if kind == "equal" else set()
    merged = list(new)
    for kind, start, end, first, last in reversed(opcodes(before, mine)):
        if kind == "insert":
            merged[place[start] : place[start]] = mine[first:last]
        elif kind != "equal":
            begin = place[end] - (end - start)
            if not same.issuperset(range(start, end)) or place[start + 1] != begin + 1:
                return None
            merged[begin : place[end]] = mine[first:last]
    return merged


def opcodes(one: list[str], other: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()


def pick(project: Path, change: str) -> None:
    """Merge the change into the files; conflicts stay in the index, as after any merge."""
    try:
        git(project, "cherry-pick", "--no-commit", "-X", f"find-renames={ALIKE}", change)
    except GitError as error:
        if not git(project, "ls-files", "--unmerged", ":/"):
            raise Refused(f"git can't merge the update: {why(error)}") from error
    with contextlib.suppress(GitError, tomllib.TOMLDecodeError):
        # A conflict in pyproject.toml that is only two entries beside each other.
        path = "pyproject.toml"
        sides = [git(project, "show", f":{stage}:./{path}").splitlines(True) for stage in (1, 2, 3)]
        merged = "".join(merge_lines(*sides) or [])
        if tomllib.loads(merged):
            (project / path).write_bytes(os.fsencode(merged))
            git(project, "add", "--", path)


def look(project: Path) -> tuple[list[str], list[str], list[str]]:
    """Read from the index what was merged: lines to print, conflicts, and added files."""
    stages: dict[str, str] = {}
    for line in listed(git(project, "ls-files", "--unmerged", "-z", "--full-name", ":/")):
        entry, path = line.split("\t", 1)
        stages[path] = stages.get(path, "") + entry[-1]
    lines = []
    added = [path for path, sides in stages.items() if sides in {"3", "23"}]
    staged = ("diff", "--cached", "--name-status", "-z", "--diff-filter=AMDTR", f"-M{ALIKE}")
    fields = iter(listed(git(project, *staged, "HEAD")))
    for status in fields:
        path, word = next(fields), WORDS[status[0]]
        if word == "moved":
            lines.append(f"moved     {path} to {(path := next(fields))}")
        elif path not in stages:
            lines.append(f"{word:<9} {path}")
        added += [path] if word in {"moved", "new"} else []
    told = [f"conflict  {path}: {SIDES.get(sides, 'both')}" for path, sides in stages.items()]
    return lines, told, added


def exported(rendering: Rendering) -> set[str]:
    """Return the names that `sharing` offers, and its modules, such as `machine.limits`."""
    names = set()
    for path in rendering.folder.glob("src/*/sharing/**/*.py"):
        inside = path.relative_to(rendering.folder).with_suffix("").parts[3:]
        names.add(".".join(inside))
        if inside == ("__init__",):
            exports = re.search(r"(?ms)^__all__ = (\[.*?\])", path.read_text("utf-8"))
            names |= set(ast.literal_eval(exports[1])) if exports else set()
    return names


def left_behind(
    project: Path, paths: Iterable[str], gone: set[str], offered: set[str]
) -> Iterator[str]:
    """Yield a line for each of these files that uses what `sharing` offers no more.

    A name whose module is gone, and that `sharing` itself offers, is named with its import.
    """
    for path in paths if gone else ():
        used: set[str] = set()
        instead: dict[str, set[str]] = {}
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            for node in ast.walk(ast.parse((project / path).read_bytes())):
                if isinstance(node, ast.ImportFrom):
                    parts = (node.module or "").split(".")
                    if "sharing" in parts:
                        top, inside = parts[: (at := parts.index("sharing") + 1)], parts[at:]
                        names = {alias.name for alias in node.names}
                        modules = {".".join([*inside, name]) for name in names}
                        used |= {".".join(inside), *names, *modules} & gone
                        if ".".join(inside) in gone and names & offered:
                            face = "." * node.level + ".".join(top)
                            instead.setdefault(face, set()).update(names & offered)
                elif isinstance(node, ast.Attribute):
                    used |= {ast.unparse(node).removeprefix("sharing.")} & gone
        if used:
            lines = [f"from {face} import {', '.join(sorted(instead[face]))}" for face in instead]
            advice = f": write `{'`, `'.join(lines)}`" if lines else ""
            yield f"yours     {path} uses {', '.join(sorted(used))}, which is gone{advice}"


@contextlib.contextmanager
def undisturbed(drop: bool = False) -> Iterator[None]:
    """Hold off what would stop git in the middle of writing, till then or for good."""
    stops = {signal.SIGINT, signal.SIGTERM}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        yield
    finally:
        for stop in stops if drop else ():  # to ignore a signal forgets the one that waits
            signal.signal(stop, signal.signal(stop, signal.SIG_IGN))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def worktree(top: Path, folder: Path) -> Iterator[Path]:
    """Check the last commit out beside the project, for as long as it takes to look."""
    try:
        with undisturbed():
            git(top, "worktree", "add", "--detach", "--quiet", folder, "HEAD")
        yield folder
    finally:
        with undisturbed(), contextlib.suppress(GitError):
            git(top, "worktree", "remove", "--force", "--force", folder)


def check_way(top: Path, added: list[str]) -> None:
    """Refuse to write over what git doesn't know, such as an ignored file."""
    for path in added:
        for way in [top / path, *(top / path).parents]:
            if way == top:
                break
            if os.path.lexists(way) and (way == top / path or way.is_symlink() or way.is_file()):
                name = way.relative_to(top)
                raise Refused(f"{name} is in the way, and git doesn't know it: move it first.")


def older(one: object, other: object) -> bool:
    """Compare what `git describe` says of two versions of the template."""
    versions = [re.sub(r"-(\d+)-g[0-9a-f]+$", r".post\1", str(text)) for text in (one, other)]
    try:
        return Version(versions[0]) < Version(versions[1])
    except InvalidVersion:
        return False


def update(project: Path, given: dict[str, str], ref: str | None, only_look: bool) -> int:
    """Say what the update brings, then bring it; return what the command ends with."""
    known = read_answers(project)
    top = find_repository(project)
    prefix = git(project, "rev-parse", "--show-prefix").removesuffix("\n")
    mine = files_of(project, "HEAD:./")
    with tempfile.TemporaryDirectory(prefix="update.") as name:
        folder = Path(name).resolve()
        old = store(project, folder / "old", CURRENT, {})
        new = store(project, folder / "new", ref, given)
        if unknown := [key for key in given if key[:1] == "_" or key not in new.answers]:
            raise Refused(f"The template has no question {unknown[0]}.")
        if new.answers["package_name"] != known.get("package_name"):
            raise Refused("package_name can't be changed: your code lies in the folder it names.")
        was, now = known["_commit"], new.answers["_commit"]
        if ref is None and older(now, was):
            raise Refused(f"The newest version, {now}, is older than {was}: choose by --vcs-ref.")
        print(f"The template: {was}" if was == now else f"The template: {was} to {now}")
        before, after, gone = plan(old.files, new.files, mine, bool(given))
        if before == after:
            print("There is nothing to change.")
            return DONE
        clear = [f"0 {'0' * 40}\t{prefix}{path}\0" for path in mine if path in before | after]
        base, change = (
            clear + [f"{entry}\t{prefix}{path}\0" for path, entry in side.items()]
            for side in (before, after)
        )
        parent = commit(top, folder / "index", base, "-m", "The project as it was made")
        picked = commit(
            top, folder / "index", change, "-p", parent, "-m", f"Update to the template's {now}"
        )
        with worktree(top, folder / "preview") as preview:
            pick(preview / prefix, picked)
            lines, conflicts, added = look(preview)
            theirs = {path for path in new.files if not JOBS.match(path)}
            own = [path for path in mine if path.endswith(".py") and path not in theirs]
            offered = exported(new)
            left = left_behind(preview / prefix, own, exported(old) - offered, offered)
            stays = [f"stays     {path}: deleted by you, changed by the template" for path in gone]
            lines += [*stays, *left, *conflicts]
        for key, value in new.answers.items():
            if key[:1] != "_" and value != old.answers.get(key):
                print(f"  answer    {key}: {value}")
        print("\n".join(f"  {line}" for line in lines), flush=True)
        check_way(top, [path for path in added if path.removeprefix(prefix) not in mine])
        if only_look:
            return CONFLICTS if conflicts else DONE
        with undisturbed(drop=True):
            pick(project, picked)
    if conflicts:
        print(
            f"update: Settle what is marked as a conflict ({len(conflicts)}), "
            "`git add` or `git rm` each, then commit; `git reset --hard` takes all back.",
            file=sys.stderr,
        )
        return CONFLICTS
    print("All of it is staged: see `git diff --cached`, run `nox`, then commit.")
    return DONE


def check(project: Path) -> int:
    """Say whether the template has a newer version."""
    source = read_answers(project)["_src_path"]
    done = subprocess.run(
        [sys.executable, "-m", "copier", "check-update", "--quiet", "."],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {DONE, NEWER}:
        raise Refused(f"The template {source} can't be reached: {why(done.stderr)}")
    newer = "a newer version: `nox -s update` brings it" if done.returncode else "nothing newer"
    print(f"The template {source} has {newer}.")
    return done.returncode


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def answer(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main(arguments: list[str], project: Path) -> int:
    """Do what the command line says, and return the exit code."""
    parser = Parser(
        prog="update",
        description="Bring the project up to date with its template, and lose no edit.",
        epilog="Ends with 0 when all is done, 1 when nothing was changed for the reason given, "
        "2 when --check finds a newer version, 3 when there are conflicts to settle.",
    )
    add = parser.add_argument
    add("--check", action="store_true", help="only say whether there is a newer version")
    add("--preview", action="store_true", help="only show what an update would do")
    add("--vcs-ref", metavar="REF", help=f"this version, not the newest; {CURRENT} keeps it")
    add("-d", "--data", type=answer, action="append", default=[], metavar="NAME=VALUE")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"):
        os.environ.pop(name, None)
    try:
        options = parser.parse_args(arguments)
        with contextlib.chdir(project):
            if options.check:
                return check(project)
            return update(project, dict(options.data), options.vcs_ref, options.preview)
    except Refused as refusal:
        print(f"update: {refusal}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("update: Stopped, and nothing was changed.", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent))
