"""Clusters of ray on this machine: of one node, or of some that can go and come."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from leftovers import PROC, Process
from ray._private import ray_constants
from remote_engines import CORES, daemon
from signs import wait_until

TRIES_IN_COMPANY = 0
"""How often an item that kills runs beside others, till it is known to be the one."""


DIES_ALONE = True
"""Whether a worker that is killed takes none of the others along."""


KEEPS_TIMEOUTS = True
"""Whether an item can be ended that takes too long."""


# Ray listens on the loopback device where it knows no clusters; these have all nodes there, and
# whoever gets so far needs no token.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"
ray_constants.ENABLE_RAY_CLUSTER = False  # it may have read that already


@contextlib.contextmanager
def cluster(*, has_clients: bool = False) -> Iterator[str]:
    """Its address; with ``has_clients`` that of its server of clients."""
    port, client_port = _free_port(), _free_port()
    # Of a short name: there are sockets in it.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = [f"--port={port}", f"--num-cpus={CORES}", f"--temp-dir={folder}"]
        options += ["--include-dashboard=False", "--disable-usage-stats", "--block"]
        options += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        options += [f"--ray-client-server-port={client_port}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
        with daemon([*command, *options]) as process:
            wanted = client_port if has_clients else port
            started = Path(folder, "ray_current_cluster")  # is written in the end
            wait_until(
                lambda: (started.exists() and _answers(wanted)) or process.poll() is not None
            )
            yield f"{'ray://' if has_clients else ''}127.0.0.1:{wanted}"


class Nodes:
    """A cluster of one node with a core, to which others like it come, and which they leave."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address = self._answer()

    def add(self) -> None:
        """One more."""
        self._order("add")

    def kill(self) -> None:
        """All processes of the one that has come last, at once."""
        self._order("kill")

    def _order(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._answer() == what

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """The script beside this one has them."""
    script = Path(__file__).with_name("ray_nodes.py")
    with daemon([sys.executable, script], talks=True) as process:
        yield Nodes(process)


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def becomes_whole(address: object) -> None:
    """Wait until all of its workers are there: they are started by the engine."""


def helpers() -> set[int]:
    """The processes of this one's that live as long as it does."""
    return set()


def lose_services(engine: Any) -> None:
    """Kill the actor that hosts what is shared, as a crash of its process would."""
    ray.kill(engine._crew._hub, no_restart=False)


def lingering(family: set[Process]) -> set[Process]:
    """Those that need up to two minutes to see that their cluster is gone: ray's own agents."""

    def name(process: Process) -> str:
        try:
            return (PROC / str(process.pid) / "cmdline").read_text()
        except OSError:
            return ""

    return {process for process in family if "Agent" in name(process)}
