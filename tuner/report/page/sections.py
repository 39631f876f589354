"""The report's sections: each a function from the gathered facts to HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tuner.report.charts.agreement import agreement
from tuner.report.charts.bars import Amount, bars
from tuner.report.charts.canvas import Chart
from tuner.report.charts.course import course
from tuner.report.charts.forest import forest
from tuner.report.charts.load_curve import Curve, Load, Quantity, load_curve
from tuner.report.charts.trade_off import Kind, Point, trade_off
from tuner.report.facts.spending import Share
from tuner.report.facts.study_report import StudyReport
from tuner.report.page.command_line import launch_command
from tuner.report.page.markup import block, figure, paragraph, table
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
from tuner.report.table import short
from tuner.report.words import duration, money, rate, seconds, several
from tuner.space.config import ServingConfig
from tuner.study.summary import Figures

TOP = 10
_OUTCOME = {
    "measured": "measured",
    "pruned": "dropped early",
    "infeasible": "over the limit",
    "failed": "failed",
    "invalid": "invalid",
    "confirmation": "confirmations",
}


def summary_section(report: StudyReport) -> str:
    """The answer at a glance: what is best, how sure, what it cost to find out."""
    best = report.summary.best
    if best is None:
        return "".join([
            paragraph("No configuration can be recommended.", "bad"),
            paragraph(report.miss or ""),
            paragraph(ended_text(report)),
            _cards([_spent_card(report), _trials_card(report)]),
        ])  # fmt: skip
    certain = report.certainty
    texts = [paragraph(verdict_text(report), "good" if certain and certain.clear else "bad")]
    texts.append(paragraph(certainty_text(report)))
    texts += [paragraph(t) for t in (confirmation_text(report), baseline_text(report), ended_text(report)) if t]
    return "".join([
        _cards([_cost_card(report, best), _ttft_card(report, best), _rate_card(report, best), _spent_card(report)]),
        paragraph(f"Trial {best.trial}: {best.label}"),
        *texts,
        "<h3>Launch command</h3>",
        block(launch_command(best)),
        _image(best),
    ])  # fmt: skip


def _image(best: Figures) -> str:
    if not best.image:
        return ""
    digest = f", digest {best.image_digest}" if best.image_digest else ""
    return paragraph(f"Image {best.image}{digest}, engine {best.engine_version}.", "m0")


def _cards(cards: Sequence[tuple[str, str, str]]) -> str:
    inner = "".join(
        f'<div class="card"><span>{escape(head)}</span><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for head, big, small in cards
    )
    return f'<div class="cards">{inner}</div>'


def _cost_card(report: StudyReport, best: Figures) -> tuple[str, str, str]:
    certain = report.certainty
    small = f"90 % interval {money(certain.interval.low)} to {money(certain.interval.high)}" if certain else ""
    return "per million output tokens", money(best.usd_per_million_output_tokens), small


def _ttft_card(report: StudyReport, best: Figures) -> tuple[str, str, str]:
    limit = report.limits.get("ttft_p95_s")
    confirmed = best.confirmed_ttft_p95_s
    source = "worst confirmation run" if confirmed is not None else "at its capacity"
    small = f"{source}; limit {limit:g} s" if limit is not None else source
    return "TTFT p95", seconds(confirmed if confirmed is not None else best.ttft_p95_s), small


def _rate_card(report: StudyReport, best: Figures) -> tuple[str, str, str]:
    guard = float(report.summary.plan.get("guard") or 0.0)
    guarded = best.confirmed_rate_req_per_s or (1 - guard) * (best.capacity_req_per_s or 0.0)
    certain = report.certainty
    high = certain.capacity_high_req_per_s if certain else None
    capacity = rate(best.capacity_req_per_s) + (f" to {high:.3g}" if high else "")
    return "to run it at, per replica", rate(guarded), f"capacity {capacity}; {several(best.gpus, 'GPU')}"


def _spent_card(report: StudyReport) -> tuple[str, str, str]:
    spent = report.spending
    return "spent to find out", money(spent.usd), f"{spent.gpu_hours:.1f} GPU-hours, {duration(spent.wall_s)}"


def _trials_card(report: StudyReport) -> tuple[str, str, str]:
    counts = ", ".join(f"{n} {_OUTCOME.get(state, state)}" for state, n in report.summary.trials.items() if n)
    return "trials", str(sum(report.summary.trials.values())), counts


def ranking_section(report: StudyReport) -> str:
    """The measured configurations, best first, and the seeds."""
    if not report.ranked:
        return paragraph("Nothing was measured within the limits.")
    names = {f.fingerprint: name for name, f in report.summary.seeds.items()}
    shown = [*report.ranked[:TOP], *(f for f in report.ranked[TOP:] if f.fingerprint in names)]
    best = shown[0].usd_per_million_output_tokens or 1.0
    rows = [
        (
            str(report.ranked.index(f) + 1),
            str(f.trial),
            money(f.usd_per_million_output_tokens),
            f"{(f.usd_per_million_output_tokens or 0.0) / best - 1:+.1%}" if f is not shown[0] else "",
            rate(f.capacity_req_per_s),
            seconds(f.ttft_p95_s),
            {"holds": "yes", "missed": "refuted", None: ""}.get(f.standing, str(f.standing)),
            _difference(f, shown[0], names.get(f.fingerprint)),
        )
        for f in shown
    ]
    columns = (
        "rank",
        "trial",
        "USD/M tokens",
        "dearer by",
        "capacity",
        "TTFT p95",
        "confirmed",
        "layout and bundles; others: where they differ",
    )
    caption = "Measured configurations: the best, then the cheapest first"
    return table(caption, columns, rows, numbers=tuple(range(6)))


def _difference(f: Figures, best: Figures, name: str | None) -> str:
    """A row's configuration beside the best one's, as the terminal's table has it."""
    config, reference = (ServingConfig.from_json(x.config) if x.config else None for x in (f, best))
    text = short(config, reference)
    return f"{name}: {text}" if name else text


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


def load_charts(report: StudyReport) -> list[Chart]:
    """TTFT p95 and throughput over the rate, of the best few."""
    ttft, tokens = [], []
    for i, loads in enumerate(report.loads):
        name = f"{'best: ' if i == 0 else ''}trial {loads.trial}"
        ttft.append(
            Curve(
                name,
                tuple(
                    Load(level.rate_req_per_s, level.ttft_p95_s, level.verdict, level.source)
                    for level in loads.levels
                    if level.ttft_p95_s is not None
                ),
            )
        )
        tokens.append(
            Curve(
                name,
                tuple(
                    Load(level.rate_req_per_s, level.output_tokens_per_s, level.verdict, level.source)
                    for level in loads.levels
                ),
            )
        )
    limit = report.limits.get("ttft_p95_s")
    simulated = report.summary.simulated
    return [
        load_curve(
            Quantity("load-ttft", "TTFT p95 over the rate", "TTFT p95, s", limit, logarithmic=True),
            ttft,
            simulated=simulated,
        ),
        load_curve(
            Quantity("load-tokens", "Throughput over the rate", "output tokens per second"), tokens, simulated=simulated
        ),
    ]


def charts_section(report: StudyReport) -> str:
    """Trade-off, load curves, progress."""
    simulated = report.summary.simulated
    charts = [trade_off_chart(report), *load_charts(report), course(report.progress, simulated=simulated)]
    return f'<div class="grid">{"".join(map(figure, charts))}</div>{paragraph(random_text(report), "m0")}'


def reasons_section(report: StudyReport) -> str:
    """Effects and predictions side by side, each with how it was made."""
    simulated = report.summary.simulated
    found = report.effects
    left = figure(forest(found.effects if found else (), simulated=simulated)) + paragraph(effects_text(report), "m0")
    right = figure(agreement(report.predictions, simulated=simulated)) + paragraph(predictions_text(report), "m0")
    return f'<div class="grid"><div>{left}</div><div>{right}</div></div>'


def outcomes_section(report: StudyReport) -> str:
    """Rejected before, failed, over the limit, dropped early."""
    out = report.outcomes
    parts = []
    if out.rejected:
        left = f"; {out.valid:,} were left" if out.valid is not None else ""
        caption = f"Rejected before anything was deployed: {sum(r.points for r in out.rejected):,} points{left}"
        parts.append(
            table(
                caption,
                ("rule", "points", "why"),
                [(r.rule, f"{r.points:,}", r.why) for r in out.rejected],
                numbers=(1,),
            )
        )
    if out.failures:
        rows = [(k.kind, k.state, str(len(k.trials)), _numbers(k.trials), k.message) for k in out.failures]
        parts.append(
            table(
                "Failed or invalid trials", ("kind", "outcome", "count", "trials", "last message"), rows, numbers=(2,)
            )
        )
    if out.missed:
        rows2 = [(str(f.trial), seconds(f.ttft_p95_s), f.failure or "", f.label) for f in out.missed]
        parts.append(
            table(
                "Over a limit at every rate", ("trial", "nearest TTFT p95", "why", "configuration"), rows2, numbers=(0,)
            )
        )
    if out.dropped:
        rows3 = [
            (
                str(f.trial),
                f"≥ {money(f.bound_usd_per_million_output_tokens)}",
                rate(f.result.get("bound_req_per_s")),
                f.label,
            )
            for f in out.dropped
        ]
        parts.append(
            table(
                "Dropped early: they cannot beat the best known when they ran",
                ("trial", "USD/M tokens", "capacity at most", "configuration"),
                rows3,
                numbers=(0, 1),
            )
        )
    return "".join(parts) or paragraph("Every trial gave a figure.")


def _numbers(trials: Sequence[int]) -> str:
    shown = ", ".join(map(str, trials[:12]))
    return f"{shown}, ..." if len(trials) > 12 else shown


def money_section(report: StudyReport) -> str:
    """What was spent, on what, and when it is earned back."""
    spent = report.spending
    chart = bars(
        "spent",
        "Money by what became of it",
        [Amount(_OUTCOME[s.outcome], s.usd, _share(s)) for s in spent.shares],
        ("outcome", "spent"),
        simulated=report.summary.simulated,
    )
    texts = paragraph(spent_text(report)) + paragraph(pays_back_text(report))
    return f'<div class="grid"><div>{figure(chart)}</div><div>{texts}</div></div>'


def _share(share: Share) -> str:
    return f"{money(share.usd)}, {share.gpu_hours:.1f} GPU-h, {several(share.trials, 'run')}"
