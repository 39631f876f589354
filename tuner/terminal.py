"""What every command shares: its common options, and how it tells results, progress and errors.

Results go to stdout, everything else to stderr. Knows no command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer

Space = Annotated[str, typer.Option("--space", help="Space file; a local file first, then one that ships.")]
MaybeSpace = Annotated[str | None, typer.Option("--space", help="Space file the study was made from.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage", envvar="TUNER_STORAGE", help="Optuna database URL; default: <study>.db here."),
]
StudyName = Annotated[str | None, typer.Option("--study", help="Study name; default: the space's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

Namespace = Annotated[
    str | None, typer.Option("--namespace", help="Kubernetes: where a pool names none; default: the context's.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Kubernetes: kubeconfig context where a pool names none.")
]


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


def print_json(doc: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(doc, indent=2, sort_keys=True, allow_nan=False)
    show(lambda: print(text))
