"""What a project's tests say when something that they wait for does not come."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from rendering import TEMPLATE


@pytest.fixture(scope="module")
def signs() -> ModuleType:
    """The module of that name among the tests of the template."""
    (path,) = TEMPLATE.glob("tests/**/signs.py")
    spec = importlib.util.spec_from_file_location("signs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_sign_that_does_not_come_is_named(signs: ModuleType, tmp_path: Path) -> None:
    some = signs.Signs(tmp_path)
    with pytest.raises(TimeoutError, match=r"in 0 s: the sign 'ready'; .* given: none$"):
        some.wait("ready", 0)
    some.give("begun")
    some.give("another")
    with pytest.raises(TimeoutError, match=r"the sign 'ready'; .* given: another, begun$"):
        some.wait("ready", 0)
    some.give("ready")
    some.wait("ready", 0)


def test_a_condition_that_does_not_come_true_is_shown(signs: ModuleType) -> None:
    with pytest.raises(TimeoutError) as caught:
        signs.wait_until(lambda: 1 + 1 == 3, 0.01)
    assert "did not come in 0.01 s: signs.wait_until(lambda: 1 + 1 == 3, 0.01)" in str(caught.value)
    assert "(test_signs.py, line " in str(caught.value)
    with pytest.raises(TimeoutError, match="built-in method"):
        signs.wait_until([].copy, 0)
    with pytest.raises(TimeoutError, match="in 0 s: a third one"):
        signs.wait_until(lambda: False, 0, name=lambda: "a third one")
