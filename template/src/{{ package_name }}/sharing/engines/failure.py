"""An exception in words, as it travels from where it was raised."""

from __future__ import annotations

import contextlib
import traceback

Failure = tuple[str, str, str]
"""An exception as its class's name, its text and its traceback: it may not stand a pickle."""


def describe(error: BaseException) -> Failure:
    """An exception in words; whatever it is, this succeeds.

    There is no traceback when no code but ours is in it, since that would explain nothing: of
    what can't be pickled, above all.
    """
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be had)"
    trace = ""
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        with contextlib.suppress(Exception):
            trace = "".join(traceback.format_exception(error))
    return type(error).__name__, text, trace
