"""What the figures mean, in sentences; shared by the page and the Markdown. Pure."""

from __future__ import annotations

from tuner.report.facts.certainty import CONFIDENCE
from tuner.report.facts.study_report import StudyReport
from tuner.report.table import ended
from tuner.report.words import duration, money, rate, seconds, several


def verdict_text(report: StudyReport) -> str:
    """Whether there is a clear winner, in a few words."""
    certain = report.certainty
    if certain is None:
        return "There is no winner."
    return "A clear winner." if certain.clear else "No clear winner."


def certainty_text(report: StudyReport) -> str:
    """How sure the winner is, and how that is known."""
    certain = report.certainty
    if certain is None:
        return report.miss or ""
    sd = f"{certain.repeat_sd:.1%}"
    source = "learned from this study" if certain.learned else "assumed, because nothing in this study tells it"
    how = f"A repeated measurement lands within about {sd} (standard deviation, {source})."
    if certain.clear:
        return f"Nothing else measured has a 10 % chance of being cheaper in truth. {how}"
    first = certain.rivals[0]
    return (
        f"{several(len(certain.rivals), 'other configuration')} may in truth be cheaper, first of all "
        f"trial {first.trial}, measured {first.dearer_by:.1%} dearer, with a chance of {first.chance:.0%}. {how} "
        "Whichever of them is run, the difference is small against the interval."
    )


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
        return "Refuted: a confirmation run did not hold the rate. Do not deploy this without measuring it again."
    return "Not confirmed yet: one measurement stands behind this figure. The same search command goes on."


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
    counts = ", ".join(f"{n} {state}" for state, n in report.summary.trials.items() if n)
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
        f"{several(found.bounds, 'bound')}; bars are 90 % intervals. The search looked where it was cheap, so levels "
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
