"""What people type, and what is made of it; `test_hostile.py` has what nobody should type."""

import email.utils
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import copier
import pytest
from conftest import Render
from rendering import CONFIG, ROOT, command, files_in, render

TEXTS = [
    'say "hello"',
    "it's",
    r"C:\new\table \" \\",
    "{{ project_name }} {% if x %} {# y #}",
    "{0} {} %s $HOME ${X} `id` $(id)",
    "'''triple''' \"\"\"quotes\"\"\"",
    "日本語 Ünïcödé שלום 🎉👩‍🚀",
]
NAMES = {
    "My service": "my_service",
    "Café 7!": "cafe_7",
    "日本語": "my_project",
    "2fast": "my_2fast",
    "class": "my_class",
    "match": "my_match",
    "cache tools": "cache_tools",
    "numpy": "my_numpy",
    "JSON": "my_json",
    "Limits": "my_limits",
    "Prometheus client": "my_prometheus_client",
    "test cases": "my_test_cases",
    "__init__": "init",
    "a--b..c": "a_b_c",
    "Straße & Øre": "strasse_ore",
    "x" * 300: "x" * 40,
    "'; rm -rf /": "rm_rf",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_package_can_be_built_from_them(fresh: Render, tmp_path: Path, text: str) -> None:
    project = fresh(
        project_name=text,
        package_name="built",
        project_description=text,
        author_name=text,
        author_email="a.b+c@example.org",
    )
    wheels = tmp_path / "wheels"
    command(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels, cwd=project)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        text_of = archive.read("built-0.1.0.dist-info/METADATA").decode()
    metadata = email.message_from_string(text_of)
    assert metadata["Summary"] == text.strip()
    assert email.utils.parseaddr(metadata["Author-email"]) == (text, "a.b+c@example.org")


def test_authors_may_stay_unnamed(fresh: Render) -> None:
    def authors(name: str, address: str) -> object:
        project = fresh(f"{name}{address}", author_name=name, author_email=address)
        settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
        return settings["project"].get("authors")

    assert authors("", "") is None
    assert authors("Ada", "") == [{"name": "Ada"}]
    assert authors("", "a@b.org") == [{"email": "a@b.org"}]


@pytest.mark.parametrize(("name", "package"), NAMES.items())
def test_a_package_name_is_found_for_any_name(rendered: Render, name: str, package: str) -> None:
    project = rendered(project_name=name)
    assert (project / "src" / package / "__init__.py").is_file()
    assert (project / "src" / package / "sharing/patterns/counter.py").is_file()


def test_a_default_is_found_for_every_taken_name(snapshot: Path, tmp_path: Path) -> None:
    """Only the answers are asked for: nothing is written."""
    taken = CONFIG["taken_names"]["default"].split()
    assert len(taken) > 250
    assert len(taken) == len(set(taken))
    for number, name in enumerate(taken[:: len(taken) // 40]):
        copier.run_copy(
            str(snapshot),
            tmp_path / str(number),
            data={"project_name": name},
            defaults=True,
            quiet=True,
            pretend=True,
        )


def test_windows_is_refused_with_one_line(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("copier._main.OS", "windows")
    with pytest.raises(ValueError, match=r"Windows is not supported .*WSL\.\Z"):
        render(snapshot, tmp_path / "project")
    assert not (tmp_path / "project").exists()


def test_nobody_asks_for_trust(template: Path) -> None:
    """Every test here copies and updates without it, and nothing that is handed on speaks of it."""
    pages = [ROOT / "noxfile.py", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    pages += [*(ROOT / ".github").rglob("*.yml"), ROOT / ".ci/run", *files_in(template)]
    assert len(pages) > 50
    asked = re.compile(r"--trust|--UNSAFE|unsafe\s*=\s*True|settings\.yml.*trust")
    assert [path for path in pages if asked.search(path.read_text("utf-8"))] == []
