"""Make a picture of the terminal from what the commands really say: `nox -s record`."""

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 100
PATTERNS = "patterns=[counter, cache, arrays, locks]"


def said(*command: str, cwd: Path, path: str) -> str:
    """Run a command on a terminal of its own and return what it wrote, colours included.

    What it writes to stderr goes through a pipe, so that no progress bar moves in the picture.
    """
    terminal, end = pty.openpty()
    environment = os.environ | {"PATH": path, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=end, stdout=end, stderr=subprocess.PIPE
    ) as process:
        os.close(end)
        pieces = []
        try:
            while piece := os.read(terminal, 1 << 16):
                pieces.append(piece)
        except OSError:
            pass  # Linux says so when the other end is closed.
        assert process.stderr
        errors = process.stderr.read()
    os.close(terminal)
    if process.returncode:
        sys.exit(f"{command}: {errors.decode()}")
    return (errors + b"".join(pieces)).decode().replace("\r\n", "\n")


def show(console: Console, typed: str, output: str) -> None:
    console.print(Text.assemble(("$ ", "bold green"), (typed, "bold")))
    console.print(Text.from_ansi(output.strip("\n")))
    console.print()


def main(picture: Path) -> None:
    console = Console(record=True, width=WIDTH)
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        template = here / "copier-shared-state"
        shutil.copytree(ROOT / "template", template / "template")
        shutil.copy2(ROOT / "copier.yml", template)
        path = f"{here / 'my-service/.venv/bin'}{os.pathsep}{tools}{os.pathsep}{os.environ['PATH']}"

        copy = ("copier", "copy", "--defaults", "--data", "project_name=My service")
        output = said(*copy, "--data", PATTERNS, str(template), "my-service", cwd=here, path=path)
        _, _, message = output.partition("My service is in ")
        files = sum(1 for one in (here / "my-service").rglob("*") if one.is_file())
        show(
            console,
            f"copier copy --defaults -d 'project_name=My service' -d '{PATTERNS}' \\\n"
            "    copier-shared-state my-service",
            f"\N{HORIZONTAL ELLIPSIS} {files} files\n\nMy service is in {message}",
        )

        venv = (sys.executable, "-m", "venv", "my-service/.venv")
        subprocess.run(venv, cwd=here, check=True)
        pip = (".venv/bin/pip", "install", "--quiet", "-e", ".")
        subprocess.run(pip, cwd=here / "my-service", check=True)
        demo = ("my-service", "demo", "--folder", "sample")
        show(
            console,
            ".venv/bin/my-service demo --folder sample",
            said(*demo, cwd=here / "my-service", path=path).replace(folder, "~"),
        )
    console.save_svg(str(picture), title="copier-shared-state")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
