"""`name=number` and lists of trial numbers as they stand on a command line. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.errors import UsageError


def assignments(option: str, texts: Sequence[str]) -> dict[str, float]:
    """`["a=1", "b=2.5"]` as a mapping.

    Raises:
        UsageError: something that is not `name=positive number`, or a name twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        number = _number(value)
        if not name or number is None or number <= 0:
            raise UsageError(f"{option} {text}: is to be NAME=NUMBER with a number above 0")
        if name in found:
            raise UsageError(f"{option} {text}: {name} is given twice")
        found[name] = number
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def trial_numbers(text: str | None) -> tuple[int, ...]:
    """`4,17` as numbers.

    Raises:
        UsageError: something else than numbers and commas.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise UsageError(f"--only {text}: is to be trial numbers with commas between them, as in 4,17")
    return tuple(int(part) for part in parts)
