"""A cluster of ray on this machine, of one node."""

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import ray
from leftovers import PROC, Process
from remote_engines import CORES, daemon
from signs import wait_until

TRIES_IN_COMPANY = 0
"""How often an item that kills runs beside others, till it is known to be the one."""


DIES_ALONE = True
"""Whether a worker that is killed takes none of the others along."""


@contextlib.contextmanager
def cluster(*, has_clients: bool = False) -> Iterator[str]:
    """Its address; with ``has_clients`` that of its server of clients."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # here too, for those that connect
    port, client_port = _free_port(), _free_port()
    # Of a short name: there are sockets in it.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = [f"--port={port}", f"--num-cpus={CORES}", f"--temp-dir={folder}"]
        options += ["--include-dashboard=False", "--disable-usage-stats", "--block"]
        options += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        if has_clients:
            options.append(f"--ray-client-server-port={client_port}")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
        with daemon([*command, *options]) as process:
            wanted = client_port if has_clients else port
            wait_until(lambda: _answers(wanted) or process.poll() is not None)
            yield f"{'ray://' if has_clients else ''}127.0.0.1:{wanted}"


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def helpers() -> set[int]:
    """The processes of this one's that live as long as it does."""
    return set()


def lose_services(engine: Any) -> None:
    """Kill the actor that hosts what is shared, as a crash of its process would."""
    ray.kill(engine._hub, no_restart=False)


def lingering(family: set[Process]) -> set[Process]:
    """Those that need up to two minutes to see that their cluster is gone: ray's own agents."""

    def name(process: Process) -> str:
        try:
            return (PROC / str(process.pid) / "cmdline").read_text()
        except OSError:
            return ""

    return {process for process in family if "Agent" in name(process)}
