"""The command line in this process: arguments in, exit code and both outputs back."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

from tuner.cli import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def tuner(*args):
    """Run `tuner ARGS` and return what it said; only what the entry point itself lets out escapes."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tuner", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as exc:
                code = exc.code or 0
    finally:
        sys.argv = argv
    return Said(code, out.getvalue(), err.getvalue())
