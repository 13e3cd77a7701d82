"""What becomes of a chunk whose worker has died: all of blame, tries and splitting.

An item ends when its answer is on its way. So a worker that died

    before it had begun                 costs nothing: all of it runs as if for the first time
    over an item                        costs that item a try; those before it had returned, and
                                        run again uncounted; those behind it go on
    while it read several items         costs nothing yet: each item travels apart now, so that
    or packed several results           the next death is one over an item
    while it read or packed one         costs that item a try
    while its answer was on its way     costs nothing, since all had ended; but not for ever
    and nobody knows where it was       costs nothing yet: each half runs by itself, with its items
                                        apart, until the item that ends its workers is alone

What an item had done when it died is in ``left``, which the next attempt is given.
"""

from __future__ import annotations

from typing import NamedTuple

from .chunks import Chunk, Phase, Place, Why

UNEXPLAINED = 10
"""Deaths that no item is blamed for, after which the next one is held against its chunk: a job
that closes the descriptors of its worker loses the answer each time."""

PIECES = 16
"""Parts that a chunk is cut into to find the item that ends its workers."""


class Death(NamedTuple):
    """How a worker ended.

    Attributes:
        place: where in its chunk it was.
        how: in words, such as "by SIGKILL".
        late: whether it was ended since it took too long at that very place.
        blameless: whether it was ended over something that had come to its end meanwhile.
        in_company: whether it may have been another worker's chunk that ended it.
    """

    place: Place
    how: str
    late: bool = False
    blameless: bool = False
    in_company: bool = False


class Verdict(NamedTuple):
    """What becomes of the items of a chunk.

    Attributes:
        again: run again.
        apart: run again, and each item has to be pickled by itself before.
        failed: have no value, one item each.
    """

    again: list[Chunk]
    apart: list[Chunk] = []  # noqa: RUF012
    failed: list[tuple[Chunk, Why]] = []  # noqa: RUF012


def verdict(chunk: Chunk, death: Death, left: dict[int, int]) -> Verdict:
    """What becomes of a chunk that a worker had when it died.

    Args:
        chunk: what it had.
        death: how it ended.
        left: what the item that was running has left behind, by the places of the patterns.
    """
    phase, item = death.place
    if phase is Phase.UNBEGUN:
        return Verdict([chunk])
    if phase in (Phase.PACKING, Phase.SENDING) and item < len(chunk):
        # It was told to begin no more of them.
        found = verdict(chunk.part(0, item), death, left) if item else Verdict([])
        return found._replace(again=[*found.again, chunk.part(item, len(chunk))])
    if death.in_company and not chunk.suspect:
        return Verdict([chunk.again(suspect=True)])
    if phase is Phase.RUNNING:
        others = [
            chunk.part(0, item, ended=True),
            chunk.part(item + 1, len(chunk)),
        ]
        mine = chunk.part(item, item + 1)
        mine.left = {
            place: max(left.get(place, 0), chunk.left.get(place, 0))
            for place in left.keys() | chunk.left.keys()
        }
        blamed = _blame(mine, death)
        return blamed._replace(again=[one for one in others if len(one)] + blamed.again)
    ended = phase in (Phase.PACKING, Phase.SENDING)
    if phase is Phase.SENDING and chunk.unexplained < UNEXPLAINED:
        return Verdict([chunk.again(ended=True, unexplained=chunk.unexplained + 1)])
    if chunk.stands_alone:
        return _blame(chunk.again(ended=chunk.ended or ended), death)
    if phase is Phase.UNKNOWN:
        # It may have been reading, and what comes in one piece would end whoever reads a part.
        halves = chunk.parts(2)
        return Verdict(halves) if chunk.packed.apart else Verdict([], apart=halves)
    if death.blameless:
        return Verdict([chunk.again(ended=chunk.ended or ended)])
    parts = chunk.parts(PIECES if chunk.packed.apart else 1, ended=ended)
    return Verdict(parts) if chunk.packed.apart else Verdict([], apart=parts)


def _blame(mine: Chunk, death: Death) -> Verdict:
    """The item that its worker died over: it has had a try, and there may be others."""
    run = mine.run
    if death.blameless:
        return Verdict([mine])
    if death.late:
        reason = f"it ran for more than {run.timeout:g} s, and its worker was ended"
        return Verdict([], failed=[(mine, Why("ItemTimeout", ("ItemTimeout", reason, "")))])
    mine.died += 1
    if mine.died <= run.retries:
        return Verdict([mine])
    times = "once" if mine.died == 1 else f"{mine.died} times, the last"
    reason = f"its worker died {times} {death.how}"
    return Verdict([], failed=[(mine, Why("WorkerDied", ("WorkerDied", reason, "")))])
