"""The jobs of test_locks_remote.py, apart from it: workers need not import pytest."""

from dataclasses import dataclass

from locks_remote_leases import leases
from probe import kill_self
from remote_jobs import Task
from signs import LIMIT
from under_test import sharing


@dataclass
class State:
    """What the workers share."""

    first: sharing.Lock
    accounts: sharing.Guarded


def fresh_state() -> State:
    """Four accounts, and a lock."""
    return State(sharing.Lock(), sharing.Guarded("q", [1000] * 4))


def in_two_sections(task: Task, state: State) -> int:
    """Add one to two accounts, each in a section of its own; some are killed somewhere, once."""
    places = ("at first", "in a section", "between", "at last")
    place = places[task.number // 5] if task.number % 5 == 2 and task.number < 20 else ""

    def die(here: str) -> None:
        if place == here and task.signs.first(f"{task.number} died"):
            kill_self()

    die("at first")
    with state.accounts as accounts:
        accounts[0] += 1
        die("in a section")
        accounts[1] += 1
    die("between")
    with state.accounts as accounts:
        accounts[2] += 1
        accounts[3] += 1
    die("at last")
    return task.number


def count_in_a_file(task: Task, state: State) -> int:
    """Read, add one, write: nothing that stands company."""
    path = task.signs.folder / "number"
    with state.first:
        path.write_text(str(int(path.read_text()) + 1))
        return state.first.token


def die_holding(task: Task, state: State) -> str:
    """Of two, one dies with the lock (0) or in a section (1), while the other waits for it."""
    lock = state.accounts if task.number else state.first
    if task.signs.first("holder"):
        with lock:
            task.signs.give("held")
            task.signs.wait("waiting")
            kill_self()
    if not task.signs.first("waiter"):
        return "again"
    task.signs.wait("held")
    task.signs.give("waiting")
    if task.number:
        with state.accounts:
            return "got it"
    got = state.first.acquire(timeout=LIMIT)
    state.first.release()
    return "got it" if got else "never free"


def change_and_raise(item: int, state: State) -> None:
    """Roll back."""
    with state.accounts as accounts:
        accounts[0] -= 7
        raise ValueError(item)


def take_two(item: object, state: State) -> bool:
    """Against their order."""
    with state.accounts, state.first:
        return True


def outlive_the_lease(task: Task, state: State) -> None:
    """Hold a section so long that the lease on it ends; the other one has committed by then."""
    if task.signs.first("slow"):
        state.accounts._mutex.renew = lambda: None  # type: ignore[attr-defined]
        with state.accounts as accounts:
            task.signs.give("held")
            task.signs.wait("committed")
            accounts[0] = -1
        return
    task.signs.wait("held")
    with state.accounts as accounts:
        accounts[1] += 1
    task.signs.give("committed")


class BriefStore(leases.LeaseStore):
    """One whose leases last a second."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(data, 1.0)


class NoReceipts(leases.LeaseMutex):
    """Has each attempt of an item commit its sections."""

    def _take(self, end: float | None) -> bool:
        taken = super()._take(end)
        self.done = 0
        return taken
