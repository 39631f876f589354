"""Stored studies for tests of what reads them: searched on the fake cluster, with levels, bounds and failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.fake_runtime import FakeCluster
from support.problems import LIMITS, a_problem, config_of, failed, infeasible, measured, raced_out, true_capacity

from tuner.probe.measurement import Level
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.search import search
from tuner.study.summary import StudySummary, read_summary
from tuner.trial.result import TrialResult
from tuner.trial.spec import TrialSpec

EVIL = "<script>alert('x')</script>&\"]]>"


def a_level(level: int, rate: float, p95_s: float | None, verdict: str) -> Level:
    return Level(level, "open", rate, None, 60.0 * level, 60.0, 200, 3, 0, 0.4, p95_s, 40.0, 60.0, 1000 * rate, verdict)


def ttft_p95_s(rate: float, capacity: float) -> float:
    """A load curve that meets the limit exactly at the capacity."""
    return LIMITS.ttft_p95_s * (rate / capacity) ** 4


def with_levels(spec: TrialSpec) -> TrialResult:
    """A measured trial with three levels, one of them beyond its capacity."""
    capacity = true_capacity(config_of(spec))
    if spec.confirm is not None:
        rate = spec.confirm.rate_req_per_s
        return replace(measured(spec), levels=(a_level(0, rate, ttft_p95_s(rate, capacity), "holds"),))
    rates = [(0.8 * capacity, "holds"), (capacity, "holds"), (1.05 * capacity, "misses")]
    levels = tuple(a_level(i, r, ttft_p95_s(r, capacity), v) for i, (r, v) in enumerate(rates))
    return replace(measured(spec), levels=levels, saturation_req_per_s=1.2 * capacity)


def mixed(spec: TrialSpec) -> TrialResult:
    """Now and then a trial fails, misses or is dropped; texts from outside try to become markup."""
    kind = int(spec.fingerprint, 16) % 7
    if spec.confirm is not None or "only" in spec.config:
        return with_levels(spec)
    if kind == 0:
        return failed(spec, kind="oom_kv", message=EVIL, log_tail=f"log {EVIL}\n" * 40)
    if kind == 1:
        return infeasible(spec)
    if kind in (2, 3) and spec.incumbent_req_per_s:
        bound = true_capacity(config_of(spec)) * 1.1
        if bound < spec.incumbent_req_per_s:
            return replace(raced_out(spec, bound), saturation_req_per_s=bound)
    return with_levels(spec)


def stored(
    folder: Any,
    script: Any = with_levels,
    name: str = "demo",
    trials: int = 8,
    sampler: Any = "random",
    **changes: Any,
) -> str:
    """Search a problem into FOLDER/NAME.db; returns the database's address."""
    url = f"sqlite:///{folder}/{name}.db"
    usual = {"name": name, "budget": Budget(trials=trials), "confirm": ConfirmPlan(top=1, repeats=1, minutes=1)}
    search(a_problem(**{**usual, **changes}), url, FakeCluster(script).controller(), poll_s=1e4, sampler=sampler)
    return url


def a_summary(folder: Any, script: Any = with_levels, **changes: Any) -> StudySummary:
    return read_summary(stored(folder, script, **changes))
