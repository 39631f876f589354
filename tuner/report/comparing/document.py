"""A comparison as a JSON document and as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from tuner.report.comparing.comparison import Against, Comparison
from tuner.report.comparing.offers import Decision, Scored
from tuner.report.comparing.running import Offered
from tuner.report.comparing.sides import Named
from tuner.report.console import new_table, print_table
from tuner.report.table import beside
from tuner.report.words import limits_text, money, rate, several
from tuner.study.history import differences

_COMPARABLE = ("workload", "runtime", "model")
TOP = 8


def as_json(comparison: Comparison, studies: Sequence[Named], offered: Offered) -> dict[str, Any]:
    """The contract: `winner`, `undecided`, `sides` by limit, ratios; schema_version 1."""
    decision = comparison.decision
    return {
        "schema_version": 1,
        "studies": [named.summary.study for named in studies],
        "simulated": any(named.summary.simulated for named in studies),
        "limits": dict(comparison.limits),
        "sides": list(comparison.sides),
        "winner": _scored(decision.winner),
        "ranked": [_scored(s) for s in decision.ranked],
        "undecided": [_scored(s) for s in decision.undecided],
        "commands": list(offered.decide),
        "confirm_commands": list(offered.confirm),
        "at_limits": {side: _decision(d) for side, d in comparison.at_limits.items()},
        "by_ttft_limit": [
            {"ttft_p95_s": row.limit_s, "best": {side: _decision(d) for side, d in row.best.items()}}
            for row in comparison.rows
        ],
        "ratios": [_ratios(a) for a in comparison.against],
        "crossovers": [
            {"ttft_p95_s": c.limit_s, "cheaper_below": c.before, "cheaper_from": c.cheaper, "sure": c.sure}
            for c in comparison.crossovers
        ],
        "notes": notes(studies),
    }


def _ratios(a: Against) -> dict[str, Any]:
    return {
        "side": a.side,
        "reference": a.reference,
        "throughput": a.throughput_ratio,
        "price": a.price_ratio,
        "cost": a.cost_ratio,
        "order_turns_at_price": a.order_turns_at_price_ratio,
    }


def _decision(d: Decision) -> dict[str, Any]:
    least = d.least if math.isfinite(d.least) else None
    return {
        "shown": _scored(d.winner),
        "at_least_usd_per_million_output_tokens": least,
        "undecided": [s.offer.trial for s in d.undecided],
    }


def _scored(s: Scored | None) -> dict[str, Any] | None:
    if s is None:
        return None
    return {
        "side": s.offer.side,
        "study": s.offer.study,
        "trial": s.offer.trial,
        "configuration": s.offer.label,
        "usd_per_hour": s.offer.usd_per_hour,
        "rate_req_per_s": s.rate_req_per_s,
        "usd_per_million_output_tokens": s.cost,
        "at_least_usd_per_million_output_tokens": s.least,
        "settled": s.settled,
        "confirmed": s.confirmed,
    }


def notes(studies: Sequence[Named]) -> list[str]:
    """What makes the sides less comparable than they look."""
    first = studies[0].summary
    found = []
    for named in studies[1:]:
        for section in _COMPARABLE:
            ours, theirs = named.summary.identity.get(section), first.identity.get(section)
            found += [f"{first.study} and {named.summary.study}: {d}" for d in differences(theirs, ours, section)]
    return found


def print_comparison(comparison: Comparison, studies: Sequence[Named], offered: Offered, out: TextIO) -> None:
    """For people: the curve, the ratios, the decision, what is undecided and how to decide it."""
    mark = " - SIMULATED, nothing was measured" if any(n.summary.simulated for n in studies) else ""
    for note in notes(studies):
        print(f"not the same: {note}", file=out)
    _print_curve(comparison, mark, out)
    _print_ranking(comparison, out)
    for line in _sentences(comparison):
        print(line, file=out)
    _print_decision(comparison, offered, out)


def _print_curve(comparison: Comparison, mark: str, out: TextIO) -> None:
    if not comparison.rows:
        return
    table = new_table(
        f"USD per million output tokens at each TTFT p95 limit{mark}", "limit", *comparison.sides, right=("limit",)
    )
    for row in comparison.rows:
        table.add_row(f"{row.limit_s:g} s", *(cell(row.best[side]) for side in comparison.sides))
    print_table(table, out)


def cell(d: Decision) -> str:
    """What was shown, and how much lower it might still be."""
    if d.winner is None:
        return f"unknown, >= {money(d.least)}" if d.undecided else "none holds it"
    shown = f"{money(d.winner.cost)} (trial {d.winner.offer.trial}, {rate(d.winner.rate_req_per_s)})"
    return f"{shown}; undecided, >= {money(d.least)}" if d.undecided else shown


def _print_ranking(comparison: Comparison, out: TextIO) -> None:
    title = f"within {limits_text(comparison.limits)}, at the prices given"
    numbers = ("trial", "USD/M\ntokens", "req/s", "USD/h")
    columns = ("", *numbers, "con-\nfirmed", "side", "the best's configuration;\nothers: where they differ")
    table = new_table(title, *columns, right=numbers, whole=("", "con-\nfirmed", "side"))
    best = comparison.decision.winner
    for i, s in enumerate(comparison.decision.ranked[:TOP], start=1):
        cost, run_at = f"{s.cost:.3f}", f"{s.rate_req_per_s:.3f}"
        name = "best" if i == 1 else f"{i}."
        where = (
            s.offer.label if best is None or s is best else beside(s.offer.evidence.latest, best.offer.evidence.latest)
        )
        held = "yes" if s.confirmed else "no"
        hourly = f"{s.offer.usd_per_hour:.2f}"
        table.add_row(name, str(s.offer.trial), cost, run_at, hourly, held, s.offer.side, where)
    if comparison.decision.ranked:
        print_table(table, out)


def _sentences(comparison: Comparison) -> list[str]:
    lines = [
        f"{a.side} has {a.throughput_ratio:.0%} of the throughput of {a.reference} at {a.price_ratio:.0%} of the "
        f"price: {a.cost_ratio:.0%} of the cost per token; the order turns at a price ratio of "
        f"{a.order_turns_at_price_ratio:.0%}{_turning_price(a, comparison.at_limits)}"
        for a in comparison.against
    ]
    lines += [
        f"below a TTFT p95 limit of {c.limit_s:.3g} s {c.before} is the cheapest, from there on "
        f"{c.cheaper}{'' if c.sure else ' - by what was shown; something undecided could change that'}"
        for c in comparison.crossovers
    ]
    if comparison.against and not comparison.crossovers:
        lines.append("no TTFT limit with stored levels of both turns the order")
    return lines


def _turning_price(a: Against, at_limits: Mapping[str, Decision]) -> str:
    """The same as money: what the side may cost an hour before the reference is the cheaper one."""
    ours, theirs = at_limits[a.side].winner, at_limits[a.reference].winner
    if ours is None or theirs is None:
        return ""
    at = theirs.offer.usd_per_hour * a.order_turns_at_price_ratio
    return f": {a.side} is the cheaper one below {money(at)} an hour, now {money(ours.offer.usd_per_hour)}"


def _print_decision(comparison: Comparison, offered: Offered, out: TextIO) -> None:
    decision = comparison.decision
    winner = decision.winner
    if winner is None:
        print("nothing was shown to hold these limits", file=out)
    if decision.undecided:
        _print_undecided(decision, offered, out)
        return
    if winner is None:
        return
    held = "confirmed at these limits" if winner.confirmed else "not confirmed at these limits"
    print(
        f"decided: trial {winner.offer.trial} of {winner.offer.study}, {money(winner.cost)} per million, {held}",
        file=out,
    )
    if offered.confirm:
        print(f"to confirm it at {rate(winner.rate_req_per_s)} (SPACE.yaml is the study's space file):", file=out)
        for command in offered.confirm:
            print(f"  {command}", file=out)
    elif not winner.confirmed:
        print(
            "to confirm it, put these prices into the study's space file and run its search again: its best are "
            "confirmed, as many as confirm.top says",
            file=out,
        )


def _print_undecided(decision: Decision, offered: Offered, out: TextIO) -> None:
    count = several(len(decision.undecided), "trial")
    listed = ", ".join(f"{s.offer.study} {s.offer.trial} (>= {money(s.least)})" for s in decision.undecided[:TOP])
    more = f" and {len(decision.undecided) - TOP} more" if len(decision.undecided) > TOP else ""
    print(f"undecided: {count} could cost less than what was shown: {listed}{more}", file=out)
    print("to decide it, measure exactly these (SPACE.yaml is the study's space file), then compare again:", file=out)
    for command in offered.decide:
        print(f"  {command}", file=out)
