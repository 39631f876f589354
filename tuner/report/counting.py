"""Progress of a countable task on one line, shown only once it has lasted two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

SHOW_AFTER_S = 2.0
EVERY_S = 1.0


class Counting:
    """Called with (done, total); rewrites one line on a terminal, prints now and then elsewhere."""

    def __init__(self, stream: TextIO, what: str, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._what = what
        self._now_s = now_s
        self._start_s = now_s()
        self._shown_s: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = self._now_s()
        last = done >= total
        if now - self._start_s < SHOW_AFTER_S or (not last and self._shown_s and now - self._shown_s < EVERY_S):
            return
        if last and self._shown_s is None:
            return
        self._shown_s = now
        terminal = self._stream.isatty()
        start, end = ("\r", "\n" if last else "") if terminal else ("", "\n")
        with suppress(BrokenPipeError):  # nobody reads it any more
            print(f"{start}{self._what}: {done:,} of {total:,}", end=end, file=self._stream, flush=True)
