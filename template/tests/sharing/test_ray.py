"""What only the engine of ray has: a ray that is there already, one far away, nodes that go."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import leftovers
import pytest
import ray
import remote_jobs as jobs
from engine_jobs import square
from probe import Bare, Probe
from ray_cluster import Nodes, cluster, nodes
from remote_engines import CORES, daemon, environment, jobs_give_the_same_files
from remote_jobs import Task
from signs import LIMIT, Signs, wait_until
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
    refusal = f"99 workers don't fit into a ray cluster of {CORES}"
    with (
        pytest.raises(sharing.SharingError, match=refusal),
        sharing.open_engine(Bare(Probe()), engine="ray", workers=99),
    ):
        pass


@pytest.mark.timeout(180)
def test_the_jobs_run_where_only_a_client_gets(tmp_path: Path) -> None:
    """By `ray://`, where nothing of ray's runs in this process."""
    with cluster(has_clients=True) as address:
        jobs_give_the_same_files("ray", address, tmp_path)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_is_gets_one_line(scheme: str) -> None:
    """At once: ray itself would try for minutes."""
    address = f"{scheme}127.0.0.1:9"
    begun = time.monotonic()
    with (
        pytest.raises(sharing.StartFailed, match=f"no ray cluster at {address}: .*refused"),
        sharing.open_engine(Bare(Probe()), engine="ray", address=address),
    ):
        pass
    assert time.monotonic() - begun < LIMIT / 3


OWN = f"""
import dataclasses, ray
from {sharing.__name__} import open_engine

@dataclasses.dataclass
class State:
    number: int = 0

with open_engine(State(), engine="ray", workers=1):
    print(ray.get_runtime_context().gcs_address, flush=True)
    input()
"""


def test_a_cluster_of_its_own_lets_in_nobody_else() -> None:
    """It listens on the loopback device, to those that have its token."""
    settings = ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    without = ["env", *(f"--unset={name}" for name in settings)]
    with daemon([*without, sys.executable, "-c", OWN], talks=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("127.0.0.1:")
        refused = subprocess.run(
            [sys.executable, "-c", f"import ray; ray.init({address!r}); print('is in')"],
            env=environment() | {"RAY_NUM_REDIS_GET_RETRIES": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    assert "is in" not in refused.stdout
    assert "token is missing or incorrect" in refused.stderr


@pytest.fixture
def two_nodes() -> Iterator[Nodes]:
    """With a core each."""
    with nodes() as found:
        found.add()
        yield found


def loaded(number: int) -> bytes:
    """The value of an item."""
    return bytes([number]) * (1 << 20)


def go_on_when(what: Callable[[], object], signs: Signs) -> None:
    """Let the jobs go on then."""
    wait_until(what)
    signs.give("go on")


def test_a_node_that_goes_costs_what_it_had_and_one_that_comes_gets_work(
    two_nodes: Nodes, signs: Signs
) -> None:
    address = two_nodes.address
    with sharing.open_engine(Bare(Probe()), engine="ray", workers=2, address=address) as engine:
        coming = engine._coming  # type: ignore[attr-defined]
        values = engine.map(jobs.load, [Task(signs, n) for n in range(4)], chunk_size=1)
        assert next(values) == loaded(0)
        wait_until(lambda: len(signs.notes("begun")) == 3)
        two_nodes.kill()
        # When that is seen, the other worker is busy still, and this one's seat has none.
        noticed = threading.Thread(target=go_on_when, args=(lambda: coming, signs))
        noticed.start()
        assert list(values) == [loaded(1), loaded(2), loaded(3)]
        noticed.join()
        assert len(signs.notes("begun")) == 5
        two_nodes.add()
        assert len(set(engine.map(jobs.meet, [Task(signs, 2)] * 2, chunk_size=1))) == 2


def test_a_value_that_is_gone_with_its_node_is_made_again(two_nodes: Nodes, signs: Signs) -> None:
    """Its job had ended; but nobody had fetched it yet."""
    address = two_nodes.address
    with sharing.open_engine(Bare(Probe()), engine="ray", workers=2, address=address) as engine:
        values = engine.map(jobs.load, [Task(signs, n) for n in range(3)], chunk_size=1)
        assert next(values) == loaded(0)
        signs.give("go on")
        pending = list(engine._pending)  # type: ignore[attr-defined]
        made, _ = ray.wait(pending, num_returns=2, timeout=LIMIT, fetch_local=False)
        assert len(made) == 2
        two_nodes.kill()
        assert list(values) == [loaded(1), loaded(2)]
        assert len(signs.notes("begun")) == 4


# A thread of gRPC's may still ask for the state of the channel that ray's client has closed.
@pytest.mark.filterwarnings("ignore:Exception in:pytest.PytestUnhandledThreadExceptionWarning")
def test_a_cluster_that_is_gone_raises_state_lost(
    signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the map learns it, and the engine closes: ray would try for ever."""
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "1")
    before = set(leftovers.apart)  # other tests go on to use these clusters
    with cluster(has_clients=True) as address:
        ours = {one for pid in leftovers.apart - before for one in leftovers.family(pid)}
        with (
            pytest.raises(sharing.StateLost, match=r"the ray cluster at ray://.* is gone"),
            sharing.open_engine(Bare(Probe()), engine="ray", workers=2, address=address) as engine,
        ):
            values = engine.map(jobs.load, [Task(signs, n) for n in range(4)], chunk_size=1)
            assert next(values) == loaded(0)
            begun = time.monotonic()
            for process in ours:
                os.kill(process.pid, signal.SIGKILL)
            list(values)
    assert time.monotonic() - begun < LIMIT / 3
