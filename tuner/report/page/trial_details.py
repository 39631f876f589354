"""Every trial's details, folded: configuration, command, what the engine said it ran with, levels, log, place.

Commands are shown as differences from the best one's; logs share a budget, so that a hundred failures still fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.report.facts.spending import gpu_hours, usd
from tuner.report.facts.study_report import StudyReport
from tuner.report.page.command_line import differences, flag_lines
from tuner.report.page.markup import block, folded, pairs, paragraph, table
from tuner.report.table import beside
from tuner.report.words import OUTCOMES, duration, money, rate, seconds
from tuner.study.summary import Figures

LOGS_BYTES = 60_000
"""All log tails of a page together; what is cut is in the database and in the JSON report."""
LEAST_LOG_BYTES = 500


def trials_section(report: StudyReport) -> str:
    """All trials in order, then the confirmations."""
    summary = report.summary
    tails = [t for f in [*summary.trials_in_order, *summary.confirmations_in_order] if (t := _tail(f))]
    most = max(LEAST_LOG_BYTES, LOGS_BYTES // max(1, len(tails)))
    parts = [_trial(f, summary.best, most, f"trial-{f.trial}", "Trial") for f in summary.trials_in_order]
    runs = [
        _trial(f, summary.best, most, f"confirmation-{f.trial}", "Confirmation") for f in summary.confirmations_in_order
    ]
    confirmations = f'<h3>Confirmations</h3><div class="trials">{"".join(runs)}</div>' if runs else ""
    return f'<div class="trials">{"".join(parts)}</div>{confirmations}' if parts else paragraph("No trial has run yet.")


def _trial(f: Figures, best: Figures | None, most: int, key: str, what: str) -> str:
    body = pairs(_facts(f, best)) + _command(f, best)
    levels = f.result.get("levels") or []
    if levels:
        body += _levels(levels)
    if tail := _tail(f):
        shown = tail if len(tail) <= most else "..." + tail[-most:]
        body += "<h4>End of the engine's log</h4>" + block(shown)
    return folded(f"{what} {f.trial}: {_headline(f)} - {beside(f, best)}", body, key=key)


def _headline(f: Figures) -> str:
    if f.state == "measured":
        return f"{money(f.usd_per_million_output_tokens)}/M, TTFT p95 {seconds(f.ttft_p95_s)}"
    if f.state == "pruned":
        return f"dropped early, at least {money(f.bound_usd_per_million_output_tokens)}/M"
    kind = (f.result.get("failure") or {}).get("kind")
    word = OUTCOMES.get(f.state, f.state)
    return f"{word} ({kind})" if kind else word


def _reports(f: Figures, best: Figures | None) -> tuple[str, str]:
    """What the engine said it runs with; beside the best one only where it differs."""
    effective = f.result.get("effective") or {}
    theirs = (best.result.get("effective") or {}) if best is not None and best.trial_id != f.trial_id else {}
    if not theirs or not effective:
        return "engine reports", _inline(effective)
    own = {k: v for k, v in effective.items() if theirs.get(k) != v}
    return "engine reports", f"{_inline(own)}; else as the best one" if own else "as the best one"


def _facts(f: Figures, best: Figures | None) -> dict[str, str]:
    versions = f.result.get("versions") or {}
    belief = f.proposal.get("predicted_usd_per_million")
    facts = {
        "configuration": f.label,
        "why it was tried": f.origin,
        "believed beforehand": f"{money(belief)}/M" if belief else "",
        "capacity": rate(f.capacity_req_per_s) if f.capacity_req_per_s else "",
        "capacity at most": rate(f.result.get("bound_req_per_s")) if f.result.get("bound_req_per_s") else "",
        "failure": f.failure or "",
        **dict([_reports(f, best)]),
        "start-up": duration(f.start_up_s) if f.start_up_s is not None else "",
        "took": f"{gpu_hours(f):.2f} GPU-hours, {money(usd(f))}" if f.result else "",
        "node": str(f.result.get("node") or ""),
        "image": f.image,
        "image digest": f.image_digest,
        "versions": _inline(versions),
        "load client": _inline(f.result.get("client") or {}),
        "fingerprint": f.fingerprint,
    }
    return {name: value for name, value in facts.items() if value}


def _inline(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={_short(v)}" for k, v in values.items() if v not in (None, "", {}, []))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(f: Figures, best: Figures | None) -> str:
    args = f.args or f.argv
    if not args:
        return ""
    if best is None or best.trial_id == f.trial_id:
        return block(" \\\n  ".join([" ".join(f.program), *flag_lines(args)]).strip())
    here, there = differences(args, best.args or best.argv)
    if not here and not there:
        return paragraph("Launched like the best one.")
    return paragraph("Launched like the best one but for:") + block(
        "\n".join([*(f"+ {line}" for line in here), *(f"- {line}" for line in there)])
    )


def _levels(levels: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{level['rate_req_per_s']:.3g} req/s"
            if level.get("rate_req_per_s")
            else f"{level.get('concurrency')} at once",
            duration(float(level.get("duration_s") or 0.0)),
            str(level.get("requests", "")),
            str(level.get("misses", "")),
            str(level.get("errors", "")),
            _figure(level.get("ttft_p95_s")),
            _figure(level.get("tpot_p95_ms")),
            str(level.get("invalid_reason") or level.get("verdict", "")),
        )
        for level in levels
    ]
    columns = ("load", "for", "requests", "misses", "errors", "TTFT p95 s", "TPOT p95 ms", "verdict")
    return table("Load levels", columns, rows, numbers=(2, 3, 4, 5, 6))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _tail(f: Figures) -> str:
    return str((f.result.get("failure") or {}).get("log_tail") or "").strip()
