"""Worlds that are made up: workers, sources and readers of a scheduler, without any process.

A `World` does what the scheduler says, has things happen to it in an order that its seed decides,
and keeps books of its own, in the words of what is promised: which items were read, how often what
each has done was counted, which deaths each of them is to blame for, what has come for its reader.
Whatever does not fit is `Wrong`. The same seed gives the same world.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, cast

from under_test import chunks, events, runs, scheduler, sources, verdict

LEFT_OUT = 30
"""How often in a row nothing happens by chance, after which whoever can has to do something."""

ENDLESS = 10_000
"""Events after which a world should have come to its end long ago."""

UNEXPLAINED = verdict.UNEXPLAINED

SIZES = runs.Sizes(items=64, seconds=0.02, least=0.05, growth=4)

ENDED: tuple[chunks.Phase, ...] = (chunks.Phase.PACKING, chunks.Phase.SENDING)
"""Where all items of a chunk have ended that it begins."""

ALONE = (events.Gone, events.Late, events.Broke, events.Closing, events.Opened)
"""Nothing else is told of in the same breath after one of these."""

Event = Any
Act = Callable[[bool], "Event | None"]


class Wrong(AssertionError):
    """The scheduler has done what it must not do, or has not done what it must."""


class _Stuck(Exception):
    """Nothing is under way any more."""


class _Bytes:
    """In the place of a pickle: what is in it, and how long it would be."""

    __slots__ = ("content", "nbytes")

    def __init__(self, content: list[Any], nbytes: int) -> None:
        self.content = content
        self.nbytes = nbytes

    def __len__(self) -> int:
        return self.nbytes


def _zeros(count: int) -> bytearray:
    return bytearray(count)


def _all(numbers: bytearray, value: int, start: int, stop: int) -> bool:
    return numbers.count(value, start, stop) == stop - start


class Map:
    """A map, its source, its reader, and the books of its items.

    Attributes:
        values: what comes of each item.
        brought: how many the source has brought.
        sections: how many sections each item has.
        committed: how many of these have committed.
        applied: how often what each item has done was counted.
        ended: whether it has come to its end in some worker.
        deaths: how many deaths each is to blame for.
        unexplained: in how many deaths it took part that none is to blame for.
        suspects: whether each is one.
        got: whether it has come for the reader.
        failed: how each has to fail.
        cursed: where those are that end every worker, in that phase.
        unkept: the items that do what can't be kept.
    """

    def __init__(self, world: World, number: int) -> None:
        random = world.random
        self.world = world
        self.number = number
        self.size = size = random.choice((0, 1, 2, 5, 12, 30, 30, 80, 80, 160))
        ordered = random.random() < 0.6
        chunk_size = random.choice((None, None, 1, 1, 2, 3, 7, 20))
        timeout = random.choice((None, 1.5))
        length = size if random.random() < 0.4 else None
        settings = runs.Settings("job", ordered, chunk_size, random.randrange(4), timeout, length)
        sizer = runs.Sizer(settings, world.workers, SIZES)
        self.run = runs.Run(number, settings, b"", sizer, runs.Shelf(ordered=ordered))
        self.ordered = ordered
        self.values = [7 * n + 1_000_003 * number for n in range(size)]
        self.brought = 0
        self.applied, self.ended, self.deaths = _zeros(size), _zeros(size), _zeros(size)
        self.unexplained, self.suspects, self.got = _zeros(size), _zeros(size), _zeros(size)
        self.committed, self.sections = _zeros(size), _zeros(size)
        if not world.is_remote and random.random() < 0.5:
            self.sections[:] = bytes(random.choices((0, 1, 2, 3), k=size))
        self.failed: dict[int, str] = {}
        self.cursed: dict[int, chunks.Phase] = {}
        self.unkept: set[int] = set()
        self.unfit: set[int] = set()  # can't be pickled
        self.fragile: set[int] = set()  # can't be pickled alone
        some = [n for n in range(size) if random.random() < 3 / size]
        if some and random.random() < 0.3:
            phases = (chunks.Phase.READING, chunks.Phase.RUNNING, *ENDED, chunks.Phase.SENDING)
            self.cursed = {n: random.choice(phases) for n in some}
        elif random.random() < 0.15:
            self.unkept = set(some)
        elif random.random() < 0.15:
            self.unfit = set(some)
        elif random.random() < 0.15:
            self.fragile = set(some)
        self.is_unreadable = random.random() < 0.03
        self.item_bytes = random.choice((1, 10, 100, 400))
        self.reply_bytes = random.choice((1, 10, 100, 400))
        self.again = 0  # how many chunks had to run again
        self.largest = self.largest_reply = 0  # bytes of a chunk, and of its results
        # The source.
        self.orders: deque[tuple[int, int]] = deque()
        self.error = ValueError("made up") if random.random() < 0.1 else None
        self.early = 0  # so many of what it was asked for it has brought already
        self.trickles = random.random() < 0.3
        self.has_ended = False
        self.is_source_lazy = random.choice((0.0, 0.0, 0.7))
        # The reader.
        self.mailbox: deque[chunks.Piece] = deque()
        self.turn = 0
        self.passed = 0
        self.leaves = random.choice((0.0, 0.0, 0.02, 0.2))
        self.is_lazy = random.choice((0.0, 0.3, 0.9, 0.95))
        self.has_begun = False
        self.has_left = False
        self.is_left = False  # and the scheduler knows
        self.is_finished = False

    # The source

    def bring(self, forced: bool) -> Event | None:
        """Bring the next chunks that it was asked for, or a part of one."""
        if not self.orders or (not forced and self.world.chance() < self.is_source_lazy):
            return None
        size, count = self.orders.popleft()
        if self.trickles:
            return self.bring_one(size, count)
        found: list[chunks.Chunk] = []
        refused: list[chunks.Piece] = []
        for _ in range(count):
            items = min(size, self.size - self.brought)
            if items:
                good, bad = self.pack(items)
                found += good
                refused += bad
            if items < size:
                self.has_ended = True
                self.orders.clear()
            if self.has_ended or (found and len(found[-1].packed.body) >= runs.SMALL):
                break
        error = self.error if self.has_ended else None
        return events.Fetched(self.run, size, count, found, refused, self.has_ended, error)

    def bring_one(self, size: int, count: int) -> Event:
        """Bring one chunk, or a part of it; or nothing, if those before were large."""
        random = self.world.random
        if count < 0:
            return events.Fetched(self.run, size, -count, [], [])
        wanted = size - self.early
        items = min(wanted, self.size - self.brought)
        is_end = items < wanted
        if items and random.random() < 0.4:
            items, is_end = random.randint(1, items), False
            if items < wanted and random.random() < 0.5:
                self.early += items
                self.orders.appendleft((size, count))
                return events.Fetched(self.run, 0, 0, *self.pack(items))
        good, bad = self.pack(items) if items else ([], [])
        self.early = 0
        if is_end:
            self.has_ended = True
            self.orders.clear()
        elif count > 1:
            is_large = bool(good) and len(good[-1].packed.body) >= runs.SMALL
            self.orders.appendleft((size, 1 - count if is_large else count - 1))
        error = self.error if is_end else None
        return events.Fetched(self.run, size, 1, good, bad, is_end, error)

    def pack(self, count: int) -> tuple[list[chunks.Chunk], list[chunks.Piece]]:
        """The next items."""
        start = self.brought
        self.brought += count
        items: list[object] = list(range(start, start + count))
        if self.unfit and not self.unfit.isdisjoint(items):
            for n in self.unfit.intersection(items):
                self.failed[n] = "JobFailed"
            return sources.pack(self.run, start, items, self.dumps)
        nbytes = max(1, self.item_bytes * count)
        self.largest = max(self.largest, nbytes)
        packed = chunks.Packed(cast("bytes", _Bytes(items.copy(), nbytes)), count)
        return [chunks.Chunk(self.run, start, items, packed)], []

    def dumps(self, value: Any) -> bytes:
        """Pickle an item, or a list of them, if that can be."""
        if not self.unfit.isdisjoint(value if isinstance(value, list) else [value]):
            raise TypeError("made up: it can't be pickled")
        packed = pickle.dumps(value)
        self.largest = max(self.largest, 2 * len(packed) * self.run.sizer.largest)
        return packed

    def repack(self, chunk: chunks.Chunk) -> Event:
        """Pickle the items of a chunk one by one, as somebody else does for the pump."""

        def dumps(value: Any) -> bytes:
            if value in self.fragile:
                raise TypeError("made up: it can't be pickled alone")
            return pickle.dumps(value)

        for n in self.fragile.intersection(chunk.items):
            self.failed.setdefault(n, "JobFailed")
        found = sources.repack(chunk, dumps)
        for one in found.chunks:
            self.largest = max(self.largest, len(one.packed.body))
        return found

    # The reader

    def read(self, forced: bool) -> Event | None:
        world = self.world
        if not self.has_begun:
            self.has_begun = True
            return events.Began(self.run)
        if self.has_left or not (self.mailbox or not self.is_finished):
            return None
        if not forced and world.chance() < self.is_lazy:
            return None
        if not self.is_finished and world.chance() < self.leaves:
            return self.leave()
        if not self.mailbox:
            return None
        piece = self.mailbox.popleft()
        self.passed += len(piece.items)
        return events.Passed(self.run, len(piece.items), piece.nbytes)

    def leave(self) -> Event:
        self.has_left = True
        if self.world.chance() < 0.5:
            self.orders.clear()
        return events.Left(self.run)

    def take(self, piece: chunks.Piece) -> None:
        """Something has come for the reader."""
        start, stop = piece.first, piece.first + len(piece.items)
        _see(not self.is_left, f"items {start} to {stop} come though nobody reads")
        _see(piece.items == list(range(start, stop)), f"other items come for {start} to {stop}")
        _see(_all(self.got, 0, start, stop), f"one of items {start} to {stop} comes twice")
        self.got[start:stop] = b"\1" * (stop - start)
        if self.ordered:
            _see(start == self.turn, f"item {start} comes when it is the turn of {self.turn}")
            self.turn = stop
        self.mailbox.append(piece)
        if piece.body is None:
            _see(list(piece.failures) == [0] and stop == start + 1, f"no body for {start}")
            kind = piece.failures[0].kind
            due = self.failed.get(start)
            _see(kind == due, f"item {start} fails as {kind}, and should be {due or 'a result'}")
            return
        body = cast("_Bytes", piece.body)
        _see(piece.apart == (len(body) % 2 == 0), f"it is lost how {start} to {stop} are pickled")
        _see(not piece.failures, f"failures beside results for {start}")
        _see(body.content == self.values[start:stop], f"wrong results for {start} to {stop}")
        _see(_all(self.applied, 1, start, stop), f"results before what {start} to {stop} did")
        done = self.committed[start:stop] == self.sections[start:stop]
        _see(done, f"sections of {start} to {stop} have not committed")
        if self.failed:
            for n in range(start, stop):
                _see(n not in self.failed, f"item {n} has a result, and should fail")

    def finish(self, whole: bool) -> None:
        """The reader is told that nothing more comes."""
        _see(not self.is_finished, "a map finishes twice")
        self.is_finished = True
        self.orders.clear()
        world = self.world
        if not self.has_begun or world.was_closed_before(self):
            _see(not whole, "a map of a closed engine is whole")
            return
        if whole:
            _see(not self.has_left, "a map that was left is whole")
            _see(self.has_ended, "a map is whole before its source has ended")
            lost = [n for n in range(self.brought) if not self.got[n]]
            _see(not lost, f"items {lost} have not come")
            expected = self.error if self.has_ended else None
            _see(self.run.error is expected, "the error of the source is lost")
        else:
            _see(self.has_left, "a map ends that somebody reads")
        for n in range(self.brought):
            counted = self.applied[n]
            kind = self.failed.get(n)
            if kind in ("WorkerDied", "ItemTimeout"):
                _see(not counted, f"item {n} counts, and has failed")
            elif self.ended[n] and kind is None:
                _see(counted == 1, f"item {n} has ended, and counts {counted} times")


class Worker:
    """A slot, and the worker in it.

    Attributes:
        state: "absent", "starting", "idle", "busy", or "dying" when it was killed.
        map: the map whose chunk it has.
        id: the number of the chunk that it has.
        at: how many of its items have ended.
        limit: how many it begins.
        is_fresh: whether it has not come as far as to unpickle them.
        late: where it was when it was too late.
        death: how it has died, as nobody knows yet.
    """

    def __init__(self, world: World, slot: int) -> None:
        self.world = world
        self.slot = slot
        self.reset()
        self.id = chunks.NO_CHUNK

    def reset(self) -> None:
        self.state = "absent"
        self.death: verdict.Death | None = None
        self.left: dict[int, int] = {}
        self.late: chunks.Place | None = None
        self.drop()

    def drop(self) -> None:
        """It has no chunk any more."""
        self.map: Map | None = None
        self.first = self.at = self.limit = 0
        self.is_fresh = True
        self.is_packing = False

    def give(self, number: chunks.ChunkId, chunk: chunks.Chunk) -> None:
        """Send it a chunk."""
        map_ = self.world.maps[chunk.run.number]
        start, stop = chunk.first, chunk.first + len(chunk.items)
        self.state = "busy"
        self.map, self.id, self.chunk = map_, number, chunk
        self.first, self.limit, self.at = start, len(chunk.items), 0
        self.is_fresh, self.is_packing = True, False
        map_.largest_reply = max(map_.largest_reply, map_.reply_bytes * self.limit)
        packed = chunk.packed
        body: Any = packed.body
        if isinstance(body, _Bytes):
            content = body.content
        else:
            content = pickle.loads(body)
            if packed.apart:
                content = [pickle.loads(one) for one in content]
        self.items = content[chunk.start : chunk.stop]
        self.alone = len(self.items) == 1 and (packed.apart or packed.length == 1)
        self.is_apart = packed.apart
        # What was run before is where rules meet, so it is what ends workers more often.
        self.deadly = self.world.deadly * (1 if packed.length == len(self.items) else 3)
        self.was_ended = chunk.ended
        self.was_left = chunk.left.get(0, 0)
        _see(self.items == list(range(start, stop)), f"other items travel than {start} to {stop}")
        _see(_all(map_.got, 0, start, stop), f"an item of {start} to {stop} runs after it has come")
        if map_.failed:
            again = [n for n in range(start, stop) if n in map_.failed]
            _see(not again, f"items {again} run though they have failed")
        if map_.has_left or self.world.is_closing:
            ended = _all(map_.ended, 1, start, stop)
            _see(ended, f"items {start} to {stop} are handed out, and nobody reads")
        if self.was_ended:
            ended = _all(map_.ended, 1, start, stop)
            _see(ended, f"items {start} to {stop} are taken to have ended")
        _see(not self.was_left or self.limit == 1, "what one has left behind is given to several")
        most = max(map_.unexplained[start:stop])
        _see(most <= UNEXPLAINED, f"{most} deaths are not explained")
        suspects = not _all(map_.suspects, 0, start, stop)
        for other in self.world.team:
            if other is not self and other.map is not None:
                first, last = other.first, other.first + other.limit
                company = suspects or not _all(other.map.suspects, 0, first, last)
                _see(not company, f"items {start} to {stop} run beside a suspect, or as one")

    # What it does

    def act(self, forced: bool) -> Event | None:
        state, world = self.state, self.world
        if self.death is not None:
            if world.is_batch:
                return None
            return self.is_gone() if forced or world.chance() < 0.7 else None
        if state == "absent":
            if world.is_remote and not world.is_over and world.chance() < 0.03:
                self.state = "idle"
                return events.Ready(self.slot)
            return None
        if state == "starting":
            if not forced and world.chance() < world.deadly / 4:
                self.death = verdict.Death(chunks.UNBEGUN, "as it started")
                return None
            self.state = "idle"
            return events.Ready(self.slot)
        if state == "idle":
            chance = world.chance()
            if chance < world.deadly / 10:
                self.die(chunks.UNBEGUN)
            elif chance < 0.01 and self.id and not world.is_batch:
                return self.stale()
            return None
        return self.work(forced)

    def stale(self) -> Event:
        """Something that comes too late to say anything."""
        if self.world.chance() < 0.5:
            return events.GaveBack(self.slot, self.id, 1)
        return events.Late(self.slot, self.id, chunks.Place(chunks.Phase.RUNNING, 0))

    def work(self, forced: bool) -> Event | None:
        world, map_ = self.world, self.map
        if map_ is None:  # it was killed, and has answered before it died
            if forced or world.chance() < 0.7:
                self.die(chunks.UNBEGUN)
            return None
        if self.is_fresh and map_.is_unreadable:
            self.is_fresh = False
            return self.cannot_read()
        chance = world.chance()
        if self.state == "dying" and (forced or chance < 0.6):
            if self.late == self.here and world.chance() < 0.6:
                assert self.late is not None
                self.die(self.late)
            else:
                self.die(self.anywhere())
            return None
        if forced or chance < 0.7:
            if map_.cursed and (place := self.curse()) is not None:
                self.die(place)
            elif not forced and world.chance() < self.deadly:
                if world.is_remote and world.chance() < 0.3:
                    world.company()
                else:
                    self.die(self.anywhere())
            elif self.is_fresh and not forced and world.chance() < 0.01:
                return self.cannot_read()
            else:
                return self.answer()
            return None
        if chance < 0.8 and not (world.is_remote or self.is_packing):
            return self.give_back()
        if chance < 0.92 and map_.run.settings.timeout is not None and self.state == "busy":
            return self.is_late()
        return None

    @property
    def here(self) -> chunks.Place:
        """Where it is."""
        if self.world.is_remote:
            return chunks.UNKNOWN
        if self.is_fresh:
            return chunks.Place(chunks.Phase.READING)
        if self.at < self.limit:
            return chunks.Place(chunks.Phase.RUNNING, self.at)
        return chunks.Place(chunks.Phase.PACKING, self.limit)

    def curse(self) -> chunks.Place | None:
        """Where an item of the chunk ends the worker, if one does."""
        assert self.map is not None
        cursed, end = self.map.cursed, self.first + self.limit
        mine = [n for n in cursed if self.first + self.at <= n < end]
        if self.is_fresh and any(cursed[n] is chunks.Phase.READING for n in mine):
            if not self.is_apart:
                return chunks.Place(chunks.Phase.READING)
            first = min(n for n in mine if cursed[n] is chunks.Phase.READING)
            return chunks.Place(chunks.Phase.RUNNING, first - self.first)
        for n in sorted(mine):
            apart = self.is_apart and cursed[n] is not chunks.Phase.SENDING
            if cursed[n] is chunks.Phase.RUNNING or apart:
                return chunks.Place(chunks.Phase.RUNNING, n - self.first)
        for n in cursed:
            if self.first <= n < end and cursed[n] >= chunks.Phase.PACKING:
                return chunks.Place(cursed[n], self.limit)
        return None

    def anywhere(self) -> chunks.Place:
        """Some place where it may be now, or come to."""
        random = self.world.random
        phases = ENDED
        if not self.is_packing and self.at < self.limit:
            phases += (chunks.Phase.RUNNING,) * 3
        if self.is_fresh:
            phases += (chunks.Phase.UNBEGUN, chunks.Phase.READING)
        phase = random.choice(phases)
        if phase is chunks.Phase.RUNNING:
            return chunks.Place(phase, random.randrange(self.at, self.limit))
        ended = phase in ENDED
        return chunks.Place(phase, self.limit if ended else 0)

    def goes_on(self, to: int) -> None:
        """The items before this one come to their ends."""
        map_, start, stop = self.map, self.first + self.at, self.first + to
        assert map_ is not None
        self.is_fresh = False
        if stop <= start:
            return
        self.at = to
        if self.was_ended:
            done = map_.committed[start:stop] == map_.sections[start:stop]
        else:
            done = _all(map_.committed, self.was_left, start, stop)
            map_.committed[start:stop] = map_.sections[start:stop]
        _see(done, f"sections of {start} to {stop} would commit twice, or never")

    def answer(self) -> Event:
        map_, world = self.map, self.world
        assert map_ is not None
        self.goes_on(self.limit)
        start, ended = self.first, self.limit
        stop = start + ended
        refused = None
        if map_.unkept and not map_.unkept.isdisjoint(range(start, stop)):
            refused = ("ValueError", "made up", "")
        nbytes = map_.reply_bytes * ended
        body = cast("bytes", _Bytes(map_.values[start:stop], nbytes))
        deltas = {0: (map_, start, stop)} if ended else {}
        if ended and refused is None:
            world.owed.append(deltas)
        elif refused is not None and ended == 1:
            world.owed.append(deltas)
            map_.failed[start] = "JobFailed"
        elif refused is not None:
            world.undo.append(self.slot)
            map_.again += 1
        map_.ended[start:stop] = b"\1" * ended
        number = self.id
        self.drop()
        if self.state == "busy":
            self.state = "idle"
        elapsed = world.chance() * 0.01
        apart = nbytes % 2 == 0
        return events.Answered(self.slot, number, ended, elapsed, deltas, refused, apart, body)

    def cannot_read(self) -> Event:
        assert self.map is not None
        self.map.again += 1
        if self.alone:
            self.map.failed[self.first] = "JobFailed"
        number = self.id
        self.drop()
        if self.state == "busy":
            self.state = "idle"
        return events.Unreadable(self.slot, number, ("ImportError", "made up", ""))

    def give_back(self) -> Event | None:
        if self.limit - self.at < 2:
            return None
        random = self.world.random
        self.goes_on(random.randint(self.at, self.limit - 2))
        self.limit = random.randint(self.at + 1, self.limit - 1)
        return events.GaveBack(self.slot, self.id, self.limit)

    def is_late(self) -> Event | None:
        place = self.anywhere()
        if self.world.is_batch:
            return None
        if self.world.is_remote:
            place = chunks.UNKNOWN
        elif place.phase in (chunks.Phase.UNBEGUN, chunks.Phase.SENDING):
            return None
        elif place.phase is not chunks.Phase.READING:
            self.goes_on(place.item)
            self.is_packing = place.phase is chunks.Phase.PACKING
        self.late = place
        return events.Late(self.slot, self.id, place)

    def is_told_to_stop(self) -> None:
        if self.map is None or self.death is not None or self.is_packing:
            return
        random = self.world.random
        self.deadly = 3 * self.world.deadly
        if self.is_fresh and random.random() < 0.5:
            self.limit = random.randint(0, 1)
            return
        self.goes_on(random.randint(self.at, self.limit))
        self.limit = min(self.limit, self.at + random.randint(0, 1))

    # Its death

    def die(self, place: chunks.Place, *, in_company: bool = False) -> None:
        """It dies there; the engine will hear of it."""
        map_ = self.map
        self.left = {0: 0}
        if map_ is not None and place.phase >= chunks.Phase.RUNNING:
            if place is not chunks.UNKNOWN:
                self.goes_on(place.item)
            n = self.first + place.item
            if place.phase is chunks.Phase.RUNNING and not self.was_ended and map_.sections[n]:
                before = map_.committed[n]
                _see(before == self.was_left, f"sections of {n} would commit twice, or never")
                most = map_.sections[n]
                map_.committed[n] = now = self.world.random.randint(before, most)
                self.left = {0: now if now > before else 0}
        if map_ is not None and self.world.is_remote and place.phase is not chunks.Phase.UNBEGUN:
            place = chunks.UNKNOWN
        how = "by SIGKILL" if place.phase % 2 else "with exit code 1"
        self.death = verdict.Death(place, how, in_company=in_company)

    def is_gone(self) -> Event:
        """The engine hears of its death."""
        death, left = self.death, self.left
        assert death is not None
        self.world.deaths += 1
        if self.map is not None:
            self.blame(self.map, death)
        self.reset()
        return events.Gone(self.slot, death, left)

    def blame(self, map_: Map, death: verdict.Death) -> None:
        """Write down who is to blame for a death."""
        phase, item = death.place
        start = self.first
        map_.again += 1
        is_late = self.late == death.place
        blameless = self.late is not None and not is_late
        if phase is chunks.Phase.UNBEGUN:
            return
        if death.in_company and not map_.suspects[start]:
            map_.suspects[start : start + self.limit] = b"\1" * self.limit
            return
        ended = item if phase in ENDED else 0
        if phase is chunks.Phase.RUNNING:
            map_.ended[start : start + item] = b"\1" * item
            start += item
        elif ended:
            map_.ended[start : start + ended] = b"\1" * ended
            if phase is chunks.Phase.SENDING and map_.unexplained[start] < UNEXPLAINED:
                for n in range(start, start + ended):
                    map_.unexplained[n] += 1
                return
        is_whole = phase not in ENDED or ended == self.chunk_length()
        alone = (self.alone and is_whole) or (ended == 1 and self.is_apart)
        if phase is chunks.Phase.UNKNOWN:
            alone = self.chunk_length() == 1 and (self.alone or self.is_apart)
        if phase in ENDED and not ended:
            return
        if blameless or not (phase is chunks.Phase.RUNNING or alone):
            return
        if is_late:
            map_.failed[start] = "ItemTimeout"
            return
        map_.deaths[start] += 1
        if map_.deaths[start] > map_.run.settings.retries:
            map_.failed[start] = "WorkerDied"

    def chunk_length(self) -> int:
        """How many items the engine takes it to have."""
        return len(self.chunk.items)


class World:
    """See the module.

    Args:
        seed: decides all that happens.
        maps: how many maps there are at most.

    Attributes:
        steps: how many events there have been.
        deaths: how many of them were the death of a worker.
    """

    def __init__(self, seed: int, maps: int = 8) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.chance = random.random
        self.workers = random.choice((1, 2, 2, 3, 3, 4, 6))
        self.eager = random.randint(1, self.workers)
        self.is_remote = random.random() < 0.25
        self.deadly = random.choice((0.0, 0.03, 0.1, 0.3))
        self.at_once = random.randint(1, 3)
        self.maps: dict[int, Map] = {}
        self.reading: list[Map] = []
        self.most = random.randint(1, maps)
        self.plan = random.choice(("end", "end", "close", "hurry", "break"))
        self.until = random.randint(1, 800)
        self.scheduler = scheduler.Scheduler(self.workers, self.eager)
        self.team = [Worker(self, slot) for slot in range(1, self.workers + 1)]
        self.repacks: list[chunks.Chunk] = []
        self.acts: list[Act] = []
        self.is_open = False
        self.is_closing = False
        self.is_hurried = False
        self.is_drained = False
        self.is_broken = False
        self.steps = self.deaths = 0
        self.last: deque[Event] = deque(maxlen=8)
        self.owed: deque[dict[int, Any]] = deque()
        self.undo: deque[int] = deque()
        self.is_batch = False
        self.hurries = random.choice((0.0, 0.0, 0.3, 0.8))
        self.early: set[int] = set()
        self.do: dict[type, Callable[[Any], None]] = {
            events.Start: self.start,
            events.Send: self.send,
            events.Stop: self.stop,
            events.Kill: self.kill,
            events.Apply: self.apply,
            events.Undo: self.take_back,
            events.Fetch: self.fetch,
            events.Repack: lambda command: self.repacks.append(command.chunk),
            events.Deliver: self.deliver,
            events.Finish: self.finish,
            events.Fail: self.fail,
            events.Drained: self.drained,
        }

    @property
    def is_over(self) -> bool:
        """Whether nothing has to happen any more."""
        return self.is_drained or self.is_broken

    def was_closed_before(self, map_: Map) -> bool:
        """Whether a map was begun when the engine was closed already."""
        return map_.number in self.early

    # Time

    def live(self) -> int:
        """Have things happen until all is over; how many did."""
        try:
            self.carry_out(self.scheduler.open())
            self.new_acts()
            while not self.is_over:
                self.tell(self.next_events())
                if self.steps > ENDLESS:
                    raise Wrong("there is no end to it")
            self.see_silence()
        except _Stuck:
            raise self.told(Wrong("nothing is under way, and somebody waits")) from None
        except Exception as error:
            raise self.told(error) from error
        return self.steps

    def told(self, error: Exception) -> Wrong:
        """An error with how to have it once more."""
        last = "\n".join(f"    {brief(event)}" for event in self.last)
        what = f"{type(error).__name__}: {error}"[:400]
        return Wrong(f"{what}\n  World({self.seed}), event {self.steps}, the last ones:\n{last}")

    def next_events(self) -> list[Event]:
        """What happens next: one thing, or several before anybody looks."""
        acts, chance = self.acts, self.chance
        for _ in range(LEFT_OUT):
            event = acts[int(chance() * len(acts))](False)
            if event is not None:
                break
        else:
            return [self.forced_event()]
        found = [event]
        if type(event) not in ALONE and chance() < self.hurries:
            self.is_batch = True
            for _ in range(int(chance() * 12)):
                event = self.acts[int(chance() * len(self.acts))](False)
                if event is not None:
                    found.append(event)
                    if type(event) in ALONE:
                        break
            self.is_batch = False
        return found

    def forced_event(self) -> Event:
        """Whoever can do something has to."""
        for _ in range(4):  # who dies at first is buried after
            self.random.shuffle(self.acts)
            for act in self.acts:
                event = act(True)
                if event is not None:
                    return event
        return self.last_resort()

    def last_resort(self) -> Event:
        """Nothing can happen any more but that the engine closes."""
        if not self.is_open or self.is_closing or any(not m.is_finished for m in self.reading):
            raise _Stuck
        return self.close()

    def tell(self, found: list[Event]) -> None:
        """The scheduler hears of what has happened, and what it says is done."""
        self.steps += len(found)
        self.last.extend(found)
        commands = self.scheduler.handle(*found)
        if commands:
            self.carry_out(commands)
        _see(not self.owed, "what came with results is not given to the patterns")
        _see(not self.undo, "what a worker has shown is not taken back")
        if self.is_broken:
            return
        self.scheduler.check()
        for event in found:
            kind = type(event)
            if kind is events.Answered or kind is events.Fetched:
                self.see_windows()
                break
        for map_ in self.reading:
            map_.is_left = map_.has_left

    def carry_out(self, commands: list[Any]) -> None:
        do = self.do
        for command in commands:
            do[type(command)](command)

    def see_windows(self) -> None:
        """What is read ahead is bounded."""
        workers = self.workers
        for map_ in self.reading:
            run = map_.run
            if map_.has_left or not map_.has_begun:
                continue
            ahead = map_.brought - map_.passed
            largest = run.sizer.largest
            most = runs.WINDOW * workers + 1
            _see(ahead <= most * largest, f"{ahead} items are ahead")
            # A chunk that is run again was counted when it was sent at first.
            chunk = map_.largest + map_.largest_reply
            room = runs.WINDOW_BYTES + (workers + map_.again) * chunk
            _see(run.held <= room, f"{run.held} bytes of results wait, of {room}")
            # The idle ones were to have one, and small ones are asked for several at a time.
            room = runs.WINDOW_BYTES + 2 * workers * map_.largest
            room += scheduler.AT_ONCE * runs.SMALL
            _see(run.ahead <= room, f"{run.ahead} bytes of items wait, of {room}")

    def see_silence(self) -> None:
        """After the end nothing is to be done any more, whatever comes."""
        if self.is_broken:
            return
        _see(not self.scheduler.runs, "a map is under way after the end")
        for map_ in self.maps.values():
            _see(map_.is_finished or not map_.has_begun, f"map {map_.number} has no end")
        for worker in self.team:
            _see(worker.map is None, f"worker {worker.slot} has something after the end")
            if worker.state in ("idle", "dying") and worker.death is None:
                worker.die(chunks.UNBEGUN)
            if worker.death is not None:
                commands = self.scheduler.handle(worker.is_gone())
                _see(not commands, f"after the end, {commands} are to be done")
        for map_ in self.reading:
            while (event := map_.read(True)) is not None:
                if isinstance(event, events.Passed):
                    commands = self.scheduler.handle(event)
                    _see(not commands, f"after the end, {commands} are to be done")
            if not map_.has_left:
                _see(map_.run.held == 0, f"{map_.run.held} bytes wait for nobody")
        self.scheduler.check()

    # What happens to the engine

    def new_acts(self) -> None:
        self.acts = [self.events_of_engine, *(worker.act for worker in self.team)]
        self.acts += [worker.act for worker in self.team]
        for map_ in self.reading:
            self.acts += [map_.read, map_.bring]

    def events_of_engine(self, forced: bool) -> Event | None:
        if not self.is_open:
            if self.plan == "break" and self.chance() < 0.02:
                return events.Broke(RuntimeError("made up"))
            if self.plan == "close" and self.chance() < 0.02:
                return self.close()
            if self.scheduler.ready >= self.eager and not self.is_closing:
                self.is_open = True
                return events.Opened()
            if not self.is_closing:
                return None
        if self.repacks and (forced or self.chance() < 0.2):
            chunk = self.repacks.pop(int(self.chance() * len(self.repacks)))
            return self.maps[chunk.run.number].repack(chunk)
        if self.steps > self.until:
            if self.plan in ("close", "hurry") and not self.is_closing:
                return self.close()
            if self.plan == "break":
                return events.Broke(RuntimeError("made up"))
        hurries = self.is_closing and self.plan == "hurry" and not self.is_hurried
        if hurries and self.chance() < 0.3:
            self.is_hurried = True
            return events.Hurry()
        self.begin_map()
        return None

    def begin_map(self) -> None:
        before = len(self.reading)
        if before >= self.at_once:
            self.reading = [m for m in self.reading if not m.is_finished or m.mailbox]
        if len(self.reading) < self.at_once and len(self.maps) < self.most:
            number = len(self.maps) + 1
            self.maps[number] = map_ = Map(self, number)
            self.reading.append(map_)
            if self.is_closing:
                self.early.add(number)
            self.new_acts()

    def close(self) -> Event:
        self.is_closing = True
        for map_ in self.reading:
            if not map_.has_begun:
                self.early.add(map_.number)
            elif not map_.is_finished:
                map_.has_left = True
                if self.chance() < 0.5:
                    map_.orders.clear()
        return events.Closing()

    def company(self) -> None:
        """Several workers die at once, and any of them may be to blame."""
        there = [w for w in self.team if w.state != "absent" and w.death is None]
        victims = [w for w in there if w.state != "starting" and self.chance() < 0.8]
        for one in victims:
            place = chunks.UNBEGUN if one.map is None else chunks.UNKNOWN
            one.die(place, in_company=True)

    # What is to be done

    def start(self, command: events.Start) -> None:
        worker = self.team[command.slot - 1]
        _see(worker.state == "absent", f"a worker starts in slot {command.slot}, and is there")
        _see(not self.is_drained, "a worker starts after the end")
        worker.state = "starting"

    def send(self, command: events.Send) -> None:
        worker = self.team[command.slot - 1]
        _see(worker.state == "idle", f"worker {command.slot} is {worker.state}, and gets a chunk")
        worker.give(command.id, command.chunk)

    def stop(self, command: events.Stop) -> None:
        worker = self.team[command.slot - 1]
        _see(worker.state != "absent", f"nobody is there to stop in slot {command.slot}")
        worker.is_told_to_stop()

    def kill(self, command: events.Kill) -> None:
        worker = self.team[command.slot - 1]
        # It may have answered meanwhile.
        alive = worker.state in ("busy", "idle")
        _see(alive, f"worker {command.slot} is killed when {worker.state}")
        worker.state = "dying"

    def apply(self, command: events.Apply) -> None:
        is_owed = bool(self.owed) and self.owed.popleft() is command.deltas
        _see(is_owed, "something counts that is not to, or counts twice")
        deltas: Mapping[int, Any] = command.deltas
        for map_, start, stop in deltas.values():
            _see(_all(map_.applied, 0, start, stop), f"one of {start} to {stop} counts twice")
            map_.applied[start:stop] = b"\1" * (stop - start)

    def take_back(self, command: events.Undo) -> None:
        is_right = bool(self.undo) and self.undo.popleft() == command.slot
        _see(is_right, f"what {command.slot} has shown is taken back")

    def fetch(self, command: events.Fetch) -> None:
        map_ = self.maps[command.run.number]
        _see(not map_.has_left and not map_.has_ended, "more is asked of a source that has ended")
        _see(command.size > 0, "nothing is asked of a source")
        map_.orders.append((command.size, command.times))

    def deliver(self, command: events.Deliver) -> None:
        map_ = self.maps[command.run.number]
        for piece in command.pieces:
            map_.take(piece)

    def finish(self, command: events.Finish) -> None:
        self.maps[command.run.number].finish(command.whole)

    def fail(self, command: events.Fail) -> None:
        _see(not self.is_broken, "the engine breaks twice")
        self.is_broken = True

    def drained(self, command: events.Drained) -> None:
        _see(self.is_closing and not self.is_drained, "the end comes without being asked for")
        self.is_drained = True


def _see(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


def brief(event: Event) -> str:
    """An event in a line."""
    words = [f"{name}={_short(value)}" for name, value in zip(event._fields, event, strict=True)]
    return f"{type(event).__name__}({', '.join(words)})"


def _short(value: Any) -> str:
    if isinstance(value, runs.Run):
        return str(value.number)
    if isinstance(value, (chunks.Chunk, chunks.Piece)):
        return f"{value.first}..{value.first + len(value.items)}"
    if isinstance(value, Map):
        return f"map {value.number}"
    if isinstance(value, _Bytes):
        return f"{len(value)} bytes"
    if isinstance(value, chunks.Place):
        return f"{value.phase.name} {value.item}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_short, value)) + "]"
    return repr(value)
