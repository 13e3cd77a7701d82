"""Copies: what `copier copy` takes, beside templates that have less to do."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from my_service.bench.timing import Setting, each

from .compare import Comparison, Entry, Opener, Run, Target, Wrong, most_times

ROOT = Path(__file__).parents[2]
ANSWERS = ("--data=project_name=My service", "--data=patterns=[counter, cache, arrays, locks]")
CONFIG = "_subdirectory: template\nproject_name:\n  type: str\n"


def ours(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    shutil.copytree(ROOT / "template", folder / "template", ignore=ignored)
    shutil.copy2(ROOT / "copier.yml", folder)


def empty(folder: Path) -> None:
    (folder / "template").mkdir()
    (folder / "template/README.md.jinja").write_text("# {{ project_name }}\n")
    (folder / "copier.yml").write_text(CONFIG)


def plain(folder: Path) -> None:
    """As many files as ours brings, with names and contents that are there already."""
    with tempfile.TemporaryDirectory() as made:
        ours(Path(made))
        copy(Path(made), folder / "template")
    (folder / "template/.copier-answers.yml").unlink()
    (folder / "copier.yml").write_text(CONFIG)


def copy(template: Path, target: Path) -> None:
    command = (sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", *ANSWERS)
    done = subprocess.run([*command, template, target], capture_output=True, text=True, check=False)
    if done.returncode or not any(target.iterdir()):
        raise Wrong(f"failed: {done.stderr.strip()[-100:]}")


def copied(make: Callable[[Path], None]) -> Opener:
    """Copy a template that lies in a git repository, as published ones do."""

    @contextmanager
    def opener(_setting: Setting) -> Iterator[Run]:
        with tempfile.TemporaryDirectory() as folder:
            template, target = Path(folder, "template"), Path(folder, "project")
            template.mkdir()
            make(template)
            git = ("git", "-c", "user.name=peers", "-c", "user.email=peers@example.org")
            for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "All"]):
                subprocess.run([*git, *words], cwd=template, check=True)

            def run() -> float:
                shutil.rmtree(target, ignore_errors=True)
                return float(each(1, lambda _times: copy(template, target)))

            yield run

    return opener


OURS, PLAIN, EMPTY = "this template", "its files with nothing to render", "an empty template"
NOTE = (
    "Copier itself is the bound: it renders each path and starts git once for each file, so that "
    "as many plain files take as long"
)


def comparisons() -> list[Comparison]:
    entries = [
        Entry(OURS, copied(ours), "ours"),
        Entry(PLAIN, copied(plain), "floor"),
        Entry(EMPTY, copied(empty), "floor"),
    ]
    return [Comparison("copies", "copier copy, all patterns", entries, rounds=3)]


def targets(found: dict[str, Comparison]) -> list[Target]:
    copies = found["copies"]
    return [
        most_times(copies, OURS, 1.3, EMPTY, NOTE),
        most_times(copies, OURS, 1.3, PLAIN),
    ]
