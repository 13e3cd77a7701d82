"""Hostile answers: refused with one sentence, or kept to the letter in a project that works."""

import email
import email.utils
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import Render
from hatchling.build import prepare_metadata_for_build_wheel
from hostile import Hostile, hostile_answers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rendering import CONFIG, ENGINES, files_in, parse, render

ANSWERS = hostile_answers()
#: The only files that carry what is typed in a line of text.
CARRIERS = {".copier-answers.yml", "pyproject.toml", "README.md"}
TEXTS = {"project_name", "project_description", "author_name", "author_email"}
REFUSAL = r"\A(Validation error for|Invalid choice for|Invalid answer) "
#: A name that stands nowhere else, so that it can be told from a word such as "cache".
USUAL, DASHED = "zq_xw", "zq-xw"
Count = Callable[[str, object], None]


def name_of(answer: Hostile) -> str:
    return f"{answer.question}: {answer.name}".encode("ascii", "backslashreplace").decode()


def test_there_are_enough_and_each_has_a_name() -> None:
    assert len(ANSWERS) >= 100
    assert len({name_of(answer) for answer in ANSWERS}) == len(ANSWERS)
    assert {answer.question for answer in ANSWERS} == {
        name for name in CONFIG if not name.startswith("_")
    }


@pytest.mark.parametrize("answer", [one for one in ANSWERS if one.refused], ids=name_of)
def test_refused_with_one_sentence(
    snapshot: Path, tmp_path: Path, record_property: Count, answer: Hostile
) -> None:
    data = {"project_name": "My service", answer.question: answer.value}
    with pytest.raises((ValueError, TypeError), match=REFUSAL) as error:
        render(snapshot, tmp_path / "project", **data)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert "\x00" not in sentence
    if sentence.startswith("Validation"):
        said = sentence.partition("': ")[2]
        assert said[0].isupper()
        assert said.endswith(".")
    assert not (tmp_path / "project").exists()
    record_property("hostile", "refused")


@pytest.mark.parametrize("answer", [one for one in ANSWERS if not one.refused], ids=name_of)
def test_kept_in_a_project_that_works(
    rendered: Render, fresh: Render, tmp_path: Path, record_property: Count, answer: Hostile
) -> None:
    question, value = answer.question, answer.value
    package = str(value) if question == "package_name" else USUAL
    asked = {"package_name": package, "author_name": "Ada", "author_email": "ada@example.org"}
    project = fresh(**asked | {question: value})

    # It changes nothing but what it has to: what runs is the same to the byte.
    changed = {str(path.relative_to(project)) for path in files_in(project)}
    if question in TEXTS or question == "package_name":
        usual = rendered(**asked | {"package_name": USUAL})
        differ = differences(usual, project, package)
        assert differ <= (CARRIERS if question in TEXTS else set())
        changed = changed & CARRIERS if question in TEXTS else changed

    # Every file parses, and carries the value unchanged.
    for name in changed:
        parse(project / name)
    kept = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    readme = (project / "README.md").read_text("utf-8")
    kept_value = kept[question]
    if question in {"patterns", "engines"}:
        assert set(kept_value) == set(re.findall(r"\w+", str(value)))
    elif question == "docker":
        assert kept_value == (str(value).lower() in {"yes", "1", "true"})
    else:
        assert kept_value == value
    if question == "project_name":
        assert readme.startswith(f"# {value}\n\n")
    if question == "project_description":
        assert settings["description"] == value
        assert (f"\n\n{value}\n\n" in readme) or not value
    if question in {"author_name", "author_email"}:
        plain = {"name": "Ada", "email": "ada@example.org"} | {
            question.removeprefix("author_"): value
        }
        assert settings["authors"] == [{key: text for key, text in plain.items() if text}]

    # It can be built, and says the same of itself.
    metadata = metadata_of(project, tmp_path / "wheel")
    assert metadata["Name"] == package.replace("_", "-")
    if question == "project_description":
        assert metadata.get("Summary", "").strip() == str(value).strip()
    if question == "author_name" and str(value).strip() == value != "":
        author, address = email.utils.parseaddr(metadata["Author-email"])
        assert (author, address) == (value, "ada@example.org")

    if question not in TEXTS:
        smoke(project, package, tmp_path)
    assert not list(tmp_path.rglob("hacked"))
    record_property("hostile", "generated")


def differences(usual: Path, other: Path, package: str) -> set[str]:
    """Return which files differ by more than what the package is called."""

    def renamed(text: str) -> str:
        return text.replace(USUAL, package).replace(DASHED, package.replace("_", "-"))

    before = {
        renamed(str(path.relative_to(usual))): renamed(path.read_text("utf-8"))
        for path in files_in(usual)
    }
    after = {str(path.relative_to(other)): path.read_text("utf-8") for path in files_in(other)}
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def metadata_of(project: Path, folder: Path) -> dict[str, str]:
    """Let the build backend say what the package's metadata are."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        name = prepare_metadata_for_build_wheel(str(folder))
    text = (folder / name / "METADATA").read_text("utf-8")
    return dict(email.message_from_string(text).items())


def smoke(project: Path, package: str, folder: Path) -> None:
    """Run the first job that the project has: over two processes, with its real start."""
    log = folder / "access.log"
    log.write_text('1.2.3.4 - - [01/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 12\n' * 9)
    jobs = {path.stem for path in (project / f"src/{package}/jobs").iterdir()}
    what = ("crunch-logs", str(log), "--json") if "crunch_logs" in jobs else ("--help",)
    done = subprocess.run(
        [sys.executable, "-m", package, *what],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(project / "src"), f"{package}_START_METHOD".upper(): "fork"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert '"lines": 9' in done.stdout or what == ("--help",)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("patterns=counter", "Write patterns as a list, such as [counter, locks], with any of"),
        ('patterns=["locks]', "Write patterns as a list, such as [counter, locks], with any of"),
        ("patterns=[queue]", "Invalid choice for 'patterns': 'queue' is not in"),
        ("engines=ray", "Write engines as a list, such as [dask, ray], with any of dask, ray,"),
        ("engines=[spark]", "Invalid choice for 'engines': 'spark' is not in"),
        ("pattern_table={}", "This is a part of the template and no question: leave it out."),
        ("docker=maybe", 'Answer yes or no: "maybe" is neither.'),
        ("package_name=json", "Choose another name: json is taken by Python"),
        ("project_name=a\tb", "Keep the name on one line, without control characters."),
        ("author_email=nobody", "Type an address such as ada@example.org"),
    ],
)
def test_the_command_ends_with_the_sentence(
    snapshot: Path, tmp_path: Path, data: str, sentence: str
) -> None:
    done = copy(snapshot, tmp_path / "project", "project_name=My service", data)
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]
    assert not (tmp_path / "project").exists()


def test_unknown_questions_are_warned_of(snapshot: Path, tmp_path: Path) -> None:
    """Copier ignores them without a word; the closing message can say it."""
    done = copy(snapshot, tmp_path / "a", "project_name=x", "Patterns=[cache]", "locks=yes")
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if "No question is called" in line]
    assert [line.split('"')[1] for line in said] == ["Patterns", "locks"]
    done = copy(snapshot, tmp_path / "b", "project_name=x", "patterns=[cache]", "docker=on")
    assert "No question is called" not in done.stderr
    assert (tmp_path / "b/src/x/jobs/enrich_orders.py").exists()


def copy(snapshot: Path, project: Path, *answers: str) -> subprocess.CompletedProcess[str]:
    data = [f"--data={answer}" for answer in answers]
    return subprocess.run(
        [sys.executable, "-m", "copier", "copy", "--defaults", *data, snapshot, project],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_no_dependency_is_free_as_a_name(rendered: Render) -> None:
    """Neither what the project asks for nor what that brings, however it is imported."""
    project = rendered(patterns=["arrays"], engines=list(ENGINES))
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    groups = settings["dependency-groups"], settings["project"]["optional-dependencies"]
    wanted = settings["project"]["dependencies"] + settings["build-system"]["requires"]
    wanted += [one for table in groups for group in table.values() for one in group]
    found: set[str] = set()
    # A group may include another one, which is a table and no text.
    left = [Requirement(one).name for one in wanted if isinstance(one, str)]
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needed = [Requirement(one) for one in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        left += [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]
    assert len(found) >= 12
    modules = {
        module
        for module, owners in packages_distributions().items()
        if found & {canonicalize_name(owner) for owner in owners}
    }
    names = {name.replace("-", "_") for name in found} | modules
    free = {name for name in names if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)}
    assert free - set(CONFIG["taken_names"]["default"].split()) == set()
