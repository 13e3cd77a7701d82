"""A `multiprocessing.Manager` with objects of ours, which may die without taking the work along.

The objects live in one server process; each process and thread has a connection of its own.
When the server dies the engine starts another, with new objects; a word in shared memory says
which is the present one, and so what its address is.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.managers import BaseManager, BaseProxy
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ServiceLost
from . import lifeline
from .children import Child, Launcher
from .memory import Words
from .primitives import Words as WordsProtocol
from .reasons import why_not_started

Recipe = tuple[Callable[..., object], tuple[object, ...]]
"""What to call to make an object."""

Result = tuple[Any, Exception | None]
"""What a method has returned, and what it has raised."""

Present = WordsProtocol
"""One word: the number of the present server, which its address ends with."""

_GONE = (EOFError, OSError)
"""What a call raises when its server is gone, or goes."""


class _Lost:
    """In the place of an object whose state is gone."""

    def __getattr__(self, method: str) -> NoReturn:
        raise ServiceLost("it has been started anew, and knows nothing of before")


class Hub:
    """The objects of a server."""

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self._objects = [factory(*args) for factory, args in recipes]

    def keep_only_what_may_forget(self) -> None:
        """Have the others raise `ServiceLost`: what objects of a server before knew is gone."""
        self._objects = [
            one if getattr(one, "may_forget", False) else _Lost() for one in self._objects
        ]

    def call(self, number: int, method: str, args: tuple[object, ...]) -> object:
        return getattr(self._objects[number], method)(*args)

    def answer(self, number: int, method: str, args: tuple[object, ...]) -> Result:
        """What the method returns and what it raises, so that other errors are the connection's."""
        try:
            return self.call(number, method, args), None
        except Exception as error:
            return None, error


class _HubProxy(BaseProxy):
    def answer(self, *args: object) -> Result:
        return self._callmethod("answer", args)  # type: ignore[func-returns-value, return-value]

    def hang_up(self) -> None:
        """Close this thread's connection, which the next proxy for the address would use too."""
        connection = vars(self._tls).pop("connection", None)  # type: ignore[attr-defined]
        if connection is not None:
            connection.close()


class _Manager(BaseManager):
    pass


_Manager.register("hub", proxytype=_HubProxy, exposed=("answer",))


def _serve(address: str, key: bytes, recipes: Sequence[Recipe], ready: Connection) -> None:
    hub = Hub(recipes)

    class Serving(BaseManager):
        pass

    Serving.register("hub", callable=lambda: hub, exposed=("answer",))
    server = Serving(address=address, authkey=key).get_server()
    ready.send(True)
    ready.close()
    server.serve_forever()


class Services:
    """The server process of an engine, and its place."""

    def __init__(self, launcher: Launcher, folder: Callable[[], Path]) -> None:
        self._launcher = launcher
        # On Linux abstract sockets, which leave no file behind. A path has to be short.
        linux = sys.platform == "linux"
        self._address = f"\0services-{os.urandom(8).hex()}" if linux else f"{folder()}/s"
        self._key = os.urandom(32)
        self._present = Words(1)
        self._recipes: list[Recipe] = []
        self.process: Child | None = None

    def add(self, recipe: Recipe) -> RemoteService:
        self._recipes.append(recipe)
        return RemoteService(self._address, self._key, self._present, len(self._recipes) - 1)

    def start(self) -> None:
        """Start the server, if there is anything to serve, and wait until it answers.

        Raises:
            ServiceLost: it ended while it started, each time.
        """
        deaths = 0
        while self._recipes and not self._start():
            assert self.process is not None
            exitcode, deaths = self.process.exitcode(), deaths + 1
            self.stop()
            if not lifeline.worth_another_start(exitcode, deaths):
                reason = why_not_started(exitcode, self._launcher.method)
                raise ServiceLost(f"the process of the services ended while it started, {reason}")

    def _start(self) -> bool:
        present = self._present.view[0] + 1
        receiver, sender = multiprocessing.Pipe(duplex=False)
        with receiver:
            with sender:
                args = f"{self._address}-{present}", self._key, self._recipes, sender
                self.process = self._launcher.start(_serve, args, "services")
            try:
                receiver.recv()
            except EOFError:
                self.process.join()
                return False
        self._present.view[0] = present
        return True

    def stop(self) -> None:
        """End the server; what it knew is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
            self.process = None


class RemoteService:
    """One object of the server, from any process."""

    def __init__(self, address: str, key: bytes, present: Present, number: int) -> None:
        self._address = address
        self._key = key
        self._present = present
        self._number = number
        self.attach()

    def __getstate__(self) -> tuple[str, bytes, Present, int]:
        return self._address, self._key, self._present, self._number

    def __setstate__(self, state: tuple[str, bytes, Present, int]) -> None:
        self._address, self._key, self._present, self._number = state
        self.attach()

    def attach(self) -> None:
        # A connection that came by a fork is the parent's.
        self._connecting = threading.Lock()
        self._hub: _HubProxy | None = None

    def call(self, method: str, *args: object) -> Any:
        """Call the method in the server; once more on a new connection, if the first was stale.

        Raises:
            ServiceLost: there is no server now.
        """
        try:
            return self._call(method, args)
        except _GONE:
            pass
        try:
            return self._call(method, args)
        except _GONE as error:
            raise ServiceLost(f"the process of the services is gone: {error!r}") from None

    def _call(self, method: str, args: tuple[object, ...]) -> Any:
        with self._connecting, lifeline.broken_pipes_are_errors():
            hub = self._hub = self._hub or self._connect()
        try:
            with lifeline.broken_pipes_are_errors():
                result, error = hub.answer(self._number, method, args)
        except BaseException:  # by Ctrl-C too: its answer would be taken for the next call's
            self._hub = None
            hub.hang_up()
            raise
        if error is not None:
            raise error
        return result

    def _connect(self) -> _HubProxy:
        address = f"{self._address}-{self._present.view[0]}"
        manager = _Manager(address=address, authkey=self._key)
        manager.connect()
        hub: _HubProxy = manager.hub()  # type: ignore[attr-defined]
        return hub
