"""The nearest known name, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if one is like it at all."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known names when none is near and they are few, or nothing."""
    names = [str(k) for k in known]
    near = nearest(name, names)
    if near:
        return f"; did you mean '{near}'?"
    return f"; known: {', '.join(sorted(names))}" if 0 < len(names) <= 12 else ""
