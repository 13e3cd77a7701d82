"""What jobs use to read and write files."""

import csv
import importlib
import os
import resource
from pathlib import Path

import pytest
from command_line import paths_to
from under_test import cli

files = importlib.import_module(f"{cli.PACKAGE}.files")


def test_outputs_are_replaced_when_all_are_whole(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    with files.replacing(first, second) as (one, two):
        one.write("ä\n")
        two.write("b\n")
        assert first.read_text() == "old"
        assert not second.exists()
    assert first.read_bytes() == b"\xc3\xa4\n"
    assert second.read_bytes() == b"b\n"
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_nothing_is_left_of_outputs_that_did_not_get_whole(tmp_path: Path) -> None:
    def begin() -> None:
        with files.replacing(tmp_path / "out", tmp_path / "more") as (file, _):
            file.write("half")
            file.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin()
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with files.replacing(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with files.replacing(link) as (file,):
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_cannot_be_replaced_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    good = tmp_path / "good"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for bad, error, message in (
        (tmp_path, IsADirectoryError, "folder"),
        (pipe, files.InputError, "not a regular file"),
        (tmp_path / "none" / "out", files.InputError, "there is no folder"),
    ):
        with pytest.raises(error, match=message), files.replacing(good, bad):
            raise AssertionError
        assert list(tmp_path.iterdir()) == [pipe]


def test_an_output_that_is_an_input_is_refused_by_whatever_path(tmp_path: Path) -> None:
    other, both = tmp_path / "other", tmp_path / "both"
    other.write_text("another input")
    both.write_text("an input")
    for path in paths_to(both):
        with pytest.raises(files.InputError, match="would replace the input") as caught:
            files.check_paths([other, both], [tmp_path / "new", path])
        assert str(caught.value) == f"{path}: this output would replace the input {both}"
        if path.exists():
            with pytest.raises(files.InputError, match="would replace the input"):
                files.check_paths([other, path], [both])
    assert both.read_text() == "an input"
    files.check_paths([other, both], [tmp_path / "new", tmp_path / "newer"])
    files.check_paths([both, both])


def test_nothing_is_opened_before_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(files.InputError, match="would replace the input"):
        files.check_paths([tmp_path / "none", empty], [empty])


def test_two_outputs_that_are_one_file_are_refused(tmp_path: Path) -> None:
    out, link, hard = tmp_path / "out", tmp_path / "link", tmp_path / "hard"
    link.symlink_to(out.name)
    for other in (out, link, tmp_path / "none" / ".." / "out"):
        with pytest.raises(files.InputError, match="would replace the output"):
            files.check_paths([], [out, other])
        with pytest.raises(files.InputError, match="would replace the output"):
            files.replacing(out, other).__enter__()
    assert not out.exists()
    out.write_text("old")
    hard.hardlink_to(out)
    with pytest.raises(files.InputError, match="would replace the output"):
        files.check_paths([], [out, hard])


def test_pipes_and_devices_are_no_files_to_be_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files.check_paths([pipe], [tmp_path / "out"])
    files.check_apart([pipe, Path(os.devnull)], [pipe, Path(os.devnull)])


def test_an_output_that_is_too_large_is_named(tmp_path: Path) -> None:
    """As it is on a full disk, too."""
    out = tmp_path / "out"
    out.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught, files.replacing(out) as (f,):
            f.write("x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no such folder")
def test_an_output_that_cannot_be_made_is_named() -> None:
    out = Path("/proc/out")
    with pytest.raises(OSError, match="'/proc/out'"), files.replacing(out):
        raise AssertionError


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_write_protection_is_respected(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch(0o444)
    with pytest.raises(PermissionError), files.replacing(out):
        raise AssertionError
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError), files.replacing(tmp_path / "new"):
            raise AssertionError
    finally:
        tmp_path.chmod(0o755)


def test_csv_rows_come_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes('\ufeffb,a,c\r\n1,2,3\r\n\r\n"x\n\ny",5,6\n7,8,9'.encode())
    with files.reading_csv(path, ["a", "b"]) as table:
        assert table.header == ["b", "a", "c"]
        assert table.places("a", "b") == [1, 0]
        assert list(table.rows) == [
            (2, ["1", "2", "3"]),
            (4, ["x\n\ny", "5", "6"]),
            (7, ["7", "8", "9"]),
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"a\n1\n", "line 1: no column b; there is a"),
        (b"a,b,a\n", "line 1: column a is there twice"),
        (b"a,b\n1,2\n3\n", "line 3: 1 values for 2 columns"),
        (b"a,b\n1,2\n3,4,5\n", "line 3: 3 values for 2 columns"),
        (b'a,b\n1,"2\n3,4\n', "line 2: unexpected end of data"),
        (b"a,b\n1,\xff\n", "not UTF-8"),
        (b"a,b\n1," + b"x" * (csv.field_size_limit() + 1), "line 2: field larger"),
    ],
)
def test_bad_csv_is_named_by_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    with (
        pytest.raises(files.InputError) as caught,
        files.reading_csv(path, ["a", "b"]) as table,
    ):
        list(table.rows)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_files_are_checked_before_the_work(tmp_path: Path) -> None:
    good, empty, pipe = tmp_path / "good", tmp_path / "empty", tmp_path / "pipe"
    good.write_text("x")
    empty.touch()
    os.mkfifo(pipe)
    files.check_readable(good, pipe)
    with pytest.raises(files.InputError, match="empty"):
        files.check_readable(good, empty)
    with pytest.raises(files.InputError, match="empty"):
        files.check_paths([good, empty])
    with pytest.raises(IsADirectoryError):
        files.check_paths([good], [tmp_path])
    with pytest.raises(IsADirectoryError):
        files.check_readable(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.check_readable(tmp_path / "none")
