"""The options of engines and of maps, each written down once."""

from __future__ import annotations

from typing import TypedDict


class EngineOptions(TypedDict, total=False):
    """The options of `open_engine`, to be passed along: ``open_engine(state, **options)``."""

    engine: str
    workers: int | None
    start_method: str | None
    address: str | None


class TryOptions(TypedDict, total=False):
    """How often an item is tried, and for how long.

    Attributes:
        retries: how often an item is tried again after its worker died; left out, twice.
        timeout: seconds that one item may take before its worker is ended; left out, any time.
    """

    retries: int
    timeout: float | None


class MapOptions(TryOptions, total=False):
    """The options of `Engine.map` and of what is like it.

    Attributes:
        ordered: whether values come in the order of the items (left out, yes), or as they are
            there.
        chunk_size: how many items travel at once; left out, measured while it runs.
        source_thread: whether a thread of its own reads the items, with the context variables of
            the reader. With False the reader does, and results wait while the source blocks: for
            what belongs to its thread, as a cursor of sqlite3 does.
    """

    ordered: bool
    chunk_size: int | None
    source_thread: bool
