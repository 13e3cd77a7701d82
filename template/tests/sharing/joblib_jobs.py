"""The jobs of test_joblib.py, apart from it: workers need not import pytest."""

import importlib
from dataclasses import dataclass
from typing import Any

from under_test import sharing

base: Any = importlib.import_module(f"{sharing.__name__}.patterns.base")


class Texts:
    """What is served."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> int:
        """Keep it; how many there are."""
        self.texts.append(text)
        return len(self.texts)


class Served(base.Pattern):  # type: ignore[misc]
    """A pattern that is nothing but a service: a project with any patterns has it."""

    def open(self, host: Any) -> None:
        self.service = host.service(Texts)

    def attach(self, worker: object) -> None:
        self.service.attach()


@dataclass
class State:
    """What workers share."""

    served: Served


def add(text: str, state: State) -> int:
    """Call the service from a worker."""
    count: int = state.served.service.call("add", text)
    return count
