"""Problems of any size with a history, for the speed of one ask."""

from __future__ import annotations

from itertools import product

import numpy as np

from tuner.space.config import Choice, Layout, ServingConfig
from tuner.space.workload import Length, Limits, Workload
from tuner.study.history import PastTrial
from tuner.study.problem import Candidate, Problem


def a_big_problem(size: int) -> Problem:
    """At most 130,000 candidates over eight dimensions, as a space with everything open has them."""
    layouts = [Layout(tp, dp, adp, ep) for tp, dp, adp, ep in product((4, 8), (1, 2), (1, 2, 4), (1, 4))]
    choices = [
        [Choice("off"), *(Choice("mtp", (("steps", n),)) for n in (1, 2, 3, 5))],
        [Choice(n) for n in ("fp8", "fp4", "w4a8")],
        [Choice(n) for n in ("bf16", "fp8")],
        (16, 32, 64, 96, 128, 192, 256),
        (4096, 8192, 16384, 32768, 65536),
        (0.78, 0.82, 0.84, 0.86, 0.88, 0.9),
    ]
    names = ("speculation", "weights", "kv-dtype", "max-running", "chunk", "fraction")
    points = list(product(layouts, *choices))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(points), min(size, len(points)), replace=False))
    candidates = []
    for i in chosen:
        layout, *values = points[i]
        config = ServingConfig("lab", layout, tuple(sorted(zip(names, values, strict=True), key=lambda kv: kv[0])))
        cost = float(np.exp(rng.normal(0, 0.4)))
        candidates.append(Candidate(config, cost, 1 / cost, float(rng.uniform(-1, 40)), float(rng.uniform(-0.5, 2))))
    dimensions = {"pool": ("lab",), "layout": tuple(x.label for x in layouts)}
    dimensions |= {n: tuple(getattr(v, "label", v) for v in vs) for n, vs in zip(names, choices, strict=True)}
    workload = Workload(Length.fixed(4000), Length.fixed(1000))
    return Problem("big", {}, candidates, [], dimensions, workload, Limits(5.0), 0.05, None)  # type: ignore[arg-type]


def a_history(problem: Problem, trials: int, rng: np.random.Generator) -> list[PastTrial]:
    """Measured, raced out, failed and infeasible trials, and one that runs."""
    states = ["measured", "pruned", "measured", "failed", "measured", "infeasible"]
    history = []
    for number, i in enumerate(rng.choice(len(problem.candidates), trials, replace=False)):
        candidate = problem.candidates[i]
        state = "running" if number == trials - 1 else states[number % len(states)]
        cost = candidate.predicted_usd_per_million * float(np.exp(rng.normal(0, 0.2)))
        history.append(
            PastTrial(
                number,
                state,
                state != "running",
                candidate.config.fingerprint,
                "sampler",
                candidate.config.as_json(),
                {},
                {},
                usd_per_million=cost if state == "measured" else None,
                bound_usd_per_million=cost if state == "pruned" else None,
            )
        )
    return history
