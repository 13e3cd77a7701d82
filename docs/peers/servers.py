"""Servers that some of the ways need, begun when first asked for, and ended by the run."""

import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: No token is asked for among processes of one machine; and no report goes anywhere.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
WORKERS = 2


@contextmanager
def redis() -> Iterator[str]:
    """A Redis server on a Unix socket, which keeps nothing; yields the path of the socket.

    Raises:
        ImportError: there is none.
    """
    import redis as client

    beside = sysconfig.get_path("scripts")
    server = shutil.which("redis-server", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if server is None:
        raise ImportError("redis-server", name="redis-server")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "redis.sock"))
        options = ("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no")
        process = subprocess.Popen([server, *options, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 10
            while process.poll() is None and time.monotonic() < end:
                try:
                    client.Redis(unix_socket_path=path).ping()
                    break
                except client.ConnectionError:
                    time.sleep(0.01)
            yield path
        finally:
            process.kill()
            process.wait()


@contextmanager
def ray() -> Iterator[Any]:
    """Ray on this machine, with as many cores as there are workers."""
    import ray as module

    try:
        module.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=1 << 30,
        )
        yield module
    finally:
        module.shutdown()


@contextmanager
def dask() -> Iterator[Any]:
    """A cluster of dask.distributed on this machine: a process a worker, a thread in each."""
    import dask
    import distributed

    dask.config.set({"distributed.worker.daemon": True})
    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=40
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
