"""The first screen: what is best, how sure, what it cost to find out, how far the others are, on which hardware."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tuner.report.charts.canvas import Chart
from tuner.report.charts.trade_off import Kind, Point, trade_off
from tuner.report.facts.study_report import StudyReport
from tuner.report.page.command_line import launch_command
from tuner.report.page.markup import block, figure, pairs, paragraph
from tuner.report.sentences import (
    baseline_text,
    certainty_text,
    confirmation_text,
    ended_text,
    goal_text,
    hardware_text,
    refuted_text,
    verdict_text,
)
from tuner.report.words import OUTCOMES, duration, label, layout_text, money, rate, seconds, several
from tuner.space.config import ServingConfig
from tuner.study.summary import Figures

TERMS = (
    "TTFT p95: the time within which 95 of 100 requests get their first token, counted from when they were due. "
    "Replica: one copy of the engine's launch command."
)


def goal(report: StudyReport) -> str:
    """What was asked."""
    return paragraph(goal_text(report), "m0")


def summary_section(report: StudyReport) -> str:
    """The answer at a glance."""
    best = report.summary.best
    chart = f"<div>{figure(trade_off_chart(report))}{_undrawn(report)}</div>"
    if best is None:
        words = [
            paragraph(report.summary.common_failure or report.miss or ""),
            paragraph(ended_text(report)),
        ]
        shown = _cards([_trials_card(report), _spent_card(report)])
        return paragraph(verdict_text(report), "verdict bad") + shown + _beside("".join(words), chart)
    texts = [confirmation_text, certainty_text, refuted_text, baseline_text, hardware_text, ended_text]
    sure = report.certainty is not None and report.certainty.clear
    words = [paragraph(text) for make in texts if (text := make(report))] + [paragraph(TERMS, "m0")]
    verdict = paragraph(verdict_text(report), f"verdict {'good' if sure else 'doubt' if best.confirmed else 'bad'}")
    cards = [_cost_card(report, best), _baseline_card(report, best), _ttft_card(report, best)]
    cards += [_rate_card(report, best), _spent_card(report)]
    return "".join([
        verdict,
        _cards([card for card in cards if card]),
        _beside("".join(words), chart),
        f"<h3>Trial {best.trial}: configuration and launch command</h3>",
        f'<div class="grid wide"><div>{pairs(_configuration(best))}</div>{block(launch_command(best))}</div>',
    ])  # fmt: skip


def _beside(left: str, right: str) -> str:
    return f'<div class="grid"><div>{left}</div>{right}</div>'


def _configuration(best: Figures) -> dict[str, str]:
    config = ServingConfig.from_json(best.config)
    values = {"pool": f"{best.pool}, {several(best.gpus, 'GPU')} a replica", "layout": layout_text(config.layout)}
    values |= {name: label(value) for name, value in config.values}
    if config.only:
        values["everything else"] = "the engine's own defaults"
    digest = f", digest {best.image_digest}" if best.image_digest else ""
    return {**values, "image": f"{best.image}{digest}" if best.image else "", "engine": f"sglang {best.engine_version}"}


# --- cards


Card = tuple[str, str, str]


def _cards(cards: Sequence[Card]) -> str:
    inner = "".join(
        f'<div class="card"><span>{escape(head)}</span><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for head, big, small in cards
    )
    return f'<div class="cards">{inner}</div>'


def _cost_card(report: StudyReport, best: Figures) -> Card:
    certain = report.certainty
    small = f"90% interval {money(certain.interval.low)} to {money(certain.interval.high)}" if certain else ""
    return "per million output tokens", money(best.usd_per_million_output_tokens), small


def _baseline_card(report: StudyReport, best: Figures) -> Card | None:
    """What it saves against what would have been run otherwise."""
    for name in ("baseline", "engine-default"):
        seed = report.summary.seeds.get(name)
        ours, theirs = best.usd_per_million_output_tokens, seed.usd_per_million_output_tokens if seed else None
        if seed is not None and ours and theirs and seed.fingerprint != best.fingerprint:
            more = "less" if ours <= theirs else "more"
            return f"against the {name}", f"{abs(1 - ours / theirs):.0%} {more}", f"{name} costs {money(theirs)}"
    return None


def _ttft_card(report: StudyReport, best: Figures) -> Card:
    limit = report.limits.get("ttft_p95_s")
    confirmed = best.confirmed_ttft_p95_s
    source = "worst confirmation run" if confirmed is not None else "at its capacity"
    small = f"{source}; limit {limit:g} s" if limit is not None else source
    return "TTFT p95", seconds(confirmed if confirmed is not None else best.ttft_p95_s), small


def _rate_card(report: StudyReport, best: Figures) -> Card:
    guard = float(report.summary.plan.get("guard") or 0.0)
    guarded = best.confirmed_rate_req_per_s or (1 - guard) * (best.capacity_req_per_s or 0.0)
    per_hour = f"{several(best.gpus, 'GPU')}, {money(best.usd_per_hour_now)} an hour"
    return "run each replica at", rate(guarded), f"capacity {rate(best.capacity_req_per_s)}; {per_hour}"


def _spent_card(report: StudyReport) -> Card:
    spent = report.spending
    return "spent to find out", money(spent.usd), f"{spent.gpu_hours:.1f} GPU-hours, {duration(spent.wall_s)}"


def _trials_card(report: StudyReport) -> Card:
    counts = ", ".join(f"{n} {OUTCOMES.get(state, state)}" for state, n in report.summary.trials.items() if n)
    return "trials", str(sum(report.summary.trials.values())), counts


def _undrawn(report: StudyReport) -> str:
    """Trials that have no place in the drawing are said, not lost."""
    count = sum(f.state == "pruned" and f.ttft_p95_s is None for f in report.summary.trials_in_order)
    if not count:
        return ""
    return paragraph(
        f"Not drawn: {several(count, 'trial')} dropped before a TTFT p95 was known; what each costs at least is below, "
        "in What was rejected.",
        "m0",
    )


def trade_off_chart(report: StudyReport) -> Chart:
    """Cost against TTFT p95."""
    summary = report.summary
    names = {f.trial: name for name, f in summary.seeds.items()}
    kinds: dict[str, Kind] = {"measured": "measured", "pruned": "dropped", "infeasible": "missed"}
    points = []
    for f in summary.trials_in_order:
        cost = f.usd_per_million_output_tokens or f.bound_usd_per_million_output_tokens
        if f.state in kinds and cost and f.ttft_p95_s is not None:
            winner = summary.best is not None and f.trial == summary.best.trial
            name = f"best: trial {f.trial}" if winner else names.get(f.trial, "")
            points.append(Point(f.trial, kinds[f.state], f.ttft_p95_s, cost, name, winner))
    return trade_off(points, report.limits.get("ttft_p95_s"), simulated=summary.simulated)
