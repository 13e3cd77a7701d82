"""docs/engines.md says what the tests show."""

import engines_page
import pytest
from matrix import ENGINES


def test_the_page_is_what_the_tests_say() -> None:
    assert engines_page.missing() == []
    said = engines_page.PAGE.read_text("utf-8")
    assert said == engines_page.page(), "write it anew: python tests/engines_page.py"


def test_what_nobody_shows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("Is it?", {"processes": "yes"}, ["test_remote.py::test_that_is_gone"])]
    monkeypatch.setattr(engines_page, "ROWS", rows)
    assert engines_page.missing() == [
        "test_remote.py::test_that_is_gone",
        *(f"Is it? {name}" for name in ENGINES),
    ]
