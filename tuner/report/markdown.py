"""The report as Markdown: the same facts without drawings, for tickets and wikis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tuner.report.facts.study_report import StudyReport
from tuner.report.page.command_line import launch_command
from tuner.report.page.document import SIMULATED
from tuner.report.sentences import (
    baseline_text,
    certainty_text,
    confirmation_text,
    effects_text,
    ended_text,
    pays_back_text,
    predictions_text,
    random_text,
    spent_text,
    verdict_text,
)
from tuner.report.words import money, rate, seconds

TOP = 10


def to_markdown(report: StudyReport) -> str:
    """The document."""
    parts = [f"# {_text(report.summary.study)}"]
    if report.summary.simulated:
        parts.append(f"**{SIMULATED}**")
    parts += [*_summary(report), *_ranking(report), *_effects(report), *_outcomes(report)]
    parts += ["## Progress", _text(random_text(report)), "## Predicted and measured", _text(predictions_text(report))]
    parts += ["## Money", _text(spent_text(report)), _text(pays_back_text(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(report: StudyReport) -> list[str]:
    best = report.summary.best
    if best is None:
        return ["## Summary", _text(report.miss or ""), _text(ended_text(report))]
    certain = report.certainty
    interval = f" (90% interval {money(certain.interval.low)} to {money(certain.interval.high)})" if certain else ""
    return [
        "## Summary",
        f"**{money(best.usd_per_million_output_tokens)} per million output tokens**{interval}",
        f"Trial {best.trial}: {_text(best.label)}",
        f"**{_text(verdict_text(report))}** {_text(certainty_text(report))}",
        _text(confirmation_text(report)),
        _text(baseline_text(report)),
        _text(ended_text(report)),
        f"```sh\n{launch_command(best)}\n```",
    ]


def _ranking(report: StudyReport) -> list[str]:
    rows = [
        (
            str(i),
            str(f.trial),
            money(f.usd_per_million_output_tokens),
            rate(f.capacity_req_per_s),
            seconds(f.ttft_p95_s),
            f.standing or "",
            f.label,
        )
        for i, f in enumerate(report.ranked[:TOP], start=1)
    ]
    columns = ("rank", "trial", "USD/M tokens", "capacity", "TTFT p95", "confirmed", "configuration")
    return ["## Ranking", _table(columns, rows)] if rows else []


def _effects(report: StudyReport) -> list[str]:
    if report.effects is None:
        return []
    rows = [
        (e.parameter, level.value, f"{level.factor:.3g}", f"{level.low:.3g} to {level.high:.3g}", str(level.measured))
        for e in report.effects.effects
        for level in e.levels
    ]
    columns = ("parameter", "value", "cost factor", "90% interval", "measured")
    return ["## What each parameter changed", _table(columns, rows), _text(effects_text(report))]


def _outcomes(report: StudyReport) -> list[str]:
    out = report.outcomes
    rows = [
        *(("rejected", r.rule, f"{r.points:,} points", r.why) for r in out.rejected),
        *((k.state, k.kind, f"{len(k.trials)} trials", k.message) for k in out.failures),
        *(("over the limit", f"trial {f.trial}", seconds(f.ttft_p95_s), f.label) for f in out.missed),
        *(
            ("dropped", f"trial {f.trial}", f">= {money(f.bound_usd_per_million_output_tokens)}/M", f.label)
            for f in out.dropped
        ),
    ]
    return ["## Rejected, failed, dropped", _table(("what", "which", "how much", "why"), rows)] if rows else []


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row([_text(cell) for cell in row]) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(content: str) -> str:
    """Text that stays text: what came from outside makes no markup and no new line."""
    escaped = content.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "|*_`[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.split())
