"""Marks for tests that need what not every project was generated with."""

import pytest
from under_test import sharing


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test in a project that has not all of these, such as ``needs("Counter", "Log")``."""
    missing = [name for name in names if not hasattr(sharing, name)]
    return pytest.mark.skipif(bool(missing), reason=f"the project has no {', '.join(missing)}")
