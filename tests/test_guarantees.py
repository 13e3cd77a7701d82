"""docs/guarantees.md says what the tests prove, and nothing else."""

import re
import shutil
from pathlib import Path

import guarantees
import pytest


def test_the_page_is_what_the_tests_say() -> None:
    cells = guarantees.collect()
    assert guarantees.missing(cells) == []
    said = guarantees.TABLE.read_text("utf-8")
    assert said == guarantees.page(cells), "write it anew: python tests/guarantees.py"


def test_each_cell_has_a_test() -> None:
    cells = guarantees.collect()
    assert {event for _, event in cells} == guarantees.EVENTS.keys()
    assert {subject for subject, _ in cells} == guarantees.SUBJECTS.keys()
    assert len(cells) > 110
    assert guarantees.ALONE.keys() <= guarantees.ELSEWHERE.keys() & cells.keys()
    assert all(cell.proofs for cell in cells.values())


def test_each_footnote_is_there_and_used() -> None:
    text = guarantees.page(guarantees.collect())
    used = set(re.findall(r"\[\^(\d+)\](?!:)", text))
    assert used == set(re.findall(r"^\[\^(\d+)\]: `", text, re.MULTILINE))
    assert len(used) > 20


def test_what_holds_fits_into_a_line() -> None:
    cells = guarantees.collect()
    key = next(iter(cells))
    cells[key].holds = "x" * (guarantees.WIDEST + 1)
    assert guarantees.missing(cells) == [cells[key].holds]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"log", "killed", "', '"log", "killed",  # "', "log, killed"),
        ("def test_the_next_one", "def the_next_one", "locks, killed"),
    ],
)
def test_a_cell_without_a_test_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    shutil.copytree(guarantees.CHAOS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "test_storm.py"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    assert named in guarantees.missing(guarantees.collect(tmp_path))


def test_a_proof_that_is_no_test_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = "test_locks.py::test_that_is_gone"
    monkeypatch.setitem(guarantees.ELSEWHERE, ("locks", "killed"), [gone])
    assert guarantees.missing(guarantees.collect()) == [gone]


def test_a_cell_is_worded_once(tmp_path: Path) -> None:
    shutil.copytree(guarantees.CHAOS, tmp_path, dirs_exist_ok=True)
    shutil.copy2(tmp_path / "test_storm.py", tmp_path / "test_again.py")
    with pytest.raises(ValueError, match="killed"):
        guarantees.collect(tmp_path)
