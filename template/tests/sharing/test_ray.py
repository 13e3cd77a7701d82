"""What only the engine of ray has: a ray that is there already, one far away, nodes that go."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import leftovers
import pytest
import ray
import remote_jobs as jobs
from engine_jobs import square
from probe import Bare, Probe
from ray_cluster import Nodes, cluster, nodes
from remote_engines import CORES, crew_of, daemon, environment, jobs_give_the_same_files
from remote_jobs import Task
from signs import LIMIT, Signs, wait_until
from under_test import chunks, events, runs, sharing

ray_engine: Any = importlib.import_module(f"{sharing.__name__}.engines.ray.engine")


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
        team = crew_of(engine)._team
        values = engine.map(jobs.load, [Task(signs, n) for n in range(4)], chunk_size=1)
        assert next(values) == loaded(0)
        wait_until(lambda: len(signs.notes("begun")) == 3)
        two_nodes.kill()
        # When that is seen, the other worker is busy still, and this one's slot has none.
        others = [lambda: not all(worker.is_ready for worker in tuple(team.values())), signs]
        noticed = threading.Thread(target=go_on_when, args=others)
        noticed.start()
        assert list(values) == [loaded(1), loaded(2), loaded(3)]
        noticed.join()
        assert len(signs.notes("begun")) == 5
        two_nodes.add()
        assert len(set(engine.map(jobs.meet, [Task(signs, 2)] * 2, chunk_size=1))) == 2


def test_a_value_that_is_gone_with_its_node_is_made_again(
    two_nodes: Nodes, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job had ended; but nobody had fetched it yet."""
    address = two_nodes.address
    with sharing.open_engine(Bare(Probe()), engine="ray", workers=2, address=address) as engine:
        crew = crew_of(engine)
        held: list[tuple[Any, Any]] = []
        with monkeypatch.context() as patch:
            fetch = crew._fetch
            patch.setattr(ray_engine, "QUIET", LIMIT)
            patch.setattr(crew, "_fetch", lambda *call: held.append(call))
            values = engine.map(jobs.load, [Task(signs, n) for n in (1, 2)], chunk_size=1)
            found: list[bytes] = []
            reader = threading.Thread(target=found.extend, args=(values,))
            reader.start()
            wait_until(lambda: len(held) == 2)
        signs.give("go on")
        refs = [ref for _, ref in held]
        made, _ = ray.wait(refs, num_returns=2, timeout=LIMIT, fetch_local=False)
        assert len(made) == 2
        two_nodes.kill()
        for call in held:
            fetch(*call)
        reader.join(LIMIT)
        assert found == [loaded(1), loaded(2)]
        assert len(signs.notes("begun")) == 3


def test_a_worker_that_died_while_it_had_nothing_to_do_costs_no_try(
    own_ray: None, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked whether it is there before it gets a chunk, so that none goes with it."""
    monkeypatch.setattr(ray_engine, "QUIET", 0.0)
    with sharing.open_engine(Bare(Probe()), engine="ray", workers=2) as engine:
        pids = set(engine.map(jobs.meet, [Task(signs, 2)] * 2, chunk_size=1))
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any((leftovers.PROC / str(pid)).exists() for pid in pids))
        values = engine.map(square, range(4), chunk_size=1, retries=0)
        assert list(values) == [0, 1, 4, 9]


def test_a_worker_that_is_ended_when_its_answer_has_come_is_gone_all_the_same(
    own_ray: None,
) -> None:
    """No call of it is under way any more, so ray has nothing to say of its end."""
    state = Bare(Probe())
    crew = ray_engine.RayCrew(state, 1, None)
    crew.open([state.probe])
    try:
        crew.start(1)
        assert until(crew, events.Ready) == [events.Ready(1)]
        settings = runs.Settings("square")
        sizer = runs.Sizer(settings, 1, ray_engine.remote.SIZES)
        run = runs.Run(1, settings, crew.dumps(square), sizer, runs.Shelf(ordered=True))
        packed = chunks.Packed(crew.dumps([3]), 1)
        crew.send(1, chunks.ChunkId(1), chunks.Chunk(run, 0, [3], packed))
        wait_until(lambda: not crew._arrivals._queue.empty())
        crew.kill(1)
        answered, died = until(crew, ray_engine.Died)
        assert isinstance(answered, events.Answered)
        assert died == ray_engine.Died(1, chunks.UNBEGUN, "by its engine")
        crew.start(1)  # its slot is free
        assert until(crew, events.Ready) == [events.Ready(1)]
    finally:
        crew.end(politely=False)
        crew.close()


def until(crew: Any, kind: type) -> list[Any]:
    """What happens until something of that kind does."""
    found: list[Any] = []

    def has_happened() -> bool:
        found.extend(crew.poll(0.1))
        return any(isinstance(one, kind) for one in found)

    wait_until(has_happened)
    return found


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
