"""What did not become a figure and why: rejected by a rule, failed, over a limit at every rate, dropped early. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.study.summary import Figures, StudySummary


@dataclass(frozen=True, slots=True)
class Rejected:
    """Points a rule took out before anything was deployed."""

    rule: str
    points: int
    why: str


@dataclass(frozen=True, slots=True)
class Kind:
    """Trials that ended without figures for one reason; `message` is the last one's."""

    state: str
    kind: str
    message: str
    trials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """`valid` points were left of the space; None for what an older study did not keep."""

    valid: int | None
    rejected: tuple[Rejected, ...]
    failures: tuple[Kind, ...]
    missed: tuple[Figures, ...]
    dropped: tuple[Figures, ...]


def outcomes(summary: StudySummary) -> Outcomes:
    """Sort what has no cost: rules by how much they took out, trials by how near they came."""
    space = summary.plan.get("space") or {}
    rejected = [
        Rejected(rule, int(found["points"]), str(found["why"])) for rule, found in (space.get("rejected") or {}).items()
    ]
    trials = summary.trials_in_order
    return Outcomes(
        space.get("valid"),
        tuple(sorted(rejected, key=lambda r: -r.points)),
        _kinds([f for f in trials if f.state in ("failed", "invalid")]),
        tuple(
            sorted((f for f in trials if f.state == "infeasible"), key=lambda f: max(f.constraints.values(), default=0))
        ),
        tuple(
            sorted(
                (f for f in trials if f.state == "pruned"),
                key=lambda f: f.bound_usd_per_million_output_tokens or float("inf"),
            )
        ),
    )


def _kinds(trials: Sequence[Figures]) -> tuple[Kind, ...]:
    groups: dict[tuple[str, str], list[Figures]] = {}
    for f in trials:
        kind = str((f.result.get("failure") or {}).get("kind") or "unspecified")
        groups.setdefault((f.state, kind), []).append(f)
    found = [
        Kind(state, kind, group[-1].failure or kind, tuple(f.trial for f in group))
        for (state, kind), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda k: -len(k.trials)))
