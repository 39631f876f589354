"""Real-time tests on machines that others load: what was measured in a moment left alone, or a skip that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
_ATTEMPTS = 4


def left_alone(attempt: Callable[[], T], measured: Callable[[T], bool], says_so: Callable[[T], bool]) -> T:
    """The first attempt that measured. Another one must say itself that it could not; if all do, nothing was tested."""
    for _ in range(_ATTEMPTS):
        seen = attempt()
        if measured(seen):
            return seen
        assert says_so(seen), seen
    pytest.skip(f"this machine was too busy for a measurement, {_ATTEMPTS} times in a row")
