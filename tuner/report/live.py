"""The view on a terminal: rich redraws it twice a second and leaves the terminal as it was. Decides nothing.

It uses the terminal's second screen, so that a changed width leaves no torn lines behind; the summary printed
afterwards stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from tuner.report.screen import Line, screen
from tuner.report.view import View, seen
from tuner.study.events import Event

PER_SECOND = 2.0
_STYLES = {"strong": "bold", "faint": "dim", "good": "green", "doubt": "yellow", "bad": "red", "": ""}


def wants_view(stream: TextIO, env: Mapping[str, str] = os.environ) -> bool:
    """Whether the stream is a terminal that can be redrawn, and nobody asked for plain output."""
    return stream.isatty() and env.get("TERM", "") not in ("", "dumb") and not env.get("NO_COLOR")


@dataclass(slots=True)
class Drawing:
    """What rich asks for the picture; the size is the terminal's at that moment."""

    view: View
    now_s: Callable[[], float]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterable[Text]:
        lines = screen(self.view, options.max_width, options.size.height, self.now_s(), ascii_only=options.ascii_only)
        return [painted(lines)]


def painted(lines: Iterable[Line]) -> Text:
    """Lines with their styles as colours. Text from space files and engines is never read as markup."""
    text = Text(no_wrap=True, overflow="crop", end="")
    for i, line in enumerate(lines):
        text.append("\n" if i else "")
        for piece, style in line:
            text.append(_printable(piece), _STYLES[style])
    return text


def _printable(piece: str) -> str:
    """A log line in a failure's message must not move the cursor."""
    return piece if piece.isprintable() else "".join(c if c.isprintable() else " " for c in piece)


@dataclass
class LiveView:
    """A search as it runs, on one terminal. Called with every event; used as a context."""

    stream: TextIO
    simulated: bool
    now_s: Callable[[], float] = time.monotonic
    _drawing: Drawing = field(init=False)
    _live: Live = field(init=False)

    def __post_init__(self) -> None:
        self._drawing = Drawing(View(simulated=self.simulated), self.now_s)
        console = Console(file=self.stream, highlight=False, markup=False, emoji=False)
        self._live = Live(self._drawing, console=console, screen=True, refresh_per_second=PER_SECOND)

    def __call__(self, event: Event) -> None:
        self._drawing.view = seen(self._drawing.view, event, self.now_s())

    @property
    def view(self) -> View:
        return self._drawing.view

    def show(self, view: View) -> None:
        """Draw another view, now and from now on."""
        self._drawing.view = view
        self._live.refresh()

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()
