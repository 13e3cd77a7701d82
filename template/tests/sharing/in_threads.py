"""What a test has running beside itself: a call in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

SOON = 30.0
"""Seconds after which a call beside the test is taken to hang."""


def start(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> "Future[R]":
    """Call it in a thread, which keeps nobody from ending though it hangs.

    Whoever asks for the result does so with a limit: ``start(work).result(SOON)``.
    """
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
