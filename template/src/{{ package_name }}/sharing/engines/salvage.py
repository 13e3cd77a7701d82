"""Which results of a chunk can be unpickled, when not all can.

One result that can't would take all others of its chunk along, whose items have ended and must not
run again for it. So the pickle is read once more, slowly, by an unpickler that goes on after an
exception: what could not be made, and all that contains it, is marked, and the rest is as it was.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from .failure import Failure, describe


class _Broken:
    """In the place of an object that could not be made."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


UNFIT = (Exception, SystemExit, GeneratorExit)
"""What code of the user may raise that unpickles: all but what is an interrupt anywhere."""

_unpickler: Any = vars(pickle)["_Unpickler"]  # the one that is written in Python


class _Salvage(_unpickler):  # type: ignore[misc]
    """Goes on after an exception of what it makes. See `pickletools` for what the codes do."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._results: list[object] | None = None

    def load_empty_list(self) -> None:
        super().load_empty_list()
        if self._results is None:  # the list of results is the first object of all
            self._results = self.stack[-1]

    def load_frozenset(self) -> None:
        depth = len(self.metastack)
        try:
            super().load_frozenset()
        except UNFIT as error:
            self.drop_to_mark(depth)
            self.append(_Broken(describe(error)))

    def load_pop(self) -> None:
        top = self.stack[-1] if self.stack else None
        if isinstance(top, _Broken) and all(value is not top for value in self.memo.values()):
            # Nobody can refer to it: a function that was to give its state to what stands below.
            self._mark(top, self.stack[-2])
            self.stack[-2] = top
        super().load_pop()

    def drop_to_mark(self, depth: int) -> None:
        """Drop what stands above the last of so many marks, if that has not been done."""
        if len(self.metastack) == depth:
            self.stack = self.metastack.pop()
            self.append = self.stack.append

    def _mark(self, broken: _Broken, instead_of: object) -> None:
        """Whoever refers to the half-made object later on gets the mark."""
        for key, value in self.memo.items():
            if value is instead_of:
                self.memo[key] = broken


def _is_broken(value: object) -> _Broken | None:
    """The mark in an object, or in the tuples that it consists of."""
    if isinstance(value, _Broken):
        return value
    if isinstance(value, (tuple, frozenset)):
        return next((found for one in value if (found := _is_broken(one))), None)
    return None


def _careful(code: int, arguments: int) -> None:
    """Have an operation that makes or changes an object go on after an exception.

    Args:
        code: of the operation.
        arguments: how many objects of the stack it takes, the one below the last among them.
    """
    plain = _Salvage.dispatch[code]

    def load(self: Any) -> None:
        taken = self.stack[-arguments:]
        found = next((mark for value in taken if (mark := _is_broken(value))), None)
        if found is None:
            height = len(self.stack)
            try:
                plain(self)
                return
            except UNFIT as error:
                found = _Broken(describe(error))
                del self.stack[height - arguments :]
        else:
            found = _Broken(found.failure)  # another one, which nobody refers to yet
            del self.stack[-arguments:]
        if code == pickle.BUILD[0]:
            self._mark(found, taken[0])
        self.stack.append(found)

    _Salvage.dispatch[code] = load


def _containing(code: int, *, marked: bool, pairs: bool) -> None:
    """Have a list, dictionary or set that a broken object goes into be broken as well.

    All but the list of results.
    """
    plain = _Salvage.dispatch[code]

    def load(self: Any) -> None:
        depth, height = len(self.metastack), len(self.stack)
        count = 2 if pairs else 1
        if marked:
            items, target = self.stack, self.metastack[-1][-1]
        else:
            items, target = self.stack[-count:], self.stack[-count - 1]
        if target is self._results:
            plain(self)
            return
        found = _is_broken(target) or next((m for v in items if (m := _is_broken(v))), None)
        if found is None:
            try:
                plain(self)
                return
            except UNFIT as error:
                found = _Broken(describe(error))
        # The items may have been taken off already.
        if marked:
            self.drop_to_mark(depth)
        else:
            del self.stack[height - count :]
        self.stack[-1] = found
        self._mark(found, target)

    _Salvage.dispatch[code] = load


_Salvage.dispatch = dict(_unpickler.dispatch)
_Salvage.dispatch[pickle.EMPTY_LIST[0]] = _Salvage.load_empty_list
_Salvage.dispatch[pickle.FROZENSET[0]] = _Salvage.load_frozenset
_Salvage.dispatch[pickle.POP[0]] = _Salvage.load_pop
for _code, _arguments in ((pickle.REDUCE, 2), (pickle.NEWOBJ, 2), (pickle.NEWOBJ_EX, 3)):
    _careful(_code[0], _arguments)
_careful(pickle.BUILD[0], 2)
_careful(pickle.STACK_GLOBAL[0], 2)
for _code, _marked, _pairs in (
    (pickle.APPEND, False, False),
    (pickle.APPENDS, True, False),
    (pickle.SETITEM, False, True),
    (pickle.SETITEMS, True, True),
    (pickle.ADDITEMS, True, False),
):
    _containing(_code[0], marked=_marked, pairs=_pairs)


def salvage(
    body: bytes | memoryview,
) -> tuple[list[object], dict[int, Failure], dict[int, Failure]]:
    """The results that can be had.

    Args:
        body: the pickle of a pair: results in a list, and failures by their places.

    Returns:
        The results, None where there is none; the failures that came with them; and why those
        results are missing that can't be unpickled, by their places.
    """
    results, failures = _Salvage(io.BytesIO(body)).load()
    broken = {place: mark.failure for place, one in enumerate(results) if (mark := _is_broken(one))}
    return [None if n in broken else one for n, one in enumerate(results)], failures, broken
