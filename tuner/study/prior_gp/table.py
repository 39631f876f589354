"""The enumerated candidates as arrays: level codes per dimension, what the engine model predicts, names.

A pure function of the problem, made once and kept beside it. Knows no history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.space.config import ServingConfig
from tuner.study.prior_gp.kernel import Kernel
from tuner.study.prior_gp.levels import Level
from tuner.study.problem import Candidate, Problem

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

_BEYOND = math.log(2.0)  # a candidate predicted to serve nothing counts as twice as dear as the dearest that serves


@dataclass(frozen=True)
class CandidateTable:
    """`codes[i, d]` is the level of candidate i in dimension d. `prior` is the centred log of the predicted cost."""

    candidates: Sequence[Candidate]
    kernel: Kernel
    codes: Codes
    prior: Floats
    center: float
    fits: Floats
    serves: Floats
    pools: NDArray[np.str_]
    index: dict[str, int]

    def __len__(self) -> int:
        return len(self.candidates)


def tabulate(problem: Problem) -> CandidateTable:
    """The table of a problem's candidates."""
    candidates = problem.candidates
    names = ["pool", "layout", *(name for name in problem.dimensions if name not in ("pool", "layout"))]
    columns = [_column([_value(c.config, name) for c in candidates]) for name in names]
    varied = [(name, levels, codes) for name, (levels, codes) in zip(names, columns, strict=True) if len(levels) > 1]
    codes = np.stack([codes for _, _, codes in varied], axis=1) if varied else np.zeros((len(candidates), 0), np.intp)
    cost = _log_costs(candidates)
    center = float(np.median(cost)) if len(cost) else 0.0
    return CandidateTable(
        candidates=candidates,
        kernel=Kernel([(name, levels) for name, levels, _ in varied], codes),
        codes=codes,
        prior=cost - center,
        center=center,
        fits=np.array([fit_logit(c) for c in candidates]),
        serves=np.array([serve_logit(c) for c in candidates]),
        pools=np.array([c.config.pool for c in candidates], dtype=np.str_),
        index={c.config.fingerprint: i for i, c in enumerate(candidates)},
    )


_last: list[tuple[Problem, CandidateTable]] = []


def table_of(problem: Problem) -> CandidateTable:
    """The table of this very problem, made at the first call; the one before is forgotten."""
    if not _last or _last[0][0].candidates is not problem.candidates:
        _last[:] = [(problem, tabulate(problem))]
    return _last[0][1]


def fit_logit(candidate: Candidate) -> float:
    """What the memory margin says of starting at all: even at half a GiB short, near certain from 5 GiB to spare."""
    return max(-3.0, min(3.0, candidate.margin_gib / 2)) + 0.5


def serve_logit(candidate: Candidate) -> float:
    """What the predicted TTFT says of meeting the limit at some rate."""
    if candidate.ttft_slack is not None:
        return max(-3.0, min(3.0, 3 * candidate.ttft_slack + 2.0))
    return 3.0 if math.isfinite(candidate.predicted_usd_per_million) else -1.0


def _value(config: ServingConfig, name: str) -> Level:
    if name == "pool":
        return config.pool
    return config.layout if name == "layout" else config.get(name)


def _column(values: Sequence[object]) -> tuple[list[Level], Codes]:
    """Distinct values in order of first use, and each candidate's."""
    seen: dict[object, int] = {}
    codes = np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.intp)
    return list(seen), codes  # type: ignore[arg-type] # hashable levels


def _log_costs(candidates: Sequence[Candidate]) -> Floats:
    cost = np.array([c.predicted_usd_per_million for c in candidates], dtype=float)
    usable = np.isfinite(cost) & (cost > 0)
    logs = np.log(np.where(usable, cost, 1.0))
    dearest = float(logs[usable].max()) if usable.any() else 0.0
    found: Floats = np.where(usable, logs, dearest + _BEYOND)
    return found
