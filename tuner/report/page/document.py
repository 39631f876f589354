"""The whole page: head, sections in order, nothing that needs the network or a script."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from tuner import __version__
from tuner.report.facts.study_report import StudyReport
from tuner.report.page import sections
from tuner.report.page.style import style_sheet
from tuner.report.page.summary import goal, summary_section
from tuner.report.page.trial_details import trials_section

SIMULATED = "SIMULATED: figures of an engine model, nothing was measured"

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing may be fetched and no script may run, whatever a log line looks like."""

_SECTIONS: tuple[tuple[str, str, Callable[[StudyReport], str]], ...] = (
    ("summary", "Summary", summary_section),
    ("ranking", "Ranking", sections.ranking_section),
    ("hardware", "Hardware and limits", sections.hardware_section),
    ("charts", "Load and progress", sections.charts_section),
    ("reasons", "What mattered", sections.reasons_section),
    ("outcomes", "What was rejected", sections.outcomes_section),
    ("money", "Money", sections.money_section),
    ("trials", "Every trial", trials_section),
)


def page(report: StudyReport) -> str:
    """The HTML document."""
    summary = report.summary
    title = f"{summary.study}{' (simulated)' if summary.simulated else ''}: tuner report"
    links = "".join(f'<li><a href="#{key}">{escape(head)}</a></li>' for key, head, _ in _SECTIONS)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{escape(head)}</h2>{make(report)}</section>'
        for key, head, make in _SECTIONS
    )
    stamp = f'<p class="stamp" role="note" style="max-width:none;margin:0">{SIMULATED}</p>' if summary.simulated else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style_sheet()}</style></head><body>'
        f'<a class="skip" href="#summary">to the summary</a>{stamp}<header><h1>{escape(summary.study)}</h1>'
        f'{goal(report)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{body}</main><footer><p>{escape(_footer(report))}</p></footer></body></html>\n"
    )


def _footer(report: StudyReport) -> str:
    guard = float(report.summary.plan.get("guard") or 0.0)
    return (
        f"Made by tuner {__version__} from {report.summary.storage} alone. Cost = price per hour / (rate x tokens per "
        f"request x 3600 s) at {1 - guard:.0%} of the lower end of the measured capacity bracket."
    )
