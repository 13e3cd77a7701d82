"""The jobs of test_locks.py, apart from it: workers need not import pytest."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from probe import Probe, Step, kill_self
from signs import LIMIT, Signs, wait_until
from under_test import sharing


@dataclass
class State:
    probe: Probe
    first: sharing.Lock
    accounts: sharing.Guarded
    other: sharing.Guarded
    last: sharing.Lock


def fresh_state() -> State:
    return State(
        Probe(),
        sharing.Lock(),
        sharing.Guarded("q", [1000] * 8),
        sharing.Guarded("d", [0.5, 1.5, 2.5]),
        sharing.Lock(kind="rlock"),
    )


@dataclass(frozen=True)
class Task:
    """An item: what to do with which lock."""

    signs: Signs
    lock: str = "first"
    number: int = 0

    @property
    def file(self) -> Path:
        return self.signs.folder / "number"


def lock_of(task: Task, state: State) -> sharing.Lock:
    lock: sharing.Lock = getattr(state, task.lock)
    return lock


TURNS = 20
"""How often two get in each other's way on purpose, before they do by chance."""


def get_in_each_others_way(signs: Signs, change: Callable[[Callable[[], None]], None]) -> None:
    """Of two, one stops in the middle of a change until the other begins one, in turn.

    Who is not kept out is in then, even where both have to share one core.
    """
    mine = int(signs.first("here"))
    for turn in range(TURNS):
        if turn % 2 == mine:

            def stop(turn: int = turn) -> None:
                signs.give(f"in {turn}")
                signs.wait(f"begins {turn}")

            change(stop)
            signs.wait(f"out {turn}")
        else:
            signs.wait(f"in {turn}")
            signs.give(f"begins {turn}")
            change(go_on)
            signs.give(f"out {turn}")


def go_on() -> None:
    pass


def count_in_a_file(task: Task, state: State) -> None:
    """Read, add one, write: nothing that stands company."""
    lock = lock_of(task, state)

    def change(pause: Callable[[], None]) -> None:
        with lock:
            number = int(task.file.read_text() or 0)  # nothing, where another one writes meanwhile
            pause()
            task.file.write_text(str(number + 1))

    get_in_each_others_way(task.signs, change)
    for _ in range(task.number):
        change(go_on)


def move_to_and_fro(task: Task, state: State) -> None:
    """Change every account, as often as the task says."""

    def change(pause: Callable[[], None]) -> None:
        with state.accounts as accounts:
            numbers = list(accounts)
            pause()
            for place, number in enumerate(numbers):
                accounts[place] = number + 1

    get_in_each_others_way(task.signs, change)
    for _ in range(task.number):
        change(go_on)


def try_in_vain(task: Task, state: State) -> list[bool]:
    """Of two, one holds the lock and the other tries."""
    lock = lock_of(task, state)
    if task.signs.first("holder"):
        with lock:
            task.signs.give("held")
            task.signs.wait("tried")
        task.signs.give("free")
        return []
    task.signs.wait("held")
    tried = [lock.acquire(timeout=0), lock.acquire(timeout=0.02)]
    task.signs.give("tried")
    task.signs.wait("free")
    tried.append(lock.acquire(timeout=0))
    lock.release()
    return tried


def take_again(task: Task, state: State) -> list[bool]:
    """Take it twice; ask in another thread at each step whether it is free."""
    free = []
    lock = lock_of(task, state)

    def ask() -> None:
        if lock.acquire(timeout=0):
            lock.release()
            free.append(True)
        else:
            free.append(False)

    def ask_elsewhere() -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    with lock:
        ask_elsewhere()
        with lock:
            ask_elsewhere()
        ask_elsewhere()
    ask_elsewhere()
    return free


def change_in_threads(item: int, state: State) -> None:
    def change() -> None:
        for _ in range(500):
            with state.other as other:
                other[0] += 1

    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def release_what_is_not_held(task: Task, state: State) -> None:
    lock_of(task, state).release()


def take_two(names: tuple[str, str], state: State) -> bool:
    with getattr(state, names[0]), getattr(state, names[1]):
        return True


def change_and_raise(item: int, state: State) -> None:
    with state.accounts as accounts:
        accounts[0] -= 7
        raise ValueError(item)


kept: list[memoryview] = []


def keep_the_view(part: slice, state: State) -> None:
    """Take something along out of the section."""
    try:
        with state.accounts as accounts:
            accounts[0] += 1
            kept.append(accounts[part] if part.stop else accounts)
        kept[-1][0] += 1
    finally:
        kept.clear()


def transfer(item: int, state: State) -> tuple[int, int]:
    with state.accounts as accounts:
        accounts[item % 8] -= item
        accounts[(item * 5 + 3) % 8] += item
    return os.getpid(), sum(state.accounts.read())


def hang_in_a_section(signs: Signs, state: State) -> None:
    """Change the accounts, and stay till somebody has seen that."""
    with state.accounts as accounts:
        accounts[0] += 7
        signs.give("inside")
        signs.wait("read")


def move_half(number: int, state: State) -> None:
    """Move one from each number of the first half to its other in the second, often."""
    half = len(state.other) // 2
    for _ in range(number):
        with state.other as other:
            for place in range(half):
                other[place] -= 1
                other[half + place] += 1


def read_in_a_section(number: int, state: State) -> tuple[list[int], list[int]]:
    with state.accounts as accounts:
        accounts[0] += number
        inside = state.accounts.read().tolist()
    return inside, state.accounts.read().tolist()


def leave_in_another_thread(task: Task, state: State) -> list[str]:
    """Enter in one thread, which lives on, and leave in this one; as often as the task says."""
    lock = getattr(state, task.lock)
    said = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(task.number):
            section = contextlib.ExitStack()
            inside = pool.submit(section.enter_context, lock).result()
            if inside is not None:
                inside[0] += 1
            try:
                section.close()
            except sharing.SharingError as error:
                said.append(str(error))
            # In any thread.
            pool.submit(enter_and_leave, lock).result()
            enter_and_leave(lock)
    return said


def enter_and_leave(lock: "sharing.Lock | sharing.Guarded") -> None:
    with lock:
        pass


def die_holding(task: Task, state: State) -> str:
    """Of two, one dies with the lock held while the other waits for it."""
    lock = lock_of(task, state)
    if task.signs.first("holder"):
        lock.acquire()
        task.signs.give("held")
        task.signs.wait("waiting")
        kill_self()
    if not task.signs.first("waiter"):
        return "again"
    task.signs.wait("held")
    task.signs.give("waiting")
    got = lock.acquire(timeout=LIMIT)
    lock.release()
    return "got it" if got else "never free"


def die_waiting(task: Task, state: State) -> str:
    """Of two, one waits for the lock and is killed; the other holds it until that is known."""
    lock = lock_of(task, state)
    if task.signs.first("waiter"):
        task.signs.wait("held")
        task.signs.note("pid", os.getpid())
        lock.acquire()  # and dies here
    if not task.signs.first("holder"):
        task.signs.give("known")
        assert lock.acquire(timeout=LIMIT)
        lock.release()
        return "after all"
    with lock:
        task.signs.give("held")
        wait_until(lambda: task.signs.notes("pid"))
        os.kill(int(task.signs.notes("pid")[0]), signal.SIGKILL)
        task.signs.wait("known")
        return "held"


def in_two_sections(step: Step, state: State) -> int:
    """Add one to two accounts, each in a section of its own."""
    step.die_at("at first")
    with state.accounts as accounts:
        accounts[0] += 1
        step.die_at("in the first section")
        accounts[1] += 1
    step.die_at("between the sections")
    end = state.accounts._end

    def end_and_die(whole: bool) -> None:
        step.die_at("before the commit")
        end(whole)
        step.die_at("after the commit")

    state.accounts._end = end_and_die
    with state.accounts as accounts:
        accounts[2] += 1
        accounts[3] += 1
    state.accounts._end = end
    step.die_at("at last")
    for moment in ("answer", "chunk"):
        if step.may_die_at(moment):
            state.probe.die_at = moment
    return step.number
