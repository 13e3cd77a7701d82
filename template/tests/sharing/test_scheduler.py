"""The rules of the scheduler, tried with events that are made up: see `made_up`.

A rule that is broken on purpose has to be found, so each has a test that breaks it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import made_up
import pytest
from made_up import World, Wrong
from under_test import chunks, events, lifecycles, runs, scheduler, sources, verdict

PARTS = 8
"""That the worlds are tried in, for those who run tests side by side."""

FEW = 100_000
"""Events within which a broken rule is to be found; most take some thousand."""

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: Patch) -> None:
    """What is read ahead comes to its bounds soon."""
    monkeypatch.setattr(runs, "WINDOW", 3)
    monkeypatch.setattr(runs, "WINDOW_BYTES", 4000)
    for module in (runs, scheduler, sources):
        monkeypatch.setattr(module, "SMALL", 60)
    monkeypatch.setattr(scheduler, "AT_ONCE", 3)


def worlds(first: int, events: int) -> Iterator[World]:
    """Worlds that have come to their ends, until so many events have happened."""
    seed = first
    while events > 0:
        world = World(seed)
        events -= world.live()
        seed += 1
        yield world


@pytest.mark.parametrize("part", range(PARTS))
def test_every_rule_holds_whatever_happens(part: int, pytestconfig: pytest.Config) -> None:
    wanted = pytestconfig.getoption("events") // PARTS
    count = deaths = 0
    for world in worlds(100_000 * part, wanted):
        count += world.steps
        deaths += world.deaths
    print(f"{count:,} events, {deaths:,} deaths")
    assert count >= wanted
    assert deaths > wanted / 50


def test_every_rule_holds_with_the_windows_as_they_are(monkeypatch: Patch) -> None:
    monkeypatch.undo()
    assert runs.WINDOW > 3
    for world in worlds(9_000_000, 10_000):
        assert world.is_over


def test_the_same_seed_gives_the_same_world() -> None:
    world, again = World(4711), World(4711)
    assert world.live() == again.live()
    assert list(map(made_up.brief, world.last)) == list(map(made_up.brief, again.last))


def test_all_kinds_of_events_and_commands_come_about() -> None:
    found: set[type] = set()
    for seed in range(150):
        world = World(seed)
        handle = world.scheduler.handle

        def noted(*told: Any, handle: Callable[..., list[Any]] = handle) -> list[Any]:
            commands = handle(*told)
            found.update(map(type, (*told, *commands)))
            return commands

        world.scheduler.handle = noted  # type: ignore[method-assign]
        world.live()
    assert found >= {*events.Event.__args__, *events.Command.__args__}


# Rules that are broken on purpose


def what_ended_does_not_run_again(patch: Patch) -> None:
    def put_back(run: runs.Run, chunk: chunks.Chunk) -> None:
        if run.state is not lifecycles.RunState.LEFT:
            heapq.heappush(run.waiting, chunk)
        else:
            run.dropped += len(chunk)

    patch.setattr(runs.Run, "put_back", put_back)


def what_nobody_waits_for_runs_again(patch: Patch) -> None:
    patch.setattr(runs.Run, "put_back", lambda run, chunk: heapq.heappush(run.waiting, chunk))


def _also(patch: Patch, name: str, more: Callable[[Any, Any], None]) -> None:
    """Have a handler of the scheduler do one thing more, afterwards."""
    plain = getattr(scheduler.Scheduler, name)

    def handler(self: Any, event: Any) -> None:
        plain(self, event)
        more(self, event)

    patch.setattr(scheduler.Scheduler, name, handler)


def a_delta_is_applied_twice(patch: Patch) -> None:
    def twice(self: Any, event: events.Answered) -> None:
        if event.deltas and event.refused is None:
            self._commands.append(events.Apply(event.slot, event.deltas))

    _also(patch, "_answered", twice)


def a_delta_is_lost(patch: Patch) -> None:
    plain = scheduler.Scheduler._answered

    def answered(self: Any, event: events.Answered) -> None:
        lost = event.ended > 1 and event.refused is None
        plain(self, event._replace(deltas={}) if lost else event)

    patch.setattr(scheduler.Scheduler, "_answered", answered)


def what_was_refused_is_not_taken_back(patch: Patch) -> None:
    def keep(self: Any, event: events.Answered) -> None:
        self._commands[:] = [c for c in self._commands if not isinstance(c, events.Undo)]

    _also(patch, "_answered", keep)


Judge = Callable[[chunks.Chunk, verdict.Death, dict[int, int]], verdict.Verdict]


def _judges(patch: Patch, judge: Callable[..., verdict.Verdict]) -> None:
    """Have somebody else judge, who is given the right verdict besides."""
    plain = verdict.verdict

    def other(chunk: chunks.Chunk, death: verdict.Death, left: dict[int, int]) -> verdict.Verdict:
        return judge(chunk, death, plain(chunk, death, left))

    patch.setattr(scheduler, "verdict", other)


def all_of_a_chunk_is_blamed(patch: Patch) -> None:
    def judge(chunk: chunks.Chunk, death: Any, found: verdict.Verdict) -> verdict.Verdict:
        if not found.failed:
            return found
        _, why = found.failed[0]
        parts = chunk.parts(len(chunk))
        return verdict.Verdict([], failed=[(part, why) for part in parts])

    _judges(patch, judge)


def a_death_costs_the_neighbours_a_try(patch: Patch) -> None:
    def judge(chunk: chunks.Chunk, death: Any, found: verdict.Verdict) -> verdict.Verdict:
        for part in found.again:
            if len(part) == 1 < len(chunk):
                part.died += 1
        return found

    _judges(patch, judge)


def a_death_costs_nothing(patch: Patch) -> None:
    def judge(chunk: chunks.Chunk, death: Any, found: verdict.Verdict) -> verdict.Verdict:
        for part in found.again:
            part.died = 0
        return found

    _judges(patch, judge)


def one_try_too_many(patch: Patch) -> None:
    patch.setattr(runs.Run, "retries", property(lambda run: run.settings.retries + 1))


def what_had_not_begun_is_taken_to_have_ended(patch: Patch) -> None:
    def judge(chunk: chunks.Chunk, death: verdict.Death, found: verdict.Verdict) -> verdict.Verdict:
        if death.place.phase is chunks.Phase.RUNNING:
            for part in found.again:
                part.ended = True
        return found

    _judges(patch, judge)


def what_a_stopped_worker_had_not_begun_is_taken_to_have_ended(patch: Patch) -> None:
    plain = verdict.verdict

    def other(chunk: chunks.Chunk, death: verdict.Death, left: dict[int, int]) -> verdict.Verdict:
        phase, item = death.place
        if phase in (chunks.Phase.PACKING, chunks.Phase.SENDING) and item < len(chunk):
            death = death._replace(place=chunks.Place(phase, len(chunk)))
        return plain(chunk, death, left)

    patch.setattr(scheduler, "verdict", other)


def what_an_attempt_has_left_is_forgotten(patch: Patch) -> None:
    def judge(chunk: chunks.Chunk, death: Any, found: verdict.Verdict) -> verdict.Verdict:
        for part in found.again:
            part.left = {}
        return found

    _judges(patch, judge)


def a_repacked_item_forgets_what_it_has_left(patch: Patch) -> None:
    plain = sources.repack

    def repack(chunk: chunks.Chunk, dumps: sources.Dumps) -> events.Repacked:
        found = plain(chunk, dumps)
        for one in found.chunks:
            one.left = {}
        return found

    patch.setattr(sources, "repack", repack)


def a_repacked_item_has_all_its_tries_again(patch: Patch) -> None:
    plain = sources.repack

    def repack(chunk: chunks.Chunk, dumps: sources.Dumps) -> events.Repacked:
        found = plain(chunk, dumps)
        for one in found.chunks:
            one.died = 0
        return found

    patch.setattr(sources, "repack", repack)


def what_is_given_back_loses_an_item(patch: Patch) -> None:
    plain = chunks.Chunk.cut

    def cut(chunk: chunks.Chunk, length: int) -> chunks.Chunk:
        others = plain(chunk, length)
        return others.part(1, len(others)) if len(others) > 1 else others

    patch.setattr(chunks.Chunk, "cut", cut)


def what_is_given_back_is_sliced_wrongly(patch: Patch) -> None:
    plain = chunks.Chunk.cut

    def cut(chunk: chunks.Chunk, length: int) -> chunks.Chunk:
        others = plain(chunk, length)
        others.start = max(0, others.start - 1)
        return others

    patch.setattr(chunks.Chunk, "cut", cut)


def results_come_out_of_order(patch: Patch) -> None:
    patch.setattr(runs.Shelf, "put", lambda shelf, piece: [piece])


def an_answer_of_a_killed_worker_is_dropped(patch: Patch) -> None:
    plain = scheduler.Scheduler._answered

    def answered(self: Any, event: events.Answered) -> None:
        if self.team[event.slot].state is not lifecycles.MemberState.ENDING:
            plain(self, event)

    patch.setattr(scheduler.Scheduler, "_answered", answered)


def the_windows_are_ignored(patch: Patch) -> None:
    patch.setattr(runs.Run, "may_read", lambda run, workers: True)


def results_that_wait_are_ignored(patch: Patch) -> None:
    patch.setattr(runs.Run, "may_send", lambda run: True)


def suspects_run_in_company(patch: Patch) -> None:
    nothing = property(lambda self: False, lambda self, value: None)
    patch.setattr(scheduler.Scheduler, "_has_suspects", nothing, raising=False)


def deaths_without_an_explanation_go_on_for_ever(patch: Patch) -> None:
    patch.setattr(verdict, "UNEXPLAINED", 1 << 60)


def a_worker_is_given_two_chunks(patch: Patch) -> None:
    plain = scheduler.Scheduler._send

    def send(self: Any, member: scheduler.Member, chunk: chunks.Chunk) -> None:
        plain(self, member, chunk)
        if self.runs and len(self.idle) == 0:
            self.idle.append(member.slot)

    patch.setattr(scheduler.Scheduler, "_send", send)


def another_item_is_late(patch: Patch) -> None:
    plain = scheduler.Scheduler._judge

    def judge(self: Any, chunk: Any, event: events.Gone, late: chunks.Place | None) -> None:
        plain(self, chunk, event, None if late is None else event.death.place)

    patch.setattr(scheduler.Scheduler, "_judge", judge)


def who_died_over_nothing_of_its_own_is_to_blame(patch: Patch) -> None:
    plain = scheduler.Scheduler._judge

    def judge(self: Any, chunk: Any, event: events.Gone, late: chunks.Place | None) -> None:
        plain(self, chunk, event, late if late == event.death.place else None)

    patch.setattr(scheduler.Scheduler, "_judge", judge)


def nobody_starts_again(patch: Patch) -> None:
    plain = scheduler.Scheduler._start_members

    def start(self: Any) -> None:
        if not self.runs:
            plain(self)

    patch.setattr(scheduler.Scheduler, "_start_members", start)


def a_reader_that_goes_on_changes_nothing(patch: Patch) -> None:
    def passed(self: Any, event: events.Passed) -> None:
        event.run.passed += event.items
        event.run.held -= event.nbytes

    patch.setattr(scheduler.Scheduler, "_passed", passed)


def a_left_map_is_forgotten_while_it_is_repacked(patch: Patch) -> None:
    def repacked(self: Any, event: events.Repacked) -> None:
        event.chunk.run.repacking.remove(event.chunk)
        for chunk in event.chunks:
            event.chunk.run.put_back(chunk)
        for piece in event.refused:
            self._shelve(event.chunk.run, piece)
        self._go_on()

    patch.setattr(scheduler.Scheduler, "_repacked", repacked)


def a_map_is_over_while_a_worker_has_a_chunk(patch: Patch) -> None:
    over = (lifecycles.RunState.LEFT, lifecycles.RunState.DRAINING)
    is_over = property(lambda run: run.state in over and not (run.waiting or run.fresh))
    patch.setattr(runs.Run, "is_over", is_over)


def a_left_map_waits_for_its_source(patch: Patch) -> None:
    plain = runs.Run.is_over.fget  # type: ignore[attr-defined]
    patch.setattr(runs.Run, "is_over", property(lambda run: plain(run) and not run.fetching))


BROKEN = [
    what_ended_does_not_run_again,
    what_nobody_waits_for_runs_again,
    a_delta_is_applied_twice,
    a_delta_is_lost,
    what_was_refused_is_not_taken_back,
    all_of_a_chunk_is_blamed,
    a_death_costs_the_neighbours_a_try,
    a_death_costs_nothing,
    one_try_too_many,
    what_had_not_begun_is_taken_to_have_ended,
    what_a_stopped_worker_had_not_begun_is_taken_to_have_ended,
    what_an_attempt_has_left_is_forgotten,
    a_repacked_item_forgets_what_it_has_left,
    a_repacked_item_has_all_its_tries_again,
    what_is_given_back_loses_an_item,
    what_is_given_back_is_sliced_wrongly,
    results_come_out_of_order,
    an_answer_of_a_killed_worker_is_dropped,
    the_windows_are_ignored,
    results_that_wait_are_ignored,
    suspects_run_in_company,
    deaths_without_an_explanation_go_on_for_ever,
    a_worker_is_given_two_chunks,
    another_item_is_late,
    who_died_over_nothing_of_its_own_is_to_blame,
    nobody_starts_again,
    a_reader_that_goes_on_changes_nothing,
    a_left_map_is_forgotten_while_it_is_repacked,
    a_map_is_over_while_a_worker_has_a_chunk,
    a_left_map_waits_for_its_source,
]


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_a_broken_rule_is_found(breaks: Callable[[Patch], None], monkeypatch: Patch) -> None:
    breaks(monkeypatch)
    count = 0
    with pytest.raises(Wrong, match=r"World\(\d+\), event \d+") as found:
        for world in worlds(0, FEW):
            count += world.steps
    print(f"after {count:,} events at least: {str(found.value).splitlines()[0]}")


# The tables of lifecycles

MOVES = {
    "engine": (
        "NEW open OPENING, OPENING opened OPEN, OPENING break BROKEN, OPENING close CLOSING, "
        "OPEN close CLOSING, OPEN break BROKEN, CLOSING closed CLOSED, CLOSING break BROKEN, "
        "BROKEN closed CLOSED"
    ),
    "member": (
        "ABSENT start STARTING, ABSENT ready IDLE, STARTING ready IDLE, STARTING gone ABSENT, "
        "IDLE send BUSY, IDLE gone ABSENT, BUSY answer IDLE, BUSY kill ENDING, "
        "BUSY gone ABSENT, ENDING answer ENDING, ENDING gone ABSENT"
    ),
    "run": (
        "OPEN end DRAINING, OPEN leave LEFT, DRAINING leave LEFT, DRAINING done DONE, "
        "LEFT end LEFT, LEFT leave LEFT, LEFT done DONE, DONE leave DONE, DONE end DONE"
    ),
}


@pytest.mark.parametrize(
    ("name", "lifecycle", "states"),
    [
        ("engine", lifecycles.ENGINE, lifecycles.EngineState),
        ("member", lifecycles.MEMBER, lifecycles.MemberState),
        ("run", lifecycles.RUN, lifecycles.RunState),
    ],
)
def test_a_move_that_the_table_does_not_have_raises(
    name: str, lifecycle: lifecycles.Lifecycle[Any], states: type[Enum]
) -> None:
    allowed = {}
    for line in MOVES[name].split(", "):
        state, move, to = line.split()
        allowed[states[state], move] = states[to]
    for state_ in states:
        for move in {move for _, move in allowed} | {"sleep"}:
            assert ((state_, move) in lifecycle) == ((state_, move) in allowed)
            if (state_, move) in allowed:
                assert lifecycle[state_, move] is allowed[state_, move]
            else:
                with pytest.raises(lifecycles.IllegalMove, match=f"no '{move}' after"):
                    lifecycle[state_, move]


GONE = events.Gone(1, verdict.Death(chunks.UNBEGUN, "by SIGKILL"), {})
ANSWER = events.Answered(1, chunks.ChunkId(1), 1, 0.0, {}, None, False, b"")


@pytest.mark.parametrize(
    "impossible",
    [
        [events.Opened(), events.Opened()],
        [events.Closing(), events.Closing()],
        [events.Ready(1), events.Ready(1)],
        [events.Ready(1), GONE._replace(slot=2)],
        [events.Ready(1), ANSWER],
        [events.Ready(1), events.Unreadable(1, chunks.ChunkId(1), ("", "", ""))],
    ],
    ids=["opened", "closed", "ready", "gone", "answered", "unreadable"],
)
def test_what_cannot_have_happened_raises(impossible: list[Any]) -> None:
    mine = scheduler.Scheduler(2, 1)
    mine.open()
    *before, last = impossible
    for event in before:
        mine.handle(event)
    with pytest.raises(lifecycles.IllegalMove):
        mine.handle(last)
