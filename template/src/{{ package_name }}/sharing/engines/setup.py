"""What the workers of an engine are set up with, apart from how it gets to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..errors import SharingError
from ..patterns.base import Pattern
from ..patterns.search import attributes_of


def levels_of_loggers() -> dict[str, int]:
    """What the loggers of this process let through, where they say so themselves, by name."""
    levels = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {"": logging.root.level, **levels}


def unfit_field(
    state: object,
    patterns: Sequence[Pattern],
    error: Exception,
    dumps: Callable[[object], bytes],
) -> SharingError:
    """Say which field of a state can't be pickled, which has raised the error."""
    if isinstance(error, SharingError):  # a pattern, or what is like one, says so itself
        return error
    reason = " ".join(str(error).split())
    known = {id(pattern) for pattern in patterns}
    for name, value in attributes_of(state).items():
        if id(value) not in known:
            try:
                dumps(value)
            except Exception:
                return SharingError(
                    f"the field {name!r} of the state can't be pickled, so no worker can be "
                    f"given it ({reason}): let each worker make its own, with PerWorker"
                )
    return SharingError(f"the state can't be pickled, so no worker can be given it: {reason}")
