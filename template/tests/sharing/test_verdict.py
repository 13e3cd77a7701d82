"""What becomes of a chunk whose worker has died: every case that there is, by a table."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator

import pytest
from under_test import chunks, runs, sources, verdict

Phase = chunks.Phase

SIZES = runs.Sizes(items=64, seconds=0.02, least=0.05, growth=4)

SHAPES = {
    # the items of the chunk, those of the list that it is a part of, whether each has a pickle
    "alone": (1, 1, False),
    "apart": (1, 5, True),
    "slice": (1, 5, False),
    "several": (40, 45, False),
    "several apart": (40, 45, True),
}

WAYS = ("by itself", "late", "blameless", "in company", "as a suspect")

FIRST = 7
"""The number of the first item."""


def table(phase: Phase, shape: str, way: str) -> str:
    """What has to come out: of the rules as they are told, not as they are programmed.

    same: all of it runs again, as before.
    suspect: all of it runs again, alone.
    item: it is held against the item that was running.
    only: it is held against the only item.
    again: all of it runs again, and nothing is held against anybody.
    unexplained: all of it runs again, for so many times.
    apart: each item gets a pickle of its own.
    pieces: it is cut into 16 parts.
    halves: it is cut into two.
    halves apart: the same, and each item gets a pickle of its own.
    """
    if phase is Phase.UNBEGUN:
        return "same"
    if way == "in company":
        return "suspect"
    if phase is Phase.RUNNING:
        return "item"
    if phase is Phase.SENDING:
        return "unexplained"
    stands_alone = shape in ("alone", "apart")
    if stands_alone:
        return "only"
    if phase is Phase.UNKNOWN:
        return {"slice": "apart", "several": "halves apart", "several apart": "halves"}[shape]
    if way == "blameless":
        return "again"
    return "pieces" if shape == "several apart" else "apart"


def chunk_of(shape: str, *, retries: int = 2) -> chunks.Chunk:
    length, count, apart = SHAPES[shape]
    settings = runs.Settings("job", retries=retries, timeout=1.5)
    run = runs.Run(1, settings, b"", runs.Sizer(settings, 2, SIZES), runs.Shelf(ordered=True))
    start = count - length
    items: list[object] = list(range(FIRST, FIRST + length))
    body = pickle.dumps([None] * start + items)
    return chunks.Chunk(run, FIRST, items, chunks.Packed(body, count, apart), start)


def death_of(phase: Phase, item: int, way: str) -> verdict.Death:
    return verdict.Death(
        chunks.Place(phase, item),
        "by SIGKILL",
        late=way == "late",
        blameless=way == "blameless",
        in_company=way in ("in company", "as a suspect"),
    )


def cases(phase: Phase) -> Iterator[tuple[str, str, int]]:
    """Every chunk, and how its worker may have died in that phase, over which item."""
    for shape, way in itertools.product(SHAPES, WAYS):
        length = SHAPES[shape][0]
        items = {0}
        if phase is Phase.RUNNING:
            items = {0, length // 2, length - 1}
        elif phase in (Phase.PACKING, Phase.SENDING):
            items = {length}
        for item in sorted(items):
            yield shape, way, item


def see_that_each_item_is_somewhere(found: verdict.Verdict, length: int) -> None:
    """Each of them once, and in the right place of the list that travels."""
    parts = sorted([*found.again, *found.apart, *(one for one, _ in found.failed)])
    assert [item for part in parts for item in part.items] == list(range(FIRST, FIRST + length))
    for part in parts:
        assert part.items
        assert part.items[0] == part.first
        assert pickle.loads(part.packed.body)[part.start : part.stop] == part.items


def see_what_is_held_against_it(
    one: chunks.Chunk, found: verdict.Verdict, way: str, died: int, retries: int
) -> None:
    """An item whose worker has died over it, after so many deaths that it had a part in before."""
    failed = {part.first: why for part, why in found.failed}
    if way == "blameless":
        assert not failed
        assert one.died == died
    elif way == "late":
        assert list(failed) == [one.first]
        kind, text, trace = failed[one.first].failure
        assert kind == failed[one.first].kind == "ItemTimeout"
        assert "more than 1.5 s" in text
        assert not trace
    elif died + 1 > retries:
        assert list(failed) == [one.first]
        kind, text, trace = failed[one.first].failure
        assert kind == failed[one.first].kind == "WorkerDied"
        times = "once" if died == 0 else f"{died + 1} times, the last"
        assert text == f"its worker died {times} by SIGKILL"
        assert not trace
    else:
        assert not failed
        assert one.died == died + 1


@pytest.mark.parametrize(("died", "retries"), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("phase", Phase)
def test_every_death_has_its_verdict(phase: Phase, died: int, retries: int) -> None:
    for shape, way, item in cases(phase):
        see_that_the_verdict_is_right(phase, shape, way, item, died, retries)


def see_that_the_verdict_is_right(
    phase: Phase, shape: str, way: str, item: int, died: int, retries: int
) -> None:
    chunk = chunk_of(shape, retries=retries)
    length = len(chunk)
    chunk.died = died if length == 1 else 0
    died = chunk.died
    chunk.suspect = way == "as a suspect"
    found = verdict.verdict(chunk, death_of(phase, item, way), {0: 3})
    see_that_each_item_is_somewhere(found, length)
    has_ended = phase in (Phase.PACKING, Phase.SENDING)
    expected = table(phase, shape, way)
    everything = [*found.again, *found.apart, *(one for one, _ in found.failed)]
    one = everything[0]
    if expected == "suspect":
        assert found.again == everything
        assert all(part.suspect for part in everything)
        assert {part.died for part in everything} == {died}
        return
    if expected in ("same", "again", "unexplained"):
        assert len(everything) == 1
        assert not found.apart
        assert not found.failed
        assert one.died == died
        assert one.suspect == (way == "as a suspect")
        assert one.unexplained == (expected == "unexplained")
    elif expected == "item":
        mine = next(part for part in everything if part.first == FIRST + item)
        assert len(mine) == 1
        see_what_is_held_against_it(mine, found, way, died, retries)
        assert not found.apart
        for part in found.again:
            assert part.ended == (part.first < FIRST + item)
            assert part is mine or part.died == 0
            assert part.left == ({0: 3} if part is mine else {})
        return
    elif expected == "only":
        assert len(everything) == 1
        see_what_is_held_against_it(one, found, way, died, retries)
    elif expected == "apart":
        assert found.apart == [one]
        assert len(everything) == 1
        assert one.died == died
    else:
        halves = expected.startswith("halves")
        assert len(found.apart if expected.endswith("apart") else found.again) == len(everything)
        most = 2 if halves else verdict.PIECES
        assert 1 < len(everything) <= most
        sizes = {len(part) for part in everything[:-1]}
        assert sizes == {-(-length // most)}
        assert {part.died for part in everything} == {0}
    assert {part.ended for part in everything} == {has_ended}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["by itself", "late", "blameless"])
def test_answers_that_are_lost_again_and_again_are_held_against_their_items(
    shape: str, way: str
) -> None:
    chunk = chunk_of(shape, retries=1)
    length = len(chunk)
    death = death_of(Phase.SENDING, length, "by itself")
    for deaths in range(verdict.UNEXPLAINED):
        (chunk,) = verdict.verdict(chunk, death, {}).again
        assert chunk.unexplained == deaths + 1
        assert chunk.died == 0
        assert chunk.ended
    found = verdict.verdict(chunk, death_of(Phase.SENDING, length, way), {})
    see_that_each_item_is_somewhere(found, length)
    if table(Phase.PACKING, shape, way) == "only":
        everything = [*found.again, *(one for one, _ in found.failed)]
        see_what_is_held_against_it(everything[0], found, way, 0, 1)
    for part in (*found.again, *found.apart):
        assert part.unexplained == verdict.UNEXPLAINED
        assert part.ended


@pytest.mark.parametrize("phase", [Phase.PACKING, Phase.SENDING])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_a_worker_was_told_not_to_begin_has_not_ended(
    phase: Phase, shape: str, share: float
) -> None:
    chunk = chunk_of(shape)
    length = len(chunk)
    returned = int(length * share)
    found = verdict.verdict(chunk, death_of(phase, returned, "by itself"), {})
    see_that_each_item_is_somewhere(found, length)
    for part in (*found.again, *found.apart):
        assert part.ended == (part.first < FIRST + returned)
        assert part.died == 0


def test_an_item_has_as_many_tries_as_there_are_retries_and_one() -> None:
    for retries in range(4):
        chunk = chunk_of("several", retries=retries)
        death = death_of(Phase.RUNNING, 20, "by itself")
        deaths = 0
        while True:
            found = verdict.verdict(chunk, death, {0: deaths})
            deaths += 1
            if found.failed:
                break
            chunk = found.again[-1]
            assert chunk.items == [FIRST + 20]
            death = death_of(Phase.RUNNING, 0, "by itself")
        assert deaths == retries + 1


def test_tries_and_sections_of_an_item_go_along_when_it_is_pickled_by_itself() -> None:
    chunk = chunk_of("several")
    running = death_of(Phase.RUNNING, 20, "by itself")
    mine = verdict.verdict(chunk, running, {0: 2, 1: 1}).again[-1]
    assert (mine.died, mine.left, mine.ended) == (1, {0: 2, 1: 1}, False)
    reading = death_of(Phase.READING, 0, "by itself")
    (alone,) = verdict.verdict(mine, reading, {0: 0, 1: 0}).apart
    assert (alone.died, alone.left, alone.ended) == (1, {0: 2, 1: 1}, False)
    (packed,) = sources.repack(alone, pickle.dumps).chunks
    assert (packed.died, packed.left, packed.stands_alone) == (1, {0: 2, 1: 1}, True)
    (again,) = verdict.verdict(packed, reading, {0: 0, 1: 0}).again
    assert (again.died, again.left) == (2, {0: 2, 1: 1})


def test_of_what_two_attempts_have_left_behind_the_greater_counts() -> None:
    chunk = chunk_of("alone")
    chunk.left = {0: 3, 1: 1}
    death = death_of(Phase.RUNNING, 0, "by itself")
    (again,) = verdict.verdict(chunk, death, {0: 0, 1: 2, 2: 1}).again
    assert again.left == {0: 3, 1: 2, 2: 1}
