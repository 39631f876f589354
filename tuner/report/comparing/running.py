"""The commands that would decide what is undecided, or confirm what is decided: exactly these trials. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.report.comparing.offers import Decision, Scored
from tuner.report.comparing.sides import Named

_DEFAULT_WORLD = 1


@dataclass(frozen=True, slots=True)
class Offered:
    """Commands that would decide what is undecided, or confirm a winner that is not confirmed at these limits."""

    decide: tuple[str, ...] = ()
    confirm: tuple[str, ...] = ()


def offered(decision: Decision, studies: Sequence[Named], limits: Mapping[str, float]) -> Offered:
    """What to run next: the one or the other, or nothing."""
    if decision.undecided:
        return Offered(decide=tuple(commands(decision.undecided, studies, limits)))
    winner = decision.winner
    if winner is not None and not winner.confirmed and not _was_measured_at(winner, limits):
        return Offered(confirm=tuple(commands([winner], studies, limits)))
    return Offered()


def _was_measured_at(winner: Scored, limits: Mapping[str, float]) -> bool:
    """Then its own study is who confirms it, when its turn comes."""
    return any(t.state == "measured" and t.spec.get("limits") == dict(limits) for t in winner.offer.evidence.trials)


def commands(undecided: Sequence[Scored], studies: Sequence[Named], limits: Mapping[str, float]) -> list[str]:
    """One command per study. Another limit than the study's own is another study, seeded from it."""
    found = []
    for named in studies:
        trials = sorted(s.offer.trial for s in undecided if s.offer.study == named.summary.study)
        if trials:
            found.append(_command(named, trials, limits))
    return found


def _command(named: Named, trials: Sequence[int], limits: Mapping[str, float]) -> str:
    summary = named.summary
    own = summary.plan.get("limits") or {}
    changed = {key: value for key, value in limits.items() if own.get(key) != value}
    words = ["tuner", "search", "--space", "SPACE.yaml", *_runtime(summary.identity)]
    if changed:
        words += [w for key, value in changed.items() for w in ("--limit", f"{key}={value:g}")]
        words += ["--new-study", _name(summary.study, changed), "--seed-from", summary.study]
    else:
        words += ["--study", summary.study]
    if summary.storage != f"sqlite:///{summary.study}.db":
        words += ["--storage", summary.storage]
    return shlex.join([*words, "--only", ",".join(map(str, trials))])


def _name(study: str, changed: Mapping[str, float]) -> str:
    return "-".join([study, *(f"{key.split('_')[0]}{value:g}" for key, value in changed.items())])


def _runtime(identity: Mapping[str, Any]) -> list[str]:
    runtime = identity.get("runtime") or {}
    if not runtime.get("simulated"):
        return []
    world = runtime.get("world")
    return ["--runtime", "simulated", *(["--world", str(world)] if world not in (None, _DEFAULT_WORLD) else [])]
