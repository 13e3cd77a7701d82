"""The contract of `SharedArray` and `map_blocks`: seen by all, in blocks, whole or not at all."""

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arrays_jobs as jobs
import numpy as np
import pytest
from arrays_jobs import State, fresh_state, numbers
from faults import assert_red
from probe import Probe
from signs import Signs
from under_test import driver, sharing

Engine = sharing.Engine[State]
Opened = tuple[Engine, State]


@pytest.fixture(scope="module")
def engine(start_method: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One for all tests that change nothing in its source."""
    state = fresh_state(Signs(tmp_path_factory.mktemp("signs")))
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        yield engine


def doubled(times: int = 1) -> np.ndarray[Any, Any]:
    table = numbers()
    for _ in range(times):
        table = table * 2 + 1
    return table


# Blocks


def test_every_worker_sees_the_array(engine: Engine) -> None:
    sums = list(engine.map(jobs.add_up, [0, 1, 2]))
    assert sums == [jobs.add_up(column, engine.state) for column in range(3)]
    assert sums[0] == 499_500
    engine.state.out.array[5] = 1
    assert engine.state.out.array[5].tolist() == [1, 1, 1]
    engine.state.out.array[5] = 0


def test_results_come_in_the_order_of_blocks(engine: Engine) -> None:
    source = engine.state.source
    blocks = engine.map_blocks(jobs.bounds, source, engine.state.out, rows=300)
    assert blocks == [(0, 299), (300, 599), (600, 899), (900, 999)]
    assert engine.map_blocks(jobs.bounds, source, engine.state.out) == [(0, 999)]
    assert engine.map_blocks(jobs.bounds, source, engine.state.out, rows=5000) == [(0, 999)]
    lazily = engine.imap_blocks(jobs.bounds, source, engine.state.out, rows=1)
    assert [first for first, _ in lazily] == list(range(1000))


def test_blocks_depend_on_nothing_but_the_array(signs: Signs) -> None:
    table = np.random.default_rng(3).normal(size=(400_000, 3))
    found: list[list[np.ndarray[Any, Any]]] = []
    for workers in (1, 3):
        source = sharing.SharedArray.from_array(table)
        state = State(Probe(), source, sharing.SharedArray(table.shape, "int8"), signs)
        with sharing.open_engine(state, workers=workers, start_method="fork") as engine:
            found.append(engine.map_blocks(jobs.total, state.source, state.out))
    assert len(found[0]) == 10  # a block is about a MiB
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(sum(found[0]), sum(found[1]))


def test_map_blocks_writes_to_another_array(engine: Engine) -> None:
    engine.map_blocks(jobs.round_to_out, engine.state.source, engine.state.out, rows=70)
    assert np.array_equal(engine.state.out.array, numbers().round(1).astype("float32"))
    assert np.array_equal(engine.state.source.array, numbers())
    with pytest.raises(sharing.JobFailed, match="write_to_rows failed on rows 0:1000: ValueError"):
        engine.map_blocks(jobs.write_to_rows, engine.state.source, engine.state.out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": sharing.SharedArray(3)}, "source must be a SharedArray that is a field of the"),
        ({"out": sharing.SharedArray(3)}, "out must be a SharedArray that is a field of the state"),
        ({"rows": 0}, "rows must be above 0, not 0"),
        ({"retries": -1}, "retries must be a whole number, 0 or more"),
    ],
)
def test_bad_arguments_of_map_blocks_are_refused(
    engine: Engine, options: dict[str, Any], message: str
) -> None:
    given = {"source": engine.state.source, "out": engine.state.out} | options
    with pytest.raises(sharing.SharingError, match=message):
        engine.map_blocks(jobs.bounds, **given)


@dataclass
class Unequal:
    source: sharing.SharedArray
    out: sharing.SharedArray
    point: sharing.SharedArray
    fixed: sharing.SharedArray


def test_arrays_that_do_not_match_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "fixed.npy", numbers(10))
    state = Unequal(
        sharing.SharedArray((10, 3)),
        sharing.SharedArray((11, 3)),
        sharing.SharedArray(()),
        sharing.SharedArray.from_npy(tmp_path / "fixed.npy"),
    )
    with sharing.open_engine(state, workers=1, start_method="fork") as engine:
        with pytest.raises(sharing.SharingError, match=r"'out', is of shape \(11, 3\), but source"):
            engine.map_blocks(jobs.bounds, state.source, state.out)  # type: ignore[arg-type]
        with pytest.raises(sharing.SharingError, match="'fixed', can't be written to"):
            engine.map_blocks(jobs.bounds, state.source, state.fixed)  # type: ignore[arg-type]
        with pytest.raises(sharing.SharingError, match="'point', has no rows"):
            engine.map_blocks(jobs.bounds, state.point)  # type: ignore[arg-type]


# In place, whoever dies


def test_blocks_changed_in_place_are_exact_when_workers_die_in_the_middle(
    start_method: str, signs: Signs
) -> None:
    state = fresh_state(signs, die_on=(0, 300, 950))
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        engine.map_blocks(jobs.double_in_steps, state.source, rows=50)
        assert all(signs.given(f"{place} died") for place in state.die_on)
        assert np.array_equal(state.source.array, doubled())


def test_blocks_changed_in_place_are_exact_when_workers_die_between_blocks(
    start_method: str, signs: Signs
) -> None:
    state = fresh_state(signs)
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        engine.map_blocks(jobs.double_and_arm, state.source, rows=50, retries=1)
    assert signs.given("100 died")
    assert signs.given("300 died")
    assert np.array_equal(state.source.array, doubled())


def test_blocks_changed_in_place_are_exact_when_workers_are_killed_from_outside(
    start_method: str, signs: Signs
) -> None:
    state = fresh_state(signs)
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        for _ in range(4):
            blocks = engine.imap_blocks(jobs.double_in_steps, state.source, rows=5, retries=30)
            for place, pid in enumerate(blocks):
                if place == 70:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        assert np.array_equal(state.source.array, doubled(4))


def test_a_block_that_fails_is_as_it_was(start_method: str, signs: Signs) -> None:
    state = fresh_state(signs)
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        with pytest.raises(sharing.JobFailed, match="failed on rows 400:500: ValueError: in the"):
            engine.map_blocks(jobs.spoil_and_fail, state.source, rows=100)
        expected = numbers()
        expected[:400] = -2
        assert np.array_equal(state.source.array[:500], expected[:500])
        with pytest.raises(sharing.ItemTimeout, match="failed on rows 0:1000"):
            state.source.array[...] = numbers()
            engine.map_blocks(jobs.spoil_and_hang, state.source, rows=1000, timeout=0.1)
        assert np.array_equal(state.source.array, numbers())


def test_a_block_that_nobody_waits_for_is_as_it_was(
    start_method: str, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "GRACE", 0.1)
    state = fresh_state(signs)
    with (
        pytest.raises(KeyboardInterrupt),
        sharing.open_engine(state, workers=1, start_method=start_method) as engine,
    ):
        for _ in engine.imap_blocks(jobs.spoil_and_hang_but_first, state.source, rows=500):
            signs.wait("spoilt")
            signal.raise_signal(signal.SIGINT)
    assert np.array_equal(state.source.array, numbers())


def test_views_outlive_the_engine_and_the_array(start_method: str, signs: Signs) -> None:
    state = fresh_state(signs)
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        view = state.source.array
        engine.map_blocks(jobs.double_in_steps, state.source)
    part = view[10:20]
    assert np.array_equal(state.source.array, doubled())
    assert jobs.bounds(state.source.array, state.source.array, state) == (1, 1999)
    del state, engine, view
    gc.collect()
    part += 1
    assert np.array_equal(part, doubled()[10:20] + 1)


# What there is room for, and what kinds there are


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="there is no limit to run into")
def test_an_array_that_is_too_large_is_refused_before_it_is_made() -> None:
    room = os.statvfs("/dev/shm")
    free = room.f_bavail * room.f_frsize
    with pytest.raises(sharing.SharingError) as caught:
        sharing.SharedArray((free // 8 * 3 + 8,), "float64")
    assert "does not fit into /dev/shm, which has" in str(caught.value)
    assert str(caught.value).count("iB") >= 3
    with pytest.raises(sharing.SharingError):
        sharing.SharedArray((1 << 40, 1 << 20), "float64")


@pytest.mark.parametrize("dtype", ["float32", ">i8", "complex128", "bool", "S5", "<M8[s]", "i4,f8"])
def test_an_array_has_any_dtype_but_object(dtype: str) -> None:
    source = np.zeros((3, 2), dtype)
    shared = sharing.SharedArray.from_array(source)
    assert shared.dtype == source.dtype
    assert shared.shape == (3, 2)
    assert shared.nbytes == source.nbytes
    assert np.array_equal(shared.array, source)


def test_an_array_has_any_shape_with_elements() -> None:
    assert sharing.SharedArray(5).array.tolist() == [0.0] * 5
    assert sharing.SharedArray((), "int8").array.tolist() == 0
    assert sharing.SharedArray.from_array(numbers().T).array.flags.c_contiguous
    for shape in (0, (3, 0), (-1,)):
        with pytest.raises(sharing.SharingError, match="has no elements to share"):
            sharing.SharedArray(shape)
    with pytest.raises(sharing.SharingError, match="dtype object holds objects"):
        sharing.SharedArray(3, object)


def test_the_shape_of_an_array_is_of_any_whole_numbers() -> None:
    assert sharing.SharedArray(np.int64(4)).shape == (4,)
    shared = sharing.SharedArray(np.array([2, 3]), "int8")
    assert shared.shape == (2, 3)
    assert {type(length) for length in shared.shape} == {int}
    shapes: list[Any] = [2.0, (3, 2.5), "23", None]
    for shape in shapes:
        with pytest.raises(sharing.SharingError, match="a shape is of whole numbers"):
            sharing.SharedArray(shape)


def test_a_dtype_that_a_file_could_not_hold_is_refused() -> None:
    table = np.zeros(4, [("a", "i4"), ("b", "f8")])
    with pytest.raises(sharing.SharingError, match=r"in the order .*\.repack_fields"):
        sharing.SharedArray.from_array(table[["b", "a"]])
    for dtype in ("S0", "U", "V0", np.dtype([])):
        with pytest.raises(sharing.SharingError, match="has no width"):
            sharing.SharedArray(4, dtype)
    with pytest.raises(sharing.SharingError, match="has a shape: make that part of the array's"):
        sharing.SharedArray(4, (np.int32, (2,)))


def test_a_mask_is_not_lost_in_silence() -> None:
    masked = np.ma.array([1, 2, 3], mask=[False, True, False])
    with pytest.raises(sharing.SharingError, match="its mask would be lost"):
        sharing.SharedArray.from_array(masked)
    assert sharing.SharedArray.from_array(masked.filled(0)).array.tolist() == [1, 0, 3]
    assert sharing.SharedArray.from_array(np.ma.array([1, 2])).array.tolist() == [1, 2]


# Files


@pytest.mark.parametrize("order", ["C", "F"])
def test_from_npy_maps_a_file_to_be_read(
    start_method: str, tmp_path: Path, signs: Signs, order: Any
) -> None:
    path = tmp_path / "table.npy"
    np.save(path, np.asarray(numbers(), order=order))
    source = sharing.SharedArray.from_npy(path)
    state = State(Probe(), source, sharing.SharedArray((1000, 3)), signs)
    path.rename(tmp_path / "elsewhere.npy")
    with sharing.open_engine(state, workers=1, start_method=start_method) as engine:
        assert engine.map_blocks(jobs.bounds, source, rows=500) == [(0, 499), (500, 999)]
        with pytest.raises(sharing.JobFailed, match="read-only"):
            engine.map_blocks(jobs.write_to_rows, source)
    assert not source.writable
    with pytest.raises(ValueError, match="read-only"):
        source.array[0] = 1
    assert np.array_equal(source.array, numbers())


def whole(path: Path) -> bytes:
    np.save(path, numbers())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.write_bytes(b""), sharing.SharingError),
        (lambda path: path.write_text("1,2\n3,4\n"), sharing.SharingError),
        (lambda path: path.write_bytes(whole(path)[:60]), sharing.SharingError),
        (lambda path: path.write_bytes(whole(path)[:-1]), sharing.SharingError),
        (lambda path: np.save(path, np.array([{}, None])), sharing.SharingError),
        (lambda path: np.save(path, np.zeros((0, 3))), sharing.SharingError),
        (lambda path: np.savez(path.open("wb"), numbers()), sharing.SharingError),
        (lambda path: path.mkdir(), OSError),
        (lambda path: None, FileNotFoundError),
    ],
    ids=["empty", "text", "header", "truncated", "objects", "no rows", "npz", "folder", "missing"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_file_of_the_wrong_kind_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    path = tmp_path / "table.npy"
    spoil(path)
    with pytest.raises(error) as caught:
        sharing.SharedArray.from_npy(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def file_state(path: Path, signs: Signs) -> State:
    source = sharing.SharedArray.from_array(numbers())
    return State(Probe(), source, sharing.SharedArray.create_npy(path, (1000, 3), "<i4"), signs)


def test_a_new_file_is_there_when_it_is_whole(
    start_method: str, tmp_path: Path, signs: Signs
) -> None:
    path = tmp_path / "new.npy"
    path.write_text("old")
    state = file_state(path, signs)
    with sharing.open_engine(state, workers=2, start_method=start_method) as engine:
        engine.map_blocks(jobs.fill, state.source, state.out, rows=100)
        assert path.read_text() == "old"
    assert set(tmp_path.iterdir()) == {path, signs.folder}
    expected = np.repeat(np.arange(1000, dtype="<i4")[:, None], 3, axis=1)
    assert np.array_equal(np.load(path), expected)
    assert np.load(path).dtype == np.dtype("<i4")
    assert np.array_equal(state.out.array, expected)


def test_a_new_file_is_not_there_when_the_work_failed(
    start_method: str, tmp_path: Path, signs: Signs
) -> None:
    path = tmp_path / "new.npy"
    path.write_text("old")
    state = file_state(path, signs)
    opened = sharing.open_engine(state, workers=1, start_method=start_method)
    with pytest.raises(sharing.JobFailed), opened as engine:
        engine.map_blocks(jobs.spoil_and_fail, state.source, rows=500)
    assert path.read_text() == "old"
    assert set(tmp_path.iterdir()) == {path, signs.folder}


def test_a_new_file_that_is_never_finished_leaves_nothing(tmp_path: Path) -> None:
    made = sharing.SharedArray.create_npy(tmp_path / "new.npy", 10, "float64")
    assert len(list(tmp_path.iterdir())) == 1
    del made
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_can_be_put_in_place_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new.npy"
    made = sharing.SharedArray.create_npy(path, 4, "float64")
    made.array[:] = 1, 2, 3, 4
    made.commit()
    made.commit()
    assert np.load(path).tolist() == [1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    for name, error in (("no/new.npy", FileNotFoundError), ("folder.npy", IsADirectoryError)):
        with pytest.raises(error) as caught:
            sharing.SharedArray.create_npy(tmp_path / name, 10, "float64")
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(sharing.SharingError, match="holds objects"):
        sharing.SharedArray.create_npy(tmp_path / "new.npy", 10, object)
    with pytest.raises(OSError, match=r"too large|No space"):
        sharing.SharedArray.create_npy(tmp_path / "new.npy", (1 << 50,), "float64")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.npy"]


# Faults


def nothing_is_put_back() -> None:
    """Leave a block as the dead or the failed have left it."""
    sharing.SharedArray._restore = lambda *_: None  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "test", "variant"),
    [
        (
            nothing_is_put_back,
            test_blocks_changed_in_place_are_exact_when_workers_die_in_the_middle,
            "fork",
        ),
        (
            nothing_is_put_back,
            test_blocks_changed_in_place_are_exact_when_workers_die_between_blocks,
            "fork",
        ),
        (nothing_is_put_back, test_a_block_that_fails_is_as_it_was, "fork"),
    ],
)
def test_each_fault_makes_a_test_fail(
    fault: Callable[[], None], test: Callable[..., None], variant: str
) -> None:
    assert_red(fault, test, variant)
