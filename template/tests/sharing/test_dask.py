"""What only the engine of dask has: a scheduler to lose, and workers that join while it runs."""

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest
import remote_jobs as jobs
from dask_cluster import cluster, worker
from distributed import Client
from probe import Bare, Probe
from remote_jobs import Task
from signs import LIMIT, Signs
from under_test import sharing


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of one test, which may ruin it: of one worker with two threads."""
    with cluster(workers=1, threads=2) as address:
        yield address


def test_a_scheduler_that_is_gone_raises_state_lost(address: str, signs: Signs) -> None:
    """Whoever reads the map learns it, soon; and the engine closes."""
    with Client(address, timeout=LIMIT, set_as_default=False) as client:
        scheduler = client.run_on_scheduler(os.getpid)
    with (
        pytest.raises(sharing.StateLost, match=r"the dask scheduler at .* is gone"),
        sharing.open_engine(Bare(Probe()), engine="dask", workers=2, address=address) as engine,
    ):
        values = engine.map(jobs.note_and_wait, [Task(signs, 0), Task(signs, 1)], chunk_size=1)
        signs.note("pids 1", "is not to wait")
        signs.note("pids 0", "nor is this")
        assert next(values) == 0
        begun = time.monotonic()
        os.kill(scheduler, signal.SIGKILL)
        list(engine.map(jobs.note_and_wait, [Task(signs, 2)]))
    assert time.monotonic() - begun < LIMIT / 3


def test_a_cluster_whose_workers_are_gone_is_given_up(
    address: str, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When none has come for long."""
    monkeypatch.setattr(sys.modules[f"{sharing.__name__}.engines.remote"], "ALONE", 0.5)
    with Client(address, timeout=LIMIT, set_as_default=False) as client:
        # First the nanny, which would start another.
        pids = [pid for ask in (os.getppid, os.getpid) for pid in client.run(ask).values()]
    with (
        pytest.raises(sharing.SharingError, match=r"all workers of the cluster are gone"),
        sharing.open_engine(Bare(Probe()), engine="dask", workers=2, address=address) as engine,
    ):
        values = engine.map(jobs.load, [Task(signs, n) for n in range(3)], chunk_size=1)
        assert len(next(values)) == 1 << 20
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        list(values)


def test_a_worker_that_joins_gets_work(address: str, signs: Signs) -> None:
    """What it must know of the engine, it is told."""
    with (
        sharing.open_engine(Bare(Probe()), engine="dask", workers=2, address=address) as engine,
        worker(address, threads=2),
    ):
        with Client(address, timeout=LIMIT, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=LIMIT)
        pids = list(engine.map(jobs.meet, [Task(signs, 2)] * 2, chunk_size=1))
        assert len(set(pids)) == 2


def test_more_workers_than_threads_are_refused(address: str) -> None:
    with (
        pytest.raises(sharing.SharingError, match=r"3 workers don't fit .* of 2 threads"),
        sharing.open_engine(Bare(Probe()), engine="dask", workers=3, address=address),
    ):
        pass


def test_an_address_where_nobody_is_gets_one_line() -> None:
    with (
        pytest.raises(sharing.StartFailed, match=r"no dask cluster at tcp://127\.0\.0\.1:9"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys.modules[f"{sharing.__name__}.engines.dask.engine"], "_START", 1.0)
        with sharing.open_engine(Bare(Probe()), engine="dask", address="tcp://127.0.0.1:9"):
            pass
