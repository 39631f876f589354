"""The report's sections: each a function from the gathered facts to HTML."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.report.charts.agreement import agreement
from tuner.report.charts.bars import Amount, bars
from tuner.report.charts.canvas import Chart
from tuner.report.charts.course import course
from tuner.report.charts.forest import forest
from tuner.report.charts.load_curve import Curve, Load, Quantity, load_curve
from tuner.report.comparing.document import cell
from tuner.report.facts.spending import Share
from tuner.report.facts.study_report import StudyReport
from tuner.report.page.markup import figure, paragraph, table
from tuner.report.sentences import (
    effects_text,
    limits_note,
    pays_back_text,
    predictions_text,
    random_text,
    spent_text,
)
from tuner.report.table import beside
from tuner.report.words import OUTCOMES, money, rate, seconds, several

TOP = 10


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
            _dearer(f.usd_per_million_output_tokens or 0.0, best) if f is not shown[0] else "",
            rate(f.capacity_req_per_s),
            seconds(f.ttft_p95_s),
            _CONFIRMED[f.standing],
            _named(names.get(f.fingerprint), beside(f, shown[0])),
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
    caption = (
        "Measured configurations: the best, then the cheapest first; capacity and TTFT p95 as the search found them"
    )
    return table(caption, columns, rows, numbers=tuple(range(6)))


_CONFIRMED = {"holds": "yes", "missed": "refuted", "open": "not yet", "undecided": "could not be told", None: "no"}


def _dearer(cost: float, best: float) -> str:
    """`+6.8%`, `+62%`: one decimal where it may matter."""
    more = cost / best - 1
    return f"{more:+.1%}" if abs(more) < 0.1 else f"{more:+.0%}"


def _named(name: str | None, text: str) -> str:
    return f"{name}: {text}" if name else text


def hardware_section(report: StudyReport) -> str:
    """Every pool's cheapest at every limit."""
    found = report.hardware
    if not any(row.costs for row in found.rows):
        return paragraph("Nothing was shown to hold a limit.")
    rows = [(f"{row.limit_s:g} s", *(cell(row.best[pool]) for pool in found.pools)) for row in found.rows]
    caption = "USD per million output tokens at each TTFT p95 limit"
    return table(caption, ("limit", *found.pools), rows) + paragraph(limits_note(report), "m0")


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
    """Load curves, progress."""
    simulated = report.summary.simulated
    charts = [*load_charts(report), course(report.progress, simulated=simulated)]
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
    where = "where it differs from the best" if report.summary.best else "configuration"
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
        rows2 = [
            (str(f.trial), seconds(f.ttft_p95_s), f.failure or "", beside(f, report.summary.best)) for f in out.missed
        ]
        parts.append(
            table("Over a limit at every rate", ("trial", "nearest TTFT p95", "why", where), rows2, numbers=(0,))
        )
    if out.dropped:
        rows3 = [
            (
                str(f.trial),
                f"≥ {money(f.bound_usd_per_million_output_tokens)}",
                rate(f.result.get("bound_req_per_s")),
                beside(f, report.summary.best),
            )
            for f in out.dropped
        ]
        parts.append(
            table(
                "Dropped early: they cannot beat the best known when they ran",
                ("trial", "USD/M tokens", "capacity at most", where),
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
        [Amount(OUTCOMES[s.outcome], s.usd, _share(s)) for s in spent.shares],
        ("outcome", "spent"),
        simulated=report.summary.simulated,
    )
    texts = paragraph(spent_text(report)) + paragraph(pays_back_text(report))
    return f'<div class="grid"><div>{figure(chart)}</div><div>{texts}</div></div>'


def _share(share: Share) -> str:
    return f"{money(share.usd)}, {share.gpu_hours:.1f} GPU-h, {several(share.trials, 'run')}"
