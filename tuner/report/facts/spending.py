"""What a study cost, by what became of its trials, and when the winner has earned that back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.study.summary import Figures, StudySummary


@dataclass(frozen=True, slots=True)
class Share:
    """Trials of one outcome: how many, and what they took."""

    outcome: str
    trials: int
    gpu_hours: float
    usd: float


@dataclass(frozen=True, slots=True)
class Spending:
    """The sums. `pays_back_...` is against the baseline, at the winner's rate; None without both."""

    shares: tuple[Share, ...]
    gpu_hours: float
    usd: float
    wall_s: float
    saves_usd_per_million: float | None
    pays_back_after_million_tokens: float | None
    pays_back_after_replica_h: float | None


_OUTCOMES = ("measured", "pruned", "infeasible", "failed", "invalid")


def spending(summary: StudySummary) -> Spending:
    """Sums over all trials and confirmations; prices as they were when each trial ran."""
    shares = [_share(state, [f for f in summary.trials_in_order if f.state == state]) for state in _OUTCOMES]
    shares.append(_share("confirmation", summary.confirmations_in_order))
    used = summary.used
    saves, tokens, hours = _pays_back(summary)
    return Spending(tuple(s for s in shares if s.trials), used.gpu_hours, used.usd, used.wall_s, saves, tokens, hours)


def _share(outcome: str, trials: Sequence[Figures]) -> Share:
    return Share(outcome, len(trials), sum(gpu_hours(f) for f in trials), sum(usd(f) for f in trials))


def gpu_hours(figures: Figures) -> float:
    """What the trial held."""
    return float(figures.result.get("gpu_seconds") or 0.0) / 3600


def usd(figures: Figures) -> float:
    """What the trial cost at the price it was started at."""
    return gpu_hours(figures) / max(1, figures.gpus) * figures.usd_per_hour


def _pays_back(summary: StudySummary) -> tuple[float | None, float | None, float | None]:
    best, baseline = summary.best, summary.seeds.get("baseline")
    ours = best.usd_per_million_output_tokens if best else None
    theirs = baseline.usd_per_million_output_tokens if baseline else None
    if not best or not ours or not theirs or ours >= theirs:
        return None, None, None
    tokens = summary.used.usd / (theirs - ours)
    guarded = (1 - float(summary.plan.get("guard") or 0.0)) * (best.output_tokens_per_s or 0.0)
    return theirs - ours, tokens, tokens * 1e6 / guarded / 3600 if guarded else None
