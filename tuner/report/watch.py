"""`tuner status`: the view of a study from its database, once or again and again. Knows no cluster.

Another controller, on another machine, does the work; what is shown is as old as its last words.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TextIO

from tuner.report.live import LiveView, wants_view
from tuner.report.screen import screen, text_of
from tuner.report.view import View, seen
from tuner.report.words import duration
from tuner.study.replay import Replay, replay, replay_or_none
from tuner.study.storage import open_storage

EVERY_S = 5.0
_WIDE = 120
_TALL = 60
_ENDED = {
    "confirmed": "ended with a confirmed winner",
    "nothing_feasible": "ended: nothing tried meets the limits",
    "no_confirmed_winner": "ended without a confirmed winner",
    "budget": "ended by its budget, without a confirmed winner",
    "runtime_unusable": "stopped: the runtime was unusable",
    "interrupted": "interrupted",
}
_OVER = ("confirmed", "nothing_feasible", "no_confirmed_winner", "budget")
"""Nothing more is expected then."""


def view_of(replay: Replay, now_s: float) -> View:
    """The view of a study as the database has it; `now_s` is Unix time."""
    view = View(simulated=replay.simulated, live=replay.exit_reason is None)
    for at_s, event in replay.events:
        view = seen(view, event, at_s)
    if replay.exit_reason in _OVER and view.ledger is not None:
        view = replace(view, ledger=replace(view.ledger, expected=view.ledger.used))
    return replace(view, phase=_phase(replay, view, now_s))


def _phase(replay: Replay, view: View, now_s: float) -> str:
    if replay.exit_reason is not None:
        return _ENDED.get(replay.exit_reason, replay.exit_reason)
    doing = "confirming" if any(t.confirmation for t in view.running) else "searching"
    if replay.written_at is None:
        return f"{doing}, or killed from outside"
    return f"{doing}; heard of {duration(max(0.0, now_s - replay.written_at))} ago"


def watch(
    read: Callable[[], Replay | None],
    out: TextIO,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now_s: Callable[[], float] = time.time,
) -> None:
    """Show the study until its search ends, or until Ctrl-C. On a terminal one picture is redrawn; else lines.

    `read` gives None while the database does not answer.
    """
    with suppress(KeyboardInterrupt, BrokenPipeError):
        if wants_view(out):
            _redraw(read, out, sleep, now_s)
        else:
            _repeat(read, out, sleep, now_s)


def watch_study(storage_url: str, study: str | None, out: TextIO) -> None:
    """Show a study until its search ends.

    Raises:
        UsageError: no such database or study.
    """
    storage = open_storage(storage_url, must_exist=True)
    try:
        name = replay(storage, study).study
        watch(lambda: replay_or_none(storage, name), out)
    finally:
        storage.close()


def print_running(storage_url: str, study: str | None, out: TextIO) -> None:
    """What runs now, as lines, from a database that is opened for it."""
    storage = open_storage(storage_url, must_exist=True)
    try:
        now_s = time.time()
        _print(view_of(replay(storage, study), now_s), out, now_s)
    finally:
        storage.close()


def _redraw(
    read: Callable[[], Replay | None], out: TextIO, sleep: Callable[[float], None], now_s: Callable[[], float]
) -> None:
    with LiveView(out, simulated=False, now_s=now_s) as live:
        while (now := read()) is None or now.exit_reason is None:
            live.show(_unanswered(live.view) if now is None else view_of(now, now_s()))
            sleep(EVERY_S)


def _unanswered(view: View) -> View:
    return replace(view, phase="the database does not answer; trying again")


def _repeat(
    read: Callable[[], Replay | None], out: TextIO, sleep: Callable[[float], None], now_s: Callable[[], float]
) -> None:
    """Each picture below the former, only when something changed beside the clock."""
    former: View | None = None
    while True:
        now = read()
        if now is not None:
            view = view_of(now, now_s())
            if former is None or _timeless(view) != _timeless(former):
                _print(view, out, now_s())
            if now.exit_reason is not None:
                return
            former = view
        sleep(EVERY_S)


def _timeless(view: View) -> View:
    return replace(view, phase="", ledger_s=0.0)


def _print(view: View, out: TextIO, now_s: float) -> None:
    width = shutil.get_terminal_size((_WIDE, _TALL)).columns if out.isatty() else _WIDE
    ascii_only = not (out.encoding or "utf-8").lower().startswith("utf")
    lines = screen(view, width, _TALL, now_s, ascii_only=ascii_only)
    print("\n".join(text_of(line) for line in lines), end="\n\n", file=out, flush=True)
