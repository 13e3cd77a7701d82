"""Render projects from the working tree as it is, committed or not."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType

import jinja2
import yaml
from copier import run_copy
from matrix import CONFIG, ENGINES, PATTERNS, PYTHONS, ROOT, SETS, TEMPLATE, name_of

__all__ = ["CONFIG", "ENGINES", "PATTERNS", "PYTHONS", "ROOT", "SETS", "TEMPLATE", "name_of"]
IGNORED = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*_cache", ".DS_Store")


def compile_templates_once() -> None:
    """Have Jinja compile each text once in a process, not once for each project.

    Copier makes an environment for every path and file that it renders, all of them alike. To
    compile the same texts anew takes half of the time of a rendering.
    """
    compiled: dict[tuple[object, ...], CodeType] = {}
    compile_anew: Callable[..., CodeType] = jinja2.Environment.compile

    def compile_once(self: jinja2.Environment, source: object, *rest: object) -> CodeType:
        key = type(self), source, rest
        if key not in compiled:
            compiled[key] = compile_anew(self, source, *rest)
        return compiled[key]

    setattr(jinja2.Environment, "compile", compile_once)  # noqa: B010


compile_templates_once()


def take_snapshot(folder: Path) -> Path:
    """Copy what Copier reads, so that an edit made meanwhile doesn't split a run in two."""
    shutil.copytree(TEMPLATE, folder / "template", ignore=IGNORED)
    shutil.copy2(ROOT / "copier.yml", folder)
    return folder


def render(snapshot: Path, destination: Path, **answers: object) -> Path:
    """Render one project, with the default of every question that `answers` leaves out."""
    data = {"project_name": "My service", **answers}
    run_copy(str(snapshot), destination, data=data, defaults=True, quiet=True)
    return destination


def files_in(project: Path) -> Iterator[Path]:
    """Yield the files of a project as it was rendered."""
    files = (path for path in sorted(project.rglob("*")) if path.is_file())
    return (path for path in files if "__pycache__" not in path.parts)  # others may have run it


def parse(path: Path) -> None:
    """Read a file as what its name says it is."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        ast.parse(text, feature_version=(3, 11))
    elif path.suffix == ".toml":
        tomllib.loads(text)
    elif path.suffix in {".yml", ".yaml"}:
        assert isinstance(yaml.safe_load(text), dict), path


def command(*arguments: object, cwd: Path | None = None, **variables: str) -> str:
    """Run a command that has to succeed and return what it said."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout}"
    return done.stdout


def install(project: Path, target: Path) -> dict[str, str]:
    """Install a project as a wheel into a folder of its own; return the environment to use it.

    The dependencies are those of the running environment: installing them anew for each
    variant would take longer than its tests.
    """
    command(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
        *("--no-build-isolation", "--target", target, project),
    )
    return {
        "PYTHONPATH": str(target),
        "PATH": f"{target / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        + os.environ["PATH"],
    }
