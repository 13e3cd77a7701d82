"""What can go wrong with shared work, each error saying in one line what to do about it."""

from __future__ import annotations


class SharingError(Exception):
    """Something is wrong with the shared state, the engine or the call; the text says what."""


class StartFailed(SharingError):
    """The workers could not be started; ``traceback`` is the worker's, where there was one."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class ServiceLost(SharingError):
    """The process that hosts a service is gone; another is being started."""


class StateLost(SharingError):
    """What the workers shared is gone with the process that kept it: never a fresh zero."""


class JobFailed(SharingError):
    """A job raised on an item.

    Attributes:
        job: the name of the job.
        item: the item it was given.
        error_type: the name of the exception's class.
        message: the exception's text, "" where it had none.
        traceback: the traceback of the worker, as text.
    """

    def __init__(
        self, job: str, item: object, error_type: str, message: str, traceback: str = ""
    ) -> None:
        super().__init__(job, item, error_type, message, traceback)
        self.job = job
        self.item = item
        self.error_type = error_type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        reason = f"{self.error_type}: {self.message}" if self.message else self.error_type
        return f"{self.job} failed on {brief(self.item)}: {' '.join(reason.split())}"


class WorkerDied(JobFailed):
    """Every worker that was given this item died while it ran."""


class ItemTimeout(JobFailed):
    """The item ran longer than its ``timeout``, and its worker was ended."""


def brief(value: object, width: int = 80) -> str:
    """The value as it would be typed, on one line, shortened to ``width`` characters."""
    try:
        text = repr(value[: 2 * width] if isinstance(value, (str, bytes)) else value)
    except Exception:
        text = f"<a {type(value).__name__}, whose repr can't be had>"
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
