"""What the figures mean, in sentences; shared by the page and the Markdown. Pure."""

from __future__ import annotations

from tuner.report.facts.certainty import CONFIDENCE, DOUBT
from tuner.report.facts.study_report import StudyReport
from tuner.report.table import ended
from tuner.report.words import (
    OUTCOMES,
    duration,
    limits_text,
    money,
    rate,
    seconds,
    several,
    traffic_text,
)
from tuner.space.workload import Workload


def goal_text(report: StudyReport) -> str:
    """What was looked for: limits, traffic, hardware at its price."""
    trials = report.summary.trials_in_order
    traffic = next((f": {traffic_text(Workload.from_json(w))}" for f in trials if (w := f.spec.get("workload"))), "")
    prices = {
        f.pool: float(each) * f.usd_per_hour_now / f.usd_per_hour
        for f in trials
        if f.usd_per_hour and (each := (f.spec.get("context") or {}).get("usd_per_gpu_hour"))
    }
    pools = ", ".join(
        f"{pool} at {money(prices[pool])} per GPU-hour" if pool in prices else pool
        for pool in report.summary.plan.get("pools") or ["no pool"]
    )
    limits = limits_text(report.limits) or "no limit"
    return f"The lowest cost per output token within {limits}{traffic}; on {pools}."


def hardware_text(report: StudyReport) -> str:
    """The other pools' best beside the best of all."""
    best = report.summary.best
    ours = best.usd_per_million_output_tokens if best is not None else None
    if best is None or not ours or len(report.summary.plan.get("pools") or ()) < 2:
        return ""
    others = [
        f"{f.pool} {money(cost)} ({cost / ours - 1:+.0%}, trial {f.trial}{'' if f.confirmed else ', not confirmed'})"
        for f in report.hardware.cheapest
        if f.pool != best.pool and (cost := f.usd_per_million_output_tokens)
    ]
    unseen = sorted(set(report.summary.plan["pools"]) - {f.pool for f in report.hardware.cheapest} - {best.pool})
    others += [f"{pool}: nothing measured within the limits" for pool in unseen]
    return f"Cheapest on {best.pool}. Other hardware: {'; '.join(others)}."


def limits_note(report: StudyReport) -> str:
    """How to read the table of limits."""
    name = report.summary.study
    return (
        "From the stored load levels, without new trials. 'Unknown': no stored level shows what holds there, and the "
        "bound is what it cannot cost less than; a tighter limit than the study's needs a margin, because TTFT p95 "
        f"near capacity wanders. `tuner compare {name} --limit ttft_p95_s=SECONDS` names the trials that would tell."
    )


def verdict_text(report: StudyReport) -> str:
    """Whether there is a clear winner, in a few words."""
    certain = report.certainty
    best = report.summary.best
    if certain is None or best is None:
        return "No configuration can be recommended."
    if best.standing == "missed":
        return "Refuted: do not deploy this."
    if not best.confirmed:
        return "Not confirmed yet."
    return "Confirmed, and a clear winner." if certain.clear else "Confirmed, but no clear winner."


def certainty_text(report: StudyReport) -> str:
    """How sure the winner is, and how that is known."""
    certain = report.certainty
    best = report.summary.best
    if certain is None or best is None:
        return report.miss or ""
    if best.standing == "missed":
        return ""
    sd = f"{certain.repeat_sd:.1%}"
    source = "learned from this study" if certain.learned else "assumed, because nothing in this study tells it"
    how = f"A repeated measurement lands within about {sd} (standard deviation, {source})."
    if not certain.rivals:
        return f"Nothing else that may hold the limits has a {DOUBT:.0%} chance of being cheaper in truth. {how}"
    first = certain.rivals[0]
    measured = (
        f"{first.dearer_by:.1%} dearer"
        if first.dearer_by >= 0
        else f"{-first.dearer_by:.1%} cheaper, but not confirmed"
    )
    return (
        f"{several(len(certain.rivals), 'other configuration')} may in truth be cheaper, first of all "
        f"trial {first.trial}, measured {measured}, with a chance of {first.chance:.0%}. {how}"
    )


def refuted_text(report: StudyReport) -> str:
    """What was measured cheaper than the best, and is not the best because a further run missed."""
    best = report.summary.best
    ours = best.usd_per_million_output_tokens if best is not None else None
    if best is None or not ours or best.standing == "missed":
        return ""
    cheaper = [
        f"trial {f.trial} ({money(f.usd_per_million_output_tokens)})"
        for f in report.summary.ranked
        if f.standing == "missed" and (f.usd_per_million_output_tokens or ours) < ours
    ]
    if not cheaper:
        return ""
    return f"Measured cheaper, but refuted: a confirmation run missed a limit at its rate: {', '.join(cheaper)}."


def confirmation_text(report: StudyReport) -> str:
    """What the confirmations say of the best."""
    best = report.summary.best
    if best is None:
        return ""
    runs = [f for f in report.summary.confirmations_in_order if f.fingerprint == best.fingerprint]
    if best.confirmed:
        held = sum(f.state == "measured" for f in runs)
        return (
            f"Confirmed: {several(held, 'further run')} held {rate(best.confirmed_rate_req_per_s)} within every limit, "
            f"TTFT p95 {seconds(best.confirmed_ttft_p95_s)} in the worst of them."
        )
    if best.standing == "missed":
        return (
            f"A confirmation run at {rate(best.confirmed_rate_req_per_s)} missed a limit; TTFT p95 was "
            f"{seconds(best.confirmed_ttft_p95_s)} in the worst. More trials may find one that holds: raise "
            "budget.trials and run the same search command."
        )
    return "One measurement stands behind this figure; nothing has upheld it yet. The same search command goes on."


def baseline_text(report: StudyReport) -> str:
    """The best against the file's baseline and the engine's own defaults."""
    best = report.summary.best
    if best is None or not best.usd_per_million_output_tokens:
        return ""
    parts = []
    for name, seed in report.summary.seeds.items():
        cost = seed.usd_per_million_output_tokens
        if cost and seed.fingerprint != best.fingerprint:
            parts.append(f"{best.usd_per_million_output_tokens / cost:.0%} of {name} ({money(cost)})")
    return f"It costs {', '.join(parts)}." if parts else ""


def ended_text(report: StudyReport) -> str:
    """How the search ended, after how many trials."""
    counts = ", ".join(f"{n} {OUTCOMES.get(state, state)}" for state, n in report.summary.trials.items() if n)
    return f"Search: {ended(report.summary)}. Trials: {counts or 'none'}."


def random_text(report: StudyReport) -> str:
    """How the random baseline was made, and what it says."""
    progress = report.progress
    if not progress.random:
        return (
            "No random baseline: this study keeps no predicted costs of its points, or none of its trials can be "
            "compared with them."
        )
    made = (
        "The random baseline is computed, not run: the engine model's predicted costs of all "
        f"{report.outcomes.valid or 0:,} valid points, scaled by {progress.scale:.2f} (this study's median of measured "
        "over predicted), drawn at random; the band holds 8 of 10 such samples. It leaves out that random points also "
        "fail, which flatters it."
    )
    if progress.matched_by is None:
        return (
            f"{made} By that reckoning the cheapest of all points costs {money(progress.cheapest)}, more than this "
            "study's best, so it cannot tell how many random points would equal it."
        )
    return f"{made} On average {several(progress.matched_by, 'random point')} would reach this study's best."


def effects_text(report: StudyReport) -> str:
    """What the effects are and are not."""
    found = report.effects
    if found is None:
        return "Too few costs are known to tell the parameters' effects apart."
    return (
        f"From an additive model of log cost over {several(found.costs, 'measured cost')} and "
        f"{several(found.bounds, 'bound')}; bars are 90% intervals. The search looked where it was cheap, so levels "
        "were not tried evenly; parameters that changed together share their effect and show wide bars; what depends "
        f"on two parameters at once stays in the rest, {found.rest_sd:.0%} of cost."
    )


def predictions_text(report: StudyReport) -> str:
    """How far predictions could be trusted."""
    parts = []
    for who, found in (("engine model", report.predictions.model), ("sampler", report.predictions.believed)):
        if found is not None:
            rank = f", rank correlation {found.rank:.2f}" if found.rank is not None else ""
            parts.append(
                f"{who}: measured is {found.ratio:.2f} times predicted in the median, off that by {found.off_by:.0%}"
                f"{rank} ({several(found.count, 'trial')})"
            )
    if not parts:
        return "No predictions were kept with these trials."
    text = f"{'; '.join(parts)}."
    text = text[0].upper() + text[1:]
    if report.predictions.within is not None:
        text += (
            f" {report.predictions.within:.0%} of measured costs lay inside the sampler's {CONFIDENCE:.0%} interval."
        )
    return text + " Predictions order what is tried; no figure of a result is one."


def spent_text(report: StudyReport) -> str:
    """The sum, and the budget it is part of."""
    spent = report.spending
    limits = report.summary.plan.get("budget") or {}
    of = ", ".join(
        text
        for text in (
            f"{limits['trials']} trials" if limits.get("trials") else "",
            f"{limits['gpu_hours']:g} GPU-hours" if limits.get("gpu_hours") else "",
            money(limits["usd"]) if limits.get("usd") else "",
            duration(limits["wall_s"]) if limits.get("wall_s") else "",
        )
        if text
    )
    budget = f" The budget: {of}." if of else ""
    return f"{money(spent.usd)} and {spent.gpu_hours:.1f} GPU-hours in {duration(spent.wall_s)}.{budget}"


def pays_back_text(report: StudyReport) -> str:
    """When the winner has earned the search back against the baseline."""
    spent = report.spending
    if spent.saves_usd_per_million is None or spent.pays_back_after_million_tokens is None:
        return ""
    text = (
        f"Against the baseline the best saves {money(spent.saves_usd_per_million)} per million output tokens: the "
        f"search has paid for itself after {spent.pays_back_after_million_tokens:,.0f} million tokens"
    )
    if spent.pays_back_after_replica_h is not None:
        text += f", {duration(3600 * spent.pays_back_after_replica_h)} of one replica at its rate"
    return text + "."
