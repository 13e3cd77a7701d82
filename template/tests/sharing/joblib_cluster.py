"""joblib needs no cluster: it starts processes here."""

import contextlib
from collections.abc import Iterator

from joblib.externals.loky.backend import resource_tracker
from leftovers import Process

TRIES_IN_COMPANY = 1
"""How often an item that kills runs beside others, till it is known to be the one."""


DIES_ALONE = False
"""Whether a worker that is killed takes none of the others along."""


KEEPS_TIMEOUTS = False
"""Whether an item can be ended that takes too long."""


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Nothing has to be started."""
    yield None


def becomes_whole(address: object) -> None:
    """Wait until all of its workers are there: they are started by the engine."""


def helpers() -> set[int]:
    """The processes of this one's that live as long as it does."""
    tracker = resource_tracker._resource_tracker
    return set() if tracker._pid is None else {tracker._pid}


def lingering(family: set[Process]) -> set[Process]:
    """Those that need long to see that the main process is gone: none."""
    return set()
