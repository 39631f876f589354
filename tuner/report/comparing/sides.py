"""From studies to offers: which side a configuration belongs to, and what it costs an hour at the given prices.

Studies that differ in nothing but their limits are one side, and what either knows of a configuration counts. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.errors import UsageError
from tuner.report.comparing.evidence import RESCORED, Evidence
from tuner.report.comparing.offers import Offer, paid_tokens
from tuner.space.config import Choice, ServingConfig
from tuner.space.nearest import did_you_mean
from tuner.study.summary import Figures, StudySummary


@dataclass(frozen=True, slots=True)
class Named:
    """A study and how the user named it."""

    reference: str
    summary: StudySummary


def offers_of(studies: Sequence[Named], by: str | None, prices: Mapping[str, float]) -> list[Offer]:
    """Every configuration tried in these studies.

    Raises:
        UsageError: a price for a pool nobody has, or something to compare by that is no part of a configuration.
    """
    check_prices(studies, prices)
    families = _families(studies)
    by = by or _usual(families)
    found = []
    for family in families:
        name = " + ".join(named.summary.study for named in family)
        for evidence, home in _evidence(family):
            if evidence.latest.state in ("measured", "pruned", "infeasible", "failed"):
                found.append(_offer(evidence, home, _side(by, evidence.latest, name), prices))
    return found


def check_prices(studies: Sequence[Named], prices: Mapping[str, float]) -> None:
    """Prices are for pools, or `STUDY/POOL` where two studies call different hardware by one name."""
    pools = {p for named in studies for p in named.summary.plan.get("pools") or ()}
    known = pools | {f"{n.summary.study}/{p}" for n in studies for p in n.summary.plan.get("pools") or ()}
    for name in prices:
        if name not in known:
            raise UsageError(f"--price {name}: no such pool in these studies{did_you_mean(name, sorted(known))}")


def _families(studies: Sequence[Named]) -> list[list[Named]]:
    groups: dict[str, list[Named]] = {}
    for named in studies:
        groups.setdefault(_without_limits(named.summary.identity) or named.summary.uid, []).append(named)
    return list(groups.values())


def _without_limits(identity: Mapping[str, Any]) -> str:
    objective = {k: v for k, v in (identity.get("objective") or {}).items() if k != "subject_to"}
    return json.dumps({**identity, "objective": objective}, sort_keys=True) if identity else ""


def _usual(families: Sequence[Sequence[Named]]) -> str:
    """Studies where there are several, else the pools of the one."""
    pools = {p for family in families for named in family for p in named.summary.plan.get("pools") or ()}
    return "pool" if len(families) == 1 and len(pools) > 1 else "study"


def _evidence(family: Sequence[Named]) -> list[tuple[Evidence, Named]]:
    trials: dict[str, list[Figures]] = {}
    runs: dict[str, list[Figures]] = {}
    home: dict[str, Named] = {}
    refuted: dict[str, list[Mapping[str, float]]] = {}
    confirmed: dict[str, list[tuple[Mapping[str, float], float]]] = {}
    for named in family:
        limits = named.summary.plan.get("limits") or {}
        for f in named.summary.trials_in_order:
            if f.state not in ("invalid", "running", "abandoned") and not _lost(f):
                trials.setdefault(f.fingerprint, []).append(f)
                home.setdefault(f.fingerprint, named)
            if f.standing == "missed":
                refuted.setdefault(f.fingerprint, []).append(limits)
            if f.confirmed and f.confirmed_rate_req_per_s:
                confirmed.setdefault(f.fingerprint, []).append((limits, f.confirmed_rate_req_per_s))
        for run in named.summary.confirmations_in_order:
            if run.state in ("measured", "infeasible"):
                runs.setdefault(run.fingerprint, []).append(run)
    return [
        (
            Evidence(
                tuple(found), tuple(runs.get(key, ())), tuple(refuted.get(key, ())), tuple(confirmed.get(key, ()))
            ),
            home[key],
        )
        for key, found in trials.items()
    ]


def _lost(figures: Figures) -> bool:
    """Ended by infrastructure: says nothing of the configuration."""
    failure = figures.result.get("failure") or {}
    return figures.state == "failed" and failure.get("class") != "configuration"


def _side(by: str, figures: Figures, study: str) -> str:
    config = ServingConfig.from_json(figures.config)
    values = {k: v.label if isinstance(v, Choice) else str(v) for k, v in config.values}
    own = {"study": study, "pool": figures.pool, "engine": figures.engine_version, "layout": config.layout.label}
    known = {**values, **own}
    if by not in known:
        if config.only:
            return "engine defaults"
        raise UsageError(f"--by {by}: no such part of a configuration{did_you_mean(by, sorted(known))}")
    return known[by]


def _offer(evidence: Evidence, home: Named, side: str, prices: Mapping[str, float]) -> Offer:
    latest, plan = evidence.latest, home.summary.plan
    paid, output = paid_tokens(latest.spec.get("workload"), plan.get("token_weights") or {})
    return Offer(
        side,
        home.summary.study,
        evidence.trials[0].trial,
        latest.label,
        evidence,
        hourly(latest, home.summary.study, prices),
        float(plan.get("guard") or 0.0),
        paid,
        output,
    )


def hourly(figures: Figures, study: str, prices: Mapping[str, float]) -> float:
    """USD per hour of the configuration's hardware; a price given per GPU-hour scales what was billed."""
    price = prices.get(f"{study}/{figures.pool}", prices.get(figures.pool))
    if price is None:
        return figures.usd_per_hour_now
    each = (figures.spec.get("context") or {}).get("usd_per_gpu_hour")
    billed = figures.usd_per_hour / each if each else float(figures.gpus)  # GPUs, idle ones of a node included
    return price * billed


def limits_of(studies: Sequence[Named], changes: Mapping[str, float]) -> dict[str, float]:
    """The limits to compare at: those asked for, else the ones the studies were tuned for, the loosest of each.

    Raises:
        UsageError: a limit that no stored level can be judged by.
    """
    for name in changes:
        if name not in RESCORED:
            raise UsageError(
                f"--limit {name}: the stored levels can be judged by {' and '.join(RESCORED)} only"
                f"{did_you_mean(name, RESCORED)}"
            )
    found: dict[str, float] = {}
    for named in studies:
        for key, value in (named.summary.plan.get("limits") or {}).items():
            found[key] = max(value, found.get(key, value))
    return {**found, **changes}
