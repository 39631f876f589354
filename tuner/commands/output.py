"""Where commands write: results on stdout, words on stderr. A reader that has gone is no fault."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tuner.errors import UsageError


def say(text: str) -> None:
    """Tell something on stderr; nobody reading it any more changes nothing."""
    with suppress(BrokenPipeError):
        for line in text.splitlines():
            if line:
                print(f"tuner: {line}", file=sys.stderr)


def show(write: Callable[[], None]) -> None:
    """Print results on stdout. A reader that has gone (`| head`) is no fault, and the exit code stays."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def spell_out(*streams: TextIO) -> None:
    """A letter the terminal's encoding lacks (LANG=C) is written as its code instead of ending the command."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(doc: Any) -> None:
    """One JSON document on stdout."""
    import json

    text = json.dumps(doc, indent=2, sort_keys=True, allow_nan=False)
    show(lambda: print(text))


def counting(what: str) -> Any:
    """Progress of a countable task on stderr."""
    from tuner.report.counting import Counting

    return Counting(sys.stderr, what)


def write_file(output: Path | None, text: str) -> None:
    """A document into a file, or on stdout without one.

    Raises:
        UsageError: the file cannot be written.
    """
    if output is None or str(output) == "-":
        show(lambda: print(text, end=""))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{output}: cannot be written: {exc.strerror}") from exc
    say(f"wrote {output}")
