"""The contract of `SharedArray` and `map_blocks` on the engines beside `processes`."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arrays_remote_jobs as jobs
import numpy as np
import pytest
from arrays_remote_jobs import State, numbers
from remote_engines import REMOTE, opened
from signs import Signs
from under_test import sharing

Engine = sharing.Engine[State]


def fresh_state(folder: Path) -> State:
    """A table, an empty one of its shape, and one in a file."""
    np.save(folder / "fixed.npy", numbers())
    return State(
        sharing.SharedArray.from_array(numbers()),
        sharing.SharedArray((1000, 3), "float32"),
        sharing.SharedArray.from_npy(folder / "fixed.npy"),
        Signs(folder),
    )


@pytest.fixture(scope="module", params=REMOTE)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """One for all tests, which leave its source as it was."""
    with opened(request, fresh_state(tmp_path_factory.mktemp("arrays"))) as engine:
        yield engine


def expected_sums(engine: Engine) -> list[tuple[float, float]]:
    return [jobs.add_up(column, engine.state) for column in range(3)]


def test_every_worker_sees_the_arrays_as_they_are_when_a_map_begins(engine: Engine) -> None:
    assert list(engine.map(jobs.add_up, range(3))) == expected_sums(engine)
    engine.state.source.array[5] = 1000
    try:
        assert list(engine.map(jobs.add_up, range(3))) == expected_sums(engine)
    finally:
        engine.state.source.array[5] = numbers()[5]
    assert list(engine.map(jobs.add_up, range(3))) == expected_sums(engine)


def test_map_blocks_writes_to_another_array_in_the_order_of_blocks(engine: Engine) -> None:
    source, out = engine.state.source, engine.state.out
    blocks = engine.map_blocks(jobs.bounds, source, out, rows=300)
    assert blocks == [(0, 299), (300, 599), (600, 899), (900, 999)]
    assert sum(engine.map_blocks(jobs.round_to_out, source, out, rows=70)) == 1000
    assert np.array_equal(out.array, numbers().round(1).astype("float32"))
    assert np.array_equal(source.array, numbers())


def test_from_npy_reads_a_file_that_all_workers_see(engine: Engine) -> None:
    fixed, out = engine.state.fixed, engine.state.out
    assert engine.map_blocks(jobs.bounds, fixed, rows=500) == [(0, 499), (500, 999)]
    out.array[...] = 0
    engine.map_blocks(jobs.round_to_out, fixed, out, rows=400)
    assert np.array_equal(out.array, numbers().round(1).astype("float32"))
    with pytest.raises(sharing.JobFailed, match="write_to_rows failed on rows 0:1000: ValueError"):
        engine.map_blocks(jobs.write_to_rows, fixed)


def test_blocks_changed_in_place_are_exact_when_workers_die_in_the_middle(engine: Engine) -> None:
    source = engine.state.source
    try:
        engine.map_blocks(jobs.double, source, rows=100)
        assert np.array_equal(source.array, numbers() * 2 + 1)
        assert engine.state.signs.given("200 died")
        assert engine.state.signs.given("700 died")
    finally:
        source.array[...] = numbers()


def test_a_block_that_fails_is_as_it_was(engine: Engine) -> None:
    with pytest.raises(sharing.JobFailed, match="spoil_and_fail failed on rows 0:1000: ValueError"):
        engine.map_blocks(jobs.spoil_and_fail, engine.state.source)
    assert np.array_equal(engine.state.source.array, numbers())


def test_another_array_is_seen_as_it_was_when_the_map_began(engine: Engine) -> None:
    engine.state.out.array[0, 0] = 42
    found = engine.map_blocks(jobs.add_what_is_there, engine.state.fixed, rows=250)
    assert found == [42.0] * 4
    engine.state.out.array[0, 0] = 43
    found = engine.map_blocks(jobs.add_what_is_there, engine.state.fixed, rows=250)
    assert found == [43.0] * 4


def test_a_write_to_a_copy_of_an_array_is_refused(engine: Engine) -> None:
    shares = engine.state.source._store is None
    names = ["fixed"] if shares else ["fixed", "source", "out"]
    outcomes = list(engine.outcomes(jobs.write, names))
    assert [outcome.error.error_type for outcome in outcomes if outcome.error] == (
        ["ValueError"] * len(names)
    )
    assert np.array_equal(engine.state.source.array, numbers())


def test_a_copy_that_is_outdated_is_dropped(engine: Engine) -> None:
    source = engine.state.source
    if source._store is None:
        pytest.skip("there are no copies")
    list(engine.map(jobs.add_up, [0]))
    before: weakref.ref[Any] = weakref.ref(source._published)
    source.array[7] += 1
    try:
        list(engine.map(jobs.add_up, [0]))
        list(engine.map(jobs.add_up, [0]))
        gc.collect()
        assert before() is None
    finally:
        source.array[7] = numbers()[7]


def test_a_new_file_is_there_when_it_closes(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for name in REMOTE:
        state = fresh_state(tmp_path)
        state.out = sharing.SharedArray.create_npy(tmp_path / name, (1000, 3), "float32")
        with opened(request, state, engine=name) as engine:
            engine.map_blocks(jobs.round_to_out, state.source, state.out, rows=100)
            assert not (tmp_path / name).exists()
        assert np.array_equal(np.load(tmp_path / name), numbers().round(1).astype("float32"))
