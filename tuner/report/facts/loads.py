"""The stored load levels of a configuration, search and confirmations together, as figures over the rate. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuner.space.workload import Workload
from tuner.study.summary import Figures, StudySummary

BEST = 4


@dataclass(frozen=True, slots=True)
class Level:
    """One open-loop level.

    `output_tokens_per_s` of a rate that held is rate x tokens per answer: the level's own window still drains what
    stood before it.
    """

    rate_req_per_s: float
    ttft_p95_s: float | None
    output_tokens_per_s: float
    verdict: Literal["holds", "misses"]
    source: str


@dataclass(frozen=True, slots=True)
class Loads:
    """A configuration's levels; `saturation_req_per_s` is what the full server gave, where it was kept."""

    trial: int
    label: str
    levels: tuple[Level, ...]
    saturation_req_per_s: float | None


def loads(summary: StudySummary, count: int = BEST) -> tuple[Loads, ...]:
    """Of the best few configurations."""
    best = [f for f in (summary.best, *summary.ranked) if f is not None]
    chosen = list({f.fingerprint: f for f in best}.values())[:count]
    return tuple(loads_of(f, summary.confirmations_in_order) for f in chosen)


def loads_of(figures: Figures, confirmations: Iterable[Figures] = ()) -> Loads:
    """Everything that was offered to one configuration."""
    tokens = mean_output_tokens(figures)
    saturation = figures.result.get("saturation_req_per_s")
    found = [_level(doc, tokens, saturation, "search") for doc in _open(figures)]
    for run in confirmations:
        if run.fingerprint == figures.fingerprint:
            found += [_level(doc, tokens, saturation, "confirmation") for doc in _open(run)]
    if saturation and tokens:
        found.append(Level(saturation, None, saturation * tokens, "misses", "server kept full"))
    return Loads(figures.trial, figures.label, tuple(sorted(found, key=lambda level: level.rate_req_per_s)), saturation)


def mean_output_tokens(figures: Figures) -> float:
    """Tokens of a mean answer."""
    workload = figures.spec.get("workload")
    return Workload.from_json(workload).output_tokens.mean_tokens if workload else 0.0


def _open(figures: Figures) -> Sequence[Mapping[str, Any]]:
    levels = figures.result.get("levels") or ()
    return [doc for doc in levels if doc.get("rate_req_per_s") and doc.get("verdict") not in ("invalid", "undecided")]


def _level(doc: Mapping[str, Any], tokens: float, saturation: float | None, source: str) -> Level:
    rate, held = float(doc["rate_req_per_s"]), doc["verdict"] == "holds"
    served = rate if saturation is None else min(rate, saturation)
    measured = float(doc.get("output_tokens_per_s") or 0.0)
    throughput = rate * tokens if held else min(measured, served * tokens) if tokens else measured
    return Level(rate, doc.get("ttft_p95_s"), throughput, "holds" if held else "misses", source)
