"""Numbers of numpy's, of a fixed width, in what is shared: exact, or refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("numpy")

COUNTER = """
from dataclasses import dataclass, field

import numpy as np

from my_service.sharing import Counter, open_engine


@dataclass
class State:
    total: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=lambda: Counter(labels=("a", "b")))


def add(numbers, state):
    for number in numbers:
        state.total.add(number)
        state.kinds.add(number, "b")


if __name__ == "__main__":
    state = State()
    expected = 0
    with open_engine(state, workers=2, start_method="fork") as engine:
        list(engine.map(add, [np.full(3, 200, "uint8")] * 10))
        expected += 6000
        assert state.total.value == state.kinds.value == expected, state.total.value
        for kind in "int8 uint8 int16 uint16 int32 uint32 int64 uint64".split():
            n = min(np.iinfo(kind).max, 2**56)
            list(engine.map(add, [np.full(3, n, kind)] * 2))
            expected += 6 * n
            assert state.total.value == state.kinds.value == expected, kind
        for wrong in (np.float64(2), np.float32(0.5), np.uint64(2**64 - 1), np.arange(2)):
            (outcome,) = engine.outcomes(add, [[wrong]])
            assert outcome.error.error_type in ("TypeError", "ValueError"), wrong
        assert state.total.value == state.kinds.value == expected
"""

GUARDED = """
import numpy as np

from my_service.sharing import Guarded

for size in (6, 10_000):
    for typecode in "bBhHiIlLqQfd":
        guarded = Guarded(typecode, range(6)) if size == 6 else Guarded(typecode, [0] * size)
        dtype = np.dtype(typecode)
        name = f"{dtype.kind}{dtype.itemsize}"
        same = np.dtype(name).type
        with guarded as b:
            # A memoryview takes numbers by the very name that it has for them.
            b[:4] = np.array([9, 8, 7, 6], typecode if size == 6 else same)
            b[0:2] = np.array([1, 0, 2, 0], typecode if size == 6 else same)[::2]
            b[-1] = same(5)
            b[np.uint8(4)] = 3
        assert guarded.read()[:5].tolist() == [1, 2, 7, 6, 3], typecode
        assert guarded.read()[-1] == 5
        for wrong in {"f8", "f4", "i8", "u8", "i4", "u1"} - {name}:
            try:
                with guarded as b:
                    b[:4] = np.ones(4, wrong)
            except (TypeError, ValueError) as error:
                assert "format" in str(error) or "structure" in str(error), error
            else:
                raise AssertionError((typecode, wrong))
        with guarded as b:
            whole = np.asarray(b)
            whole[0] = 4
            del whole
        assert guarded.read()[:2].tolist() == [4, 2], typecode
guarded = Guarded("q", [0] * 3_000 + [0] * 10_000)
with guarded as b:
    b[np.uint8(200)] = 1
for _ in range(2):
    with guarded as b:
        assert b[200] == 1, "the block that was changed is not the one that was noted"
        b[5_000] += 1
"""


@pytest.mark.parametrize("script", [COUNTER, GUARDED], ids=["counter", "guarded"])
def test_numbers_of_numpy_are_exact_or_refused(
    rendered: Callable[..., Path], tmp_path: Path, script: str
) -> None:
    project = rendered(patterns=["counter", "arrays", "locks"])
    path = tmp_path / "script.py"
    path.write_text(script, "utf-8")
    done = subprocess.run(
        [sys.executable, path],
        env={"PYTHONPATH": str(project / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
