"""A `View` as lines of text for a width and a height. Pure: no terminal, no colour codes, no clock of its own.

A line is a tuple of (text, style) pieces; styles are names that whoever prints them may map to colours, or leave out.
Nothing is said by colour alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tuner.report.table import short
from tuner.report.view import Running, View
from tuner.report.words import duration, money, rate, seconds
from tuner.space.config import ServingConfig
from tuner.study.events import Best, Ledger, TrialEnded

Piece = tuple[str, str]
Line = tuple[Piece, ...]

INDENT = 11
"""Columns of the names at the left: `best`, `trial 123`, `confirm 12`."""
_NARROW = 40
_LONGEST_BAR = 60
_WORDS = {
    "measured": ("measured", ""),
    "infeasible": ("missed", "doubt"),
    "pruned": ("dropped", ""),
    "failed": ("failed", "bad"),
    "invalid": ("invalid", "doubt"),
}


def screen(view: View, width: int, height: int, now_s: float, *, ascii_only: bool = False) -> list[Line]:
    """At most `height` lines of at most `width` columns."""
    width = max(_NARROW, width)
    top = [_title(view, width), (), *_budget(view, width, now_s, ascii_only=ascii_only), (), *_best(view, width), ()]
    notices = [line for text in view.notices[-2:] for line in _wrapped("note", text, width, "doubt", most=2)]
    left = height - len(top) - len(notices)
    running = _running(view, width, left - 3, now_s)
    left -= len(running) + 1
    lines = [*top, *running, (), *notices, *_verdicts(view, width, left)]
    shown = [_clipped(line, width) for line in lines[:height]]
    return [_in_ascii(line) for line in shown] if ascii_only else shown


def text_of(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _ in line).rstrip()


# --- title and budget


def _title(view: View, width: int) -> Line:
    name = view.study or "tuner"
    mark = "  SIMULATED, nothing is measured" if view.simulated else ""
    room = max(0, width - len(name) - len(mark) - 2)
    phase = view.phase if len(view.phase) <= room else view.phase[: max(0, room - 1)] + "…" * (room > 0)
    return ((name, "strong"), (mark, "doubt"), (phase.rjust(room + 2), ""))


def _budget(view: View, width: int, now_s: float, *, ascii_only: bool) -> Iterator[Line]:
    """Used, expected at the end and allowed, of everything a budget limits."""
    yield ((f"{'':{INDENT}}{'used':>9}{'expected':>11}{'budget':>9}", "faint"),)
    for name, used, expected, limit in _amounts(view, now_s):
        cells = f"{name:{INDENT}}{_amount(name, used):>9}{_amount(name, expected):>11}{_amount(name, limit):>9}"
        room = min(_LONGEST_BAR, width - len(cells) - 2)
        bar = _bar(used, expected, limit, room, ascii_only=ascii_only) if room >= 8 else ()
        yield ((cells + "  ", ""), *bar)


def _amounts(view: View, now_s: float) -> list[tuple[str, float, float | None, float | None]]:
    book = view.ledger
    if book is None:
        return []
    used, limit = book.used, book.budget
    running_s = max(0.0, now_s - view.ledger_s) if view.live and not view.simulated else 0.0
    wall_s = used.wall_s + running_s
    ahead: tuple[float | None, ...] = (None,) * 4
    if book.expected is not None:
        end = book.expected
        ahead = (end.trials, max(wall_s, end.wall_s) / 3600, end.gpu_hours, end.usd)
    hours = None if limit.wall_s is None else limit.wall_s / 3600
    return [
        ("trials", used.trials, ahead[0], limit.trials),
        ("hours", wall_s / 3600, ahead[1], hours),
        ("GPU-hours", used.gpu_hours, ahead[2], limit.gpu_hours),
        ("USD", used.usd, ahead[3], limit.usd),
    ]


def _amount(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "trials":
        return f"{value:.0f}"
    return f"{value:,.2f}" if name == "USD" and value < 1000 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _bar(used: float, expected: float | None, limit: float | None, room: int, *, ascii_only: bool) -> Line:
    """Filled: used; thin: still expected; blank: what the budget would allow beyond. With the share used."""
    full, thin, none = ("#", "-", ".") if ascii_only else ("━", "─", " ")
    whole = limit or expected or 0.0
    if whole <= 0:
        return ()
    cells = room - 6
    done = min(cells, round(cells * used / whole))
    ahead = max(0, min(cells, round(cells * (expected or 0.0) / whole)) - done)
    return (
        (full * done, "good"),
        (thin * ahead, "faint"),
        (none * (cells - done - ahead), "faint"),
        (f"{used / whole:>5.0%}", "faint"),
    )


# --- the best so far


def _best(view: View, width: int) -> list[Line]:
    best = view.ledger.best if view.ledger else None
    if best is None or view.ledger is None:
        return [(("best".ljust(INDENT), "strong"), ("nothing measured yet", "faint"))]
    standing = _STANDING.get(best.standing or "", "not confirmed yet")
    costs = f"{money(best.usd_per_million_output_tokens)} per million output tokens"
    return [
        (
            ("best".ljust(INDENT), "strong"),
            (costs, "good"),
            (f"  trial {best.number}, {standing}", ""),
        ),
        ((" " * INDENT, ""), (_against_limit(best, view.ledger), "")),
        *_wrapped("", best.config.describe(), width, "faint", most=3),
    ]


_STANDING = {"holds": "confirmed", "missed": "refuted"}


def _against_limit(best: Best, book: Ledger) -> str:
    limit = book.limits.get("ttft_p95_s")
    allowed = "" if limit is None else f" of {limit:g} s allowed"
    return f"TTFT p95 {seconds(best.ttft_p95_s)}{allowed}, capacity {rate(best.capacity_req_per_s)}"


# --- what runs


def _running(view: View, width: int, room: int, now_s: float) -> list[Line]:
    """Two lines for each trial, one where there are many; beside the stage where the terminal is wide."""
    head = f"{len(view.running)} running" if view.running else "nothing is running"
    lines: list[Line] = [((head, "strong"),)]
    best = view.ledger.best.config if view.ledger and view.ledger.best else None
    wide = width >= 140
    both = wide or 2 * len(view.running) <= room
    for i, trial in enumerate(view.running):
        each = 1 if wide or not both else 2
        if len(lines) + each > max(2, room) and i < len(view.running):
            return [*lines, ((f"{'':{INDENT}}and {len(view.running) - i} more", "faint"),)]
        lines += _trial(view, trial, best, width, now_s, wide=wide, both=both)
    return lines


def _trial(
    view: View, trial: Running, best: ServingConfig | None, width: int, now_s: float, *, wide: bool, both: bool
) -> list[Line]:
    age = f"{duration(max(0.0, now_s - trial.since_s)):>7}  " if not view.simulated else ""
    again = f"attempt {trial.attempt}, " if trial.attempt > 1 and not trial.confirmation else ""
    config = short(trial.config, best)
    left = f"{_name(trial.number, confirmation=trial.confirmation):{INDENT}}{age}"
    if wide:
        stage = _cut(again + trial.stage, 58)
        return [((left, ""), (f"{stage:<60}", ""), (_cut(config, width - len(left) - 60), "faint"))]
    stage_line: Line = ((left, ""), (_cut(again + trial.stage, width - len(left)), ""))
    return [stage_line, ((" " * len(left), ""), (_cut(config, width - len(left)), "faint"))] if both else [stage_line]


def _name(number: int, *, confirmation: bool) -> str:
    return f"confirm {number}" if confirmation else f"trial {number}"


# --- what ended


def _verdicts(view: View, width: int, room: int) -> list[Line]:
    if room < 2 or not view.verdicts:
        return []
    lines: list[Line] = [(("last verdicts", "strong"),)]
    for event in view.verdicts:
        block = _verdict(event, width)
        if len(lines) + len(block) > room:
            break
        lines += block
    return lines


def _verdict(event: TrialEnded, width: int) -> list[Line]:
    word, style = _WORDS.get(event.state, (event.state, "bad"))
    if event.confirmation and event.state in ("measured", "infeasible"):
        word, style = ("holds", "good") if event.state == "measured" else ("misses", "bad")
    if event.best:
        word, style = "new best", "good"
    name = _name(event.number, confirmation=event.confirmation)
    indent = INDENT + 10
    texts = textwrap.wrap(
        _detail(event), max(10, width - indent), max_lines=2, placeholder=" …", break_on_hyphens=False
    ) or [""]
    first: Line = ((f"{name:{INDENT}}", ""), (f"{word:10}", style), (texts[0], ""))
    return [first, *(((" " * indent + text, ""),) for text in texts[1:])]


def _detail(event: TrialEnded) -> str:
    if event.state == "measured" and not event.confirmation:
        cost = money(event.usd_per_million_output_tokens)
        return f"{cost} per million, {rate(event.capacity_req_per_s)}, TTFT p95 {seconds(event.ttft_p95_s)}"
    if event.state in ("measured", "infeasible"):
        where = "" if event.confirmation else "best "
        return f"{where}TTFT p95 {seconds(event.ttft_p95_s)}{f'; {event.failure}' if event.failure else ''}"
    return event.failure or ("cannot beat the best so far" if event.state == "pruned" else "no reason given")


# --- text


def _clipped(line: Line, width: int) -> Line:
    """The line's first columns: the last resort on a terminal narrower than what cannot be wrapped."""
    pieces: list[Piece] = []
    room = width
    for text, style in line:
        pieces.append((text[:room], style))
        room -= len(pieces[-1][0])
    return tuple(pieces)


def _in_ascii(line: Line) -> Line:
    """The same for a terminal that knows no other letters; as wide as before."""
    return tuple((text.replace("…", "~").encode("ascii", "replace").decode(), style) for text, style in line)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _wrapped(name: str, text: str, width: int, style: str, *, most: int) -> list[Line]:
    """A name at the left and the text beside it, over at most so many lines."""
    texts = textwrap.wrap(text, max(10, width - INDENT), max_lines=most, placeholder=" …", break_on_hyphens=False) or [
        ""
    ]
    return [((f"{name if i == 0 else '':{INDENT}}", ""), (part, style)) for i, part in enumerate(texts)]
