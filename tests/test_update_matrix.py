"""Every change of an answer, within and between two versions, times what users edit."""

import itertools
import tomllib
from collections.abc import Callable
from typing import Any

import copier
import pytest
from rendering import CONFIG, PATTERNS
from updating import ALL, AT_ONCE, EDITS, NOT_AT_ONCE, Workshop, apply, lost, unmerged

#: By name: what the project was made with, and what it is updated to.
FLIPS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nothing": ({}, {}),
    "python_min": ({}, {"python_min": "3.13"}),
    "ci to gitlab": ({}, {"ci": "gitlab"}),
    "ci to github": ({"ci": "gitlab"}, {"ci": "github"}),
    "ci to none": ({}, {"ci": "none"}),
    "docker to yes": ({}, {"docker": "yes"}),
    "docker to no": ({"docker": True}, {"docker": "no"}),
    "engines added": ({}, {"engines": "[ray, joblib]"}),
    "engines to none": ({"engines": ["dask", "joblib"]}, {"engines": "[]"}),
    "project_name": ({}, {"project_name": "Their service"}),
    "project_description": ({}, {"project_description": 'It "does" {{ things }}'}),
    "author": ({}, {"author_name": "Ada", "author_email": "ada@example.org"}),
    "author_name to none": ({"author_name": "Ada"}, {"author_name": ""}),
    "all at once": (
        {"patterns": ["counter", "arrays"], "author_name": "Ada"},
        {"patterns": "[cache, locks]", "ci": "none", "docker": "yes", "python_min": "3.12"},
    ),
}
for name in ALL:
    others = [one for one in ALL if one != name]
    FLIPS[f"{name} added"] = {"patterns": others}, {"patterns": f"[{', '.join(ALL)}]"}
    FLIPS[f"{name} removed"] = {"patterns": ALL}, {"patterns": f"[{', '.join(others)}]"}
VERSIONS = {"the same version": ("--vcs-ref", ":current:"), "the next version": ()}

Record = Callable[[str, object], None]
Capture = pytest.CaptureFixture[str]
every_flip = pytest.mark.parametrize("flip", FLIPS)


def options(given: dict[str, str]) -> list[str]:
    return [part for name, value in given.items() for part in ("-d", f"{name}={value}")]


def test_every_question_is_flipped() -> None:
    asked = {
        name
        for name, one in CONFIG.items()
        if isinstance(one, dict) and "type" in one and one.get("when") is not False
    }
    flipped = {question for _, given in FLIPS.values() for question in given}
    assert flipped == asked - {"package_name"}
    assert len(EDITS) >= 18


@every_flip
@pytest.mark.parametrize("version", VERSIONS)
def test_no_edit_is_lost(
    workshop: Workshop, flip: str, version: str, record_property: Record, capsys: Capture
) -> None:
    before, given = FLIPS[flip]
    failures, count = [], 0
    # By itself, too, where the versions differ, which is where more can go wrong: each edit with
    # every sixth flip.
    place = list(FLIPS).index(flip)
    alone = [one for number, one in enumerate(EDITS) if (number + place) % 6 == 0]
    for edit in ["at once", *(alone if version == "the next version" else NOT_AT_ONCE)]:
        project = workshop.made(**before)
        checks = apply(project, AT_ONCE if edit == "at once" else [edit])
        code = workshop.update(project, *VERSIONS[version], *options(given))
        conflicts = unmerged(project)
        expected = 3 if conflicts else 0
        count += 1
        if code != expected or (missing := lost(checks)):
            failures.append((edit, code, code == expected and missing, capsys.readouterr()))
        settings = (project / "pyproject.toml").read_text("utf-8")
        # What is added to pyproject.toml never conflicts, wherever it stands.
        if edit.startswith(("dependency", "table")):
            assert "pyproject.toml" not in conflicts, settings
            assert tomllib.loads(settings)
        assert not {name for name in conflicts if "/jobs/" in name}
    assert failures == []
    record_property("updates", count)


@pytest.mark.parametrize("flip", ["nothing", "all at once", *(f"{name} removed" for name in ALL)])
def test_plain_copier_loses_some(workshop: Workshop, flip: str, record_property: Record) -> None:
    """The control: the same projects and edits, all at once, with Copier alone."""
    before, given = FLIPS[flip]
    project = workshop.made(**before)
    checks = apply(project, AT_ONCE)
    answers: dict[str, Any] = dict(given)
    copier.run_update(project, data=answers, defaults=True, overwrite=True, quiet=True)
    missing = lost(checks)
    record_property("lost by copier", len(missing))
    # The second version moves one file and removes another: their edits are always lost.
    assert len(missing) >= 2
    removed = [name for name in PATTERNS if flip == f"{name} removed"]
    assert len(missing) >= (6 if removed else 2)


def test_files_of_two_patterns_are_never_taken_for_each_other(
    workshop: Workshop, capsys: Capture
) -> None:
    """Git follows a file that was renamed: it must not follow from one pattern to another."""
    for one, other in itertools.permutations(ALL, 2):
        project = workshop.made(patterns=[one])
        given = ("-d", f"patterns=[{other}]", "-d", "ci=gitlab")
        assert workshop.update(project, *given, "--vcs-ref", ":current:") == 0
        output = capsys.readouterr().out
        assert f"removed   src/my_service/sharing/patterns/{one}.py" in output
        assert "  moved  " not in output
