"""docs/engines.md says what the tests show."""

import engines_page
import pytest
from matrix import ENGINES


def test_the_page_is_what_the_tests_say() -> None:
    assert engines_page.missing() == []
    said = engines_page.PAGE.read_text("utf-8")
    assert said == engines_page.page(), "write it anew: python tests/engines_page.py"


def test_an_answer_that_is_wider_than_a_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = "yes " * 30
    rows: list[engines_page.Row] = [("Is it?", {"processes": wide, "else": "no", "more": wide}, [])]
    monkeypatch.setattr(engines_page, "ROWS", rows)
    assert engines_page.missing() == [wide]


def test_engines_with_the_same_answer_share_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("Is it?", {"processes": "yes", "else": "no", "more": "It may be."}, ["a.py::a"]),
        ("And that?", {"else": "yes"}, ["a.py::a"]),
    ]
    monkeypatch.setattr(engines_page, "ROWS", rows)
    page = engines_page.page()
    others = ", ".join(f"`{name}`" for name in ENGINES)
    assert f"| `processes` | yes |\n| {others} | no |\n\nIt may be.\n" in page
    assert "**And that?**[^1]\n\n| engine | answer |\n| --- | --- |\n| every engine | yes |" in page
    assert page.endswith("\n\n[^1]: `a.py::a`\n")


def test_what_nobody_shows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("Is it?", {"processes": "yes"}, ["test_remote.py::test_that_is_gone"])]
    monkeypatch.setattr(engines_page, "ROWS", rows)
    assert engines_page.missing() == [
        "test_remote.py::test_that_is_gone",
        *(f"Is it? {name}" for name in ENGINES),
    ]
