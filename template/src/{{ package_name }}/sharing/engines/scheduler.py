"""Who works on what: events in, commands out, without a clock, a process or a descriptor.

    Event ─▶ Scheduler.handle ─▶ commands
                 │
                 ├─ runs: the maps that are read, each with its chunks and its shelf
                 ├─ team: a member a slot, each with the chunk that it has
                 └─ verdict: what becomes of a chunk whose worker has died

All state that decides is in here, and nothing else changes it. So every rule can be tried with
events that are made up, some hundred thousand a second; `check` says what holds after each.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import events as e
from .chunks import NO_CHUNK, Chunk, ChunkId, Piece, Place, Why, made
from .lifecycles import ENGINE, MEMBER, EngineState, IllegalMove, MemberState, RunState
from .runs import SMALL, Run
from .verdict import verdict

AT_ONCE = 8
"""Chunks that are asked for at a time, while they are small."""


@dataclass(slots=True, eq=False)
class Member:
    """The worker in a slot, or the slot alone.

    Attributes:
        slot: from 1.
        state: see `MemberState`.
        chunk: what it has, when it has something.
        id: the number of that.
        late: where it was when it had taken too long.
        expected: bytes of the items of its chunk, and of the results that these will have.
    """

    slot: int
    state: MemberState = MemberState.ABSENT
    chunk: Chunk | None = None
    id: ChunkId = NO_CHUNK
    late: Place | None = None
    expected: int = 0

    def move(self, name: str) -> None:
        """Go on in its lifecycle."""
        self.state = MEMBER[self.state, name]


class Scheduler:
    """See the module.

    Args:
        workers: how many there are to be.
        eager: how many of them start before there is work for them, and again when they die.

    Attributes:
        state: of the engine.
        team: the members, by their slots.
        runs: the maps that are under way, by their numbers.
        idle: the slots of members that are ready for a chunk, and have none.
    """

    def __init__(self, workers: int, eager: int) -> None:
        self.state = EngineState.NEW
        self.team = {slot: Member(slot) for slot in range(1, workers + 1)}
        self.runs: dict[int, Run] = {}
        self._eager = min(eager, workers)
        self.idle: list[int] = []
        self._absent = workers
        self._turns: deque[Run] = deque()
        self._has_suspects = False
        self._is_drained = False
        self._has_changed = False
        self._ids = itertools.count(1)
        self._commands: list[e.Command] = []
        self._handlers: dict[type[e.Event], Callable[..., None]] = {
            e.Began: self._began,
            e.Fetched: self._fetched,
            e.Repacked: self._repacked,
            e.Passed: self._passed,
            e.Left: self._left,
            e.Ready: self._ready,
            e.Answered: self._answered,
            e.GaveBack: self._gave_back,
            e.Unreadable: self._unreadable,
            e.Late: self._late,
            e.Gone: self._gone,
            e.Opened: self._opened,
            e.Closing: self._closing,
            e.Hurry: self._hurry,
            e.Broke: self._broke,
        }

    def open(self) -> list[e.Command]:
        """Have the first workers start."""
        self._move("open")
        self._start_members()
        return self._take_commands()

    def handle(self, *events: e.Event) -> list[e.Command]:
        """What is to be done, in that order, now that something has happened.

        Raises:
            IllegalMove: it can't have happened.
        """
        handlers = self._handlers
        for event in events:
            handlers[type(event)](event)
        if self._has_changed:
            self._has_changed = False
            self._go_on()
        return self._take_commands()

    @property
    def ready(self) -> int:
        """How many workers have come as far as to be ready."""
        waited_for = (MemberState.ABSENT, MemberState.STARTING)
        return sum(member.state not in waited_for for member in self.team.values())

    def busy(self) -> Iterator[tuple[Member, Chunk]]:
        """The members that have a chunk, with it."""
        for member in self.team.values():
            if member.chunk is not None:
                yield member, member.chunk

    def _take_commands(self) -> list[e.Command]:
        commands, self._commands = self._commands, []
        return commands

    def _move(self, name: str) -> None:
        self.state = ENGINE[self.state, name]

    # Maps

    def _began(self, event: e.Began) -> None:
        run = event.run
        if self.state is not EngineState.OPEN:
            self._commands.append(e.Finish(run, whole=False))
            return
        self.runs[run.number] = run
        self._turns.append(run)
        self._has_changed = True

    def _fetched(self, event: e.Fetched) -> None:
        run = event.run
        brought = 0
        for chunk in event.chunks:
            brought += len(chunk.items)
            run.brought = len(chunk.packed.body)
        for piece in event.refused:
            brought += len(piece.items)
        run.read += brought
        run.fetching -= event.times
        run.asked -= event.times * event.size
        if run.state is RunState.OPEN:
            run.fresh.extend(event.chunks)
            for chunk in event.chunks:
                run.ahead += chunk.nbytes
            for piece in event.refused:
                self._shelve(run, piece)
        else:
            run.dropped += brought
        if event.ended:
            run.error = event.error
            run.fetching = run.asked = 0  # what else it was asked for, it does not have
            run.move("end")
        self._has_changed = True

    def _repacked(self, event: e.Repacked) -> None:
        run = event.chunk.run
        if event.chunk not in run.repacking:  # its reader has left meanwhile
            return
        run.repacking.remove(event.chunk)
        self._has_suspects |= event.chunk.suspect
        for chunk in event.chunks:
            run.put_back(chunk)
        for piece in event.refused:
            self._shelve(run, piece)
        self._has_changed = True

    def _passed(self, event: e.Passed) -> None:
        event.run.passed += event.items
        event.run.held -= event.nbytes
        if event.run.is_held_up:
            event.run.is_held_up = False
            self._has_changed = True

    def _left(self, event: e.Left) -> None:
        if event.run.number in self.runs:
            self._leave(event.run)
            self._has_changed = True

    def _leave(self, run: Run) -> None:
        """Hand out no more of it. What had ended in vain runs again, since it is to count."""
        run.move("leave")
        run.dropped += sum(map(len, run.fresh))
        run.fresh.clear()
        run.ahead = 0
        waiting, run.waiting = run.waiting, []
        for chunk in waiting:
            run.put_back(chunk)
        for chunk in [one for one in run.repacking if not one.ended]:
            run.repacking.remove(chunk)
            run.dropped += len(chunk)
        for member, chunk in self.busy():
            if chunk.run is run and not chunk.ended:
                self._commands.append(e.Stop(member.slot))

    def _shelve(self, run: Run, piece: Piece) -> None:
        """Results have come: pass on what is in turn."""
        if run.state is RunState.LEFT:
            run.dropped += len(piece.items)
            return
        run.held += piece.nbytes
        ready = run.shelf.put(piece)
        if ready:
            for one in ready:
                run.delivered += len(one.items)
            self._commands.append(made(e.Deliver, (run, ready)))

    def _fail(self, chunk: Chunk, why: Why) -> None:
        self._shelve(chunk.run, Piece(chunk.first, chunk.items, chunk.nbytes, failures={0: why}))

    # Workers

    def _ready(self, event: e.Ready) -> None:
        member = self.team[event.slot]
        self._absent -= member.state is MemberState.ABSENT
        member.move("ready")
        self.idle.append(event.slot)
        self._has_changed = True

    def _release(self, slot: int, chunk_id: ChunkId) -> Chunk:
        """Take from a member that answers the chunk that it has."""
        member = self.team[slot]
        chunk = member.chunk
        if chunk is None or member.id != chunk_id:
            raise IllegalMove(f"the worker in slot {slot} answers what it was not asked")
        member.state = state = MEMBER[member.state, "answer"]
        self._take_from(member, chunk)
        if state is MemberState.IDLE:
            self.idle.append(slot)
        self._has_changed = True
        return chunk

    def _take_from(self, member: Member, chunk: Chunk) -> None:
        member.chunk, member.late = None, None
        chunk.run.out -= 1
        chunk.run.expected -= member.expected
        member.expected = 0

    def _answered(self, event: e.Answered) -> None:
        slot, chunk_id, ended, elapsed, deltas, refused, apart, body = event
        chunk = self._release(slot, chunk_id)
        run = chunk.run
        if ended < len(chunk.items):
            run.put_back(chunk.cut(ended))
        if refused is not None and ended > 1:
            # One of these items has done what can't be kept: which, their halves will say.
            self._commands.append(e.Undo(slot, chunk_id))
            for part in chunk.parts(2, ended=True):
                run.put_back(part)
            return
        if deltas:
            self._commands.append(e.Apply(slot, deltas))
        if not ended:
            return
        length = len(body)
        nbytes = chunk.nbytes + length
        run.reply = length / ended
        if run.sizer.learns:
            run.sizer.learn(ended, elapsed, nbytes)
        if refused is not None:
            failures = {0: Why("JobFailed", refused)}
            self._shelve(run, Piece(chunk.first, chunk.items, chunk.nbytes, failures=failures))
        else:
            self._shelve(run, Piece(chunk.first, chunk.items, nbytes, body, apart))

    def _gave_back(self, event: e.GaveBack) -> None:
        member = self.team[event.slot]
        chunk = member.chunk
        # Else its answer was faster.
        if chunk is not None and member.id == event.id and event.kept < len(chunk):
            chunk.run.put_back(chunk.cut(event.kept))
            self._has_changed = True

    def _unreadable(self, event: e.Unreadable) -> None:
        chunk = self._release(event.slot, event.id)
        if chunk.packed.apart and len(chunk) > 1:
            # What can't be read is not one of them, but the job.
            for part in chunk.parts(2):
                chunk.run.put_back(part)
        elif chunk.stands_alone:
            kind, text, trace = event.failure
            failure = kind, f"a worker could not unpickle it: {text}", trace
            self._fail(chunk, Why("JobFailed", failure))
        else:
            self._repack(chunk)
        self._has_changed = True

    def _repack(self, chunk: Chunk) -> None:
        run = chunk.run
        if run.state is RunState.LEFT and not chunk.ended:
            run.dropped += len(chunk)
            return
        run.repacking.append(chunk)
        self._commands.append(e.Repack(chunk))

    def _late(self, event: e.Late) -> None:
        member = self.team[event.slot]
        if member.state is MemberState.BUSY and member.id == event.id:
            member.move("kill")
            member.late = event.place
            self._commands.append(e.Kill(event.slot))

    def _gone(self, event: e.Gone) -> None:
        member = self.team[event.slot]
        if member.state is MemberState.IDLE:
            self.idle.remove(event.slot)
        chunk, late = member.chunk, member.late
        member.move("gone")
        self._absent += 1
        if chunk is not None:
            self._take_from(member, chunk)
            self._judge(chunk, event, late)
        self._has_changed = True

    def _judge(self, chunk: Chunk, event: e.Gone, late: Place | None) -> None:
        run, death = chunk.run, event.death
        run.careful = True
        if late is not None:  # else what was late has ended meanwhile, and nobody is to blame
            death = death._replace(late=late == death.place, blameless=late != death.place)
        found = verdict(chunk, death, event.left)
        self._has_suspects |= death.in_company
        for one in found.again:
            run.put_back(one)
        for one in found.apart:
            self._repack(one)
        for one, why in found.failed:
            self._fail(one, why)

    # Opening and closing

    def _opened(self, event: e.Opened) -> None:
        self._move("opened")
        self._has_changed = True

    def _closing(self, event: e.Closing) -> None:
        self._move("close")
        for run in list(self.runs.values()):
            self._leave(run)
        self._has_changed = True

    def _hurry(self, event: e.Hurry) -> None:
        for member, chunk in list(self.busy()):
            if member.state is MemberState.BUSY and not chunk.ended:
                member.move("kill")
                self._commands.append(e.Kill(member.slot))

    def _broke(self, event: e.Broke) -> None:
        if (self.state, "break") in ENGINE:
            self._move("break")
            self._commands.append(e.Fail(event.error))

    # Handing out

    def _go_on(self) -> None:
        """Give everybody something to do, and see what is over."""
        while self.idle:
            chunk = self._next_chunk()
            if chunk is None:
                break
            self._send(self.team[self.idle.pop()], chunk)
        for run in tuple(self.runs.values()):
            if run.state is RunState.OPEN:
                self._ask_for_more(run)
            elif run.is_over:
                whole = run.state is RunState.DRAINING
                run.move("done")
                del self.runs[run.number]
                self._turns.remove(run)
                self._commands.append(e.Finish(run, whole))
        if self._absent:
            self._start_members()
        if self.state is EngineState.CLOSING and not self.runs and not self._is_drained:
            self._is_drained = True
            self._commands.append(e.Drained())

    def _next_chunk(self) -> Chunk | None:
        """What is handed out next: what was out before comes first, and maps take turns."""
        turns = self._turns
        if self._has_suspects:
            suspects = [run for run in turns if any(one.suspect for one in run.waiting)]
            out = [chunk for _, chunk in self.busy()]
            self._has_suspects = bool(suspects) or any(chunk.suspect for chunk in out)
            if self._has_suspects:
                if out:
                    return None  # a suspect runs alone
                return self._suspect_of(suspects[0])
        for _ in range(len(turns)):
            run = turns[0]
            if len(turns) > 1:
                turns.rotate(-1)
            if run.waiting:
                return heapq.heappop(run.waiting)
            if run.fresh:
                if run.may_send():
                    chunk = run.fresh.popleft()
                    run.ahead = run.ahead - chunk.nbytes if run.fresh else 0
                    return chunk
                run.is_held_up = True
        return None

    def _suspect_of(self, run: Run) -> Chunk:
        suspect = min(one for one in run.waiting if one.suspect)
        run.waiting.remove(suspect)
        run.waiting.sort()
        return suspect

    def _send(self, member: Member, chunk: Chunk) -> None:
        member.state = MEMBER[member.state, "send"]
        member.chunk = chunk
        member.id = ChunkId(next(self._ids))
        run = chunk.run
        member.expected = run.cost(chunk)
        run.out += 1
        run.expected += member.expected
        self._commands.append(made(e.Send, (member.slot, member.id, chunk)))

    def _ask_for_more(self, run: Run) -> None:
        """Have the source bring what is wanted now, and what will be wanted next."""
        workers, sizer = len(self.team), run.sizer
        # While chunks still grow, none is read before somebody can have it: it would be small.
        wanted = len(self.idle) + (workers if sizer.settled else 0)
        if not run.out:
            wanted = max(wanted, 1)  # or nobody would know whether there are any more
        while run.fetching + len(run.fresh) < wanted:
            if not run.may_read(workers):
                run.is_held_up = True
                return
            size = sizer.next_size(run.read + run.asked)
            # Small ones are asked for several at a time, since to ask takes as long as to bring.
            small = sizer.settled and size == sizer.size and 0 < run.brought < SMALL
            count = max(1, min(AT_ONCE, run.room(workers) // size)) if small else 1
            run.fetching += count
            run.asked += count * size
            self._commands.append(e.Fetch(run, size, count))

    def _start_members(self) -> None:
        """Have workers start: the first ones in any case, more when there is work for them."""
        if self.state in (EngineState.CLOSED, EngineState.BROKEN):
            return
        absent = [m for m in self.team.values() if m.state is MemberState.ABSENT]
        there = len(self.team) - len(absent)
        work = sum(len(run.waiting) + len(run.fresh) for run in self.runs.values())
        starting = sum(m.state is MemberState.STARTING for m in self.team.values())
        wanted = 0 if self.idle else max(0, work - starting)
        if self.state is not EngineState.CLOSING:
            wanted = max(wanted, self._eager - there)
        for member in absent[:wanted]:
            member.move("start")
            self._absent -= 1
            self._commands.append(e.Start(member.slot))

    # What holds

    def check(self) -> None:
        """See that all of it fits together.

        Raises:
            AssertionError: what doesn't.
        """
        out: dict[int, int] = {}
        for member in self.team.values():
            has = member.state in (MemberState.BUSY, MemberState.ENDING)
            assert member.chunk is None or has, f"{member} has a chunk"
            assert member.chunk is not None or member.state is not MemberState.BUSY, (
                f"{member} has none"
            )
            idle = self.idle.count(member.slot)
            assert idle == (member.state is MemberState.IDLE), f"{member} is idle {idle} times"
            if member.chunk is not None:
                number = member.chunk.run.number
                assert number in self.runs, f"{member} works for a map that is over"
                out[number] = out.get(number, 0) + 1
        absent = [m for m in self.team.values() if m.state is MemberState.ABSENT]
        assert self._absent == len(absent)
        assert {id(run) for run in self._turns} == {id(run) for run in self.runs.values()}
        for run in self.runs.values():
            assert run.out == out.get(run.number, 0), (
                f"{run.out} chunks of map {run.number} are out"
            )
            assert run.state is not RunState.DONE
            places = [
                *((one.first, len(one)) for one in (*run.waiting, *run.fresh, *run.repacking)),
                *((c.first, len(c)) for _, c in self.busy() if c.run is run),
                *((first, len(piece.items)) for first, piece in run.shelf.waiting.items()),
            ]
            there = sum(length for _, length in places)
            known = run.delivered + run.dropped + there
            assert run.read == known, f"of {run.read} items read, {known} are somewhere"
            end = 0
            for first, length in sorted(places):
                assert length, f"there is an empty chunk at {first}"
                assert first >= end, f"item {first} is in two places"
                end = first + length
            assert run.passed <= run.delivered
            assert run.fetching >= 0
            assert run.ahead >= 0
            assert run.held >= 0
            assert run.expected >= 0
            assert run.asked >= 0
        if self._is_drained:
            assert not self.runs, "a map is under way after the end"
