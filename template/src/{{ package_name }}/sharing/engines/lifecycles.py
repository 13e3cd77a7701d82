"""The lifecycles of an engine, of a member of its team and of a map: tables, and nothing else.

What is not in a table can't happen: a move that it does not have raises `IllegalMove`, so a
mistake in the scheduler shows where it is made.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import TypeVar


class EngineState(IntEnum):
    """How far an engine is."""

    NEW = auto()
    OPENING = auto()  # its workers start
    OPEN = auto()
    CLOSING = auto()  # hands out nothing new, and waits for what runs
    BROKEN = auto()  # nothing of it can be relied on any more; it is to be closed
    CLOSED = auto()


class MemberState(IntEnum):
    """What the worker in a slot is doing."""

    ABSENT = auto()
    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    ENDING = auto()  # it was killed, and its death is not known yet; an answer may come before


class RunState(IntEnum):
    """How far a map is."""

    OPEN = auto()
    DRAINING = auto()  # the source has ended
    LEFT = auto()  # its reader has gone: what has ended counts, and nothing else begins
    DONE = auto()


State = TypeVar("State", bound=IntEnum)


class IllegalMove(RuntimeError):
    """Something has happened that the lifecycle does not have: a mistake in the engine."""


class Lifecycle(dict[tuple[State, str], State]):
    """The state that a move leads to, by the state that it leaves and its name.

    Args:
        moves: for each state the moves that leave it, by their names.

    Raises:
        IllegalMove: (when one is asked for) the table has no such move.
    """

    def __init__(self, moves: dict[State, dict[str, State]]) -> None:
        super().__init__(
            {(state, name): to for state, named in moves.items() for name, to in named.items()}
        )

    def __missing__(self, key: tuple[State, str]) -> State:
        state, move = key
        raise IllegalMove(f"no {move!r} after {state.name}")


ENGINE = Lifecycle[EngineState](
    {
        EngineState.NEW: {"open": EngineState.OPENING},
        EngineState.OPENING: {
            "opened": EngineState.OPEN,
            "break": EngineState.BROKEN,
            "close": EngineState.CLOSING,
        },
        EngineState.OPEN: {"close": EngineState.CLOSING, "break": EngineState.BROKEN},
        EngineState.CLOSING: {"closed": EngineState.CLOSED, "break": EngineState.BROKEN},
        EngineState.BROKEN: {"closed": EngineState.CLOSED},
        EngineState.CLOSED: {},
    }
)

MEMBER = Lifecycle[MemberState](
    {
        # A worker of a cluster may come by itself, so that no start comes before.
        MemberState.ABSENT: {"start": MemberState.STARTING, "ready": MemberState.IDLE},
        MemberState.STARTING: {"ready": MemberState.IDLE, "gone": MemberState.ABSENT},
        MemberState.IDLE: {"send": MemberState.BUSY, "gone": MemberState.ABSENT},
        MemberState.BUSY: {
            "answer": MemberState.IDLE,
            "kill": MemberState.ENDING,
            "gone": MemberState.ABSENT,
        },
        MemberState.ENDING: {"answer": MemberState.ENDING, "gone": MemberState.ABSENT},
    }
)

RUN = Lifecycle[RunState](
    {
        RunState.OPEN: {"end": RunState.DRAINING, "leave": RunState.LEFT},
        RunState.DRAINING: {"leave": RunState.LEFT, "done": RunState.DONE},
        RunState.LEFT: {"end": RunState.LEFT, "leave": RunState.LEFT, "done": RunState.DONE},
        RunState.DONE: {"leave": RunState.DONE, "end": RunState.DONE},
    }
)
