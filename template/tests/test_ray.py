"""What only the engine of ray has: a ray that is there already, and one that is far away."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from engine_jobs import square
from probe import Bare, Probe
from ray_cluster import cluster
from remote_engines import jobs_give_the_same_files
from under_test import sharing


@pytest.fixture
def own_ray() -> Iterator[None]:
    """One that the user has started, and goes on to use."""
    with cluster() as address:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        try:
            yield
        finally:
            ray.shutdown()


def test_a_ray_that_is_there_already_is_used_and_left(own_ray: None) -> None:
    for _ in range(2):
        with sharing.open_engine(Bare(Probe()), engine="ray", workers=2) as engine:
            assert list(engine.map(square, range(100))) == [n * n for n in range(100)]
        assert ray.is_initialized()
    assert ray.get(ray.put(3)) == 3
    with (
        pytest.raises(sharing.SharingError, match="99 workers don't fit into a ray cluster of 4"),
        sharing.open_engine(Bare(Probe()), engine="ray", workers=99),
    ):
        pass


@pytest.mark.timeout(180)
def test_the_jobs_run_where_only_a_client_gets(tmp_path: Path) -> None:
    """By `ray://`, where nothing of ray's runs in this process."""
    with cluster(has_clients=True) as address:
        jobs_give_the_same_files("ray", address, tmp_path)
