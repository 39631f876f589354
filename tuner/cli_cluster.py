"""Commands about trials on a cluster: `logs`, `trial show`, `gc`; and how a search is stopped.

Each parses, calls one function and prints. Heavy imports live inside the commands.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Annotated

import typer

from tuner.terminal import say

Namespace = Annotated[
    str | None, typer.Option("--namespace", help="Kubernetes: where a pool names none; default: the context's.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Kubernetes: kubeconfig context where a pool names none.")
]


def stopping(*, drain: bool) -> Callable[[], bool]:
    """SIGTERM and Ctrl-C end a search cleanly; with `drain` the first one is only noted. Whether it was."""
    asked = False

    def note(number: int, frame: object) -> None:
        nonlocal asked
        if asked or not drain:
            signal.default_int_handler(number, frame)  # type: ignore[arg-type] # a frame, as signals give it
        asked = True
        say("waiting for the running trials; once more to leave them running")

    for number in (signal.SIGTERM, signal.SIGINT) if drain else (signal.SIGTERM,):
        signal.signal(number, note)
    return lambda: asked


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
