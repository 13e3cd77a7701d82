"""The jobs of test_per_worker.py, apart from it: workers need not import pytest."""

import os
import threading
from dataclasses import dataclass

from probe import kill_self
from signs import Signs, wait_until
from under_test import sharing


class Shop:
    """What is expensive to open, and has to be closed."""

    def __init__(self, signs: Signs) -> None:
        self.signs = signs
        self.pid = str(os.getpid())
        signs.note("opened", self.pid)

    def close(self) -> None:
        """Note by whom."""
        assert self.pid == str(os.getpid())
        self.signs.note("closed", self.pid)


@dataclass
class State:
    """What each worker has of its own."""

    event: sharing.PerWorker[threading.Event]
    shop: sharing.PerWorker[Shop]


def fresh_state(signs: Signs) -> State:
    """A state, of which nothing is made yet."""
    return State(sharing.PerWorker(threading.Event), sharing.PerWorker(Shop, signs))


def nothing(item: int, state: State) -> None:
    """Leave the shop alone."""


def use(item: int, state: State) -> str:
    """Say whose shop it is, which has to be this worker's."""
    shop = state.shop.get()
    assert shop is state.shop.get()
    assert shop.pid == str(os.getpid())
    return shop.pid


def meet_and_use(signs: Signs, state: State) -> str:
    """Use it when both workers are here."""
    signs.note("there")
    wait_until(lambda: len(signs.notes("there")) == 2)
    return use(0, state)


def use_and_die_once(signs: Signs, state: State) -> str:
    """Die with the shop open."""
    used = use(0, state)
    if signs.first("died"):
        kill_self()
    return used


def set_event(item: int, state: State) -> bool:
    """Use what can't be pickled."""
    state.event.get().set()
    return state.event.get().is_set()
