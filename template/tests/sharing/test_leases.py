"""The contract of `LeaseStore`: one holder at a time, and what comes too late changes nothing."""

import threading

from locks_remote_leases import leases
from signs import LIMIT, wait_until

ITEM = (1, 7)


def taken(store: leases.LeaseStore, holder: str, item: tuple[int, int] | None = ITEM) -> int:
    """Take the lease, which must be free; its token."""
    answer = store.take(holder, item, 0)
    assert answer is not None
    return answer[0]


def test_one_has_it_and_each_token_is_greater() -> None:
    store = leases.LeaseStore()
    first = taken(store, "1 ")
    assert store.take("2 ", ITEM, 0) is None
    assert store.take("2 ", ITEM, 0.01) is None
    assert store.renew(first)
    assert store.release(first)
    assert not store.release(first)
    assert taken(store, "2 ") > first


def test_who_waits_goes_on_when_it_is_free() -> None:
    store = leases.LeaseStore()
    token = taken(store, "1 ")
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(store.take("2 ", ITEM, LIMIT)))
    thread.start()
    assert store.release(token)
    thread.join(LIMIT)
    assert got != [None]
    assert len(got) == 1


def test_an_expired_lease_commits_nothing() -> None:
    store = leases.LeaseStore(b"old", seconds=0.05)
    late = taken(store, "1 ")
    assert store.take("2 ", None, LIMIT) == (late + 1, b"old", 0)
    assert not store.renew(late)
    assert not store.commit(late, ITEM, 1, b"late")
    assert not store.release(late)
    assert store.read() == b"old"


def test_who_died_waiting_does_not_get_it() -> None:
    store = leases.LeaseStore(seconds=3600)
    taken(store, "1 ")
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(store.take("2 ", ITEM, LIMIT)))
    thread.start()
    wait_until(lambda: store._asking)
    store.holder_left("2 ")
    store.holder_left("1 ")
    thread.join(LIMIT)
    assert got == [None]
    taken(store, "3 ")


def test_a_new_holder_fences_off_the_one_before() -> None:
    store = leases.LeaseStore(b"old", seconds=3600)
    before = taken(store, "1 ")
    store.holder_left("1 ")
    fresh = taken(store, "2 ", None)
    assert not store.commit(before, ITEM, 1, b"of the dead")
    assert store.commit(fresh, None, 1, b"new")
    assert store.read() == b"new"


def test_who_has_died_frees_only_his_own() -> None:
    store = leases.LeaseStore()
    taken(store, "12 ")
    store.holder_left("1 ")
    assert store.take("2 ", ITEM, 0) is None
    store.holder_left("12 ")
    taken(store, "2 ")


def test_knows_what_an_item_has_committed_till_it_has_ended() -> None:
    store = leases.LeaseStore(b"0")
    assert store.commit(taken(store, "1 "), ITEM, 1, b"1")
    assert store.commit(taken(store, "1 "), ITEM, 2, b"2")
    token, data, done = store.take("2 ", ITEM, 0) or (0, b"", 0)
    assert (data, done) == (b"2", 2)
    assert store.release(token)
    store.settle([(1, 0, 8)])
    assert store.take("3 ", ITEM, 0) == (token + 1, b"2", 0)
