"""Does the search find the best of a world it was not made for? Regret on another engine, by an external command.

    python tests/benchmarks/external_search.py [--space nvidia-b200.yaml] [--limits 2 5] [--seeds 20] [--trials 15]

The other engine (`answer` below) shares no code, constant or structure with `tuner.model`: a TTFT by M/G/1 with the
decode steps that delay it, a decode step linear in the batch, memory by two lines. Each trial is a process of
`--runtime external`; what it answers carries 3 % noise. Regret is the noise-free cost of the configuration with the
lowest measured cost so far, relative to the best of all valid points.
"""

from __future__ import annotations

import json
import math
import random
import sys

HARDWARE = {"b200": (180e9, 7.7e12, 9.0e-3, 900e9), "mi355x": (288e9, 7.2e12, 13e-3, 450e9)}
"""Bytes of HBM, bytes per second of it, seconds a step costs by itself, bytes per second between GPUs."""
PREFILL_FLOPS = {"nvfp4": 1.15e15, "mxfp4": 0.55e15, "fp8": 0.75e15}
"""Per GPU and second, as prefill gets them."""
WEIGHTS = {"nvfp4": 432e9, "mxfp4": 415e9, "fp8": 745e9}
ACCEPTED = (1.0, 1.84, 2.50, 2.99, 3.33, 3.61)
"""Tokens per verify step with 0 to 5 drafted: GLM-5.2, coding prompts (SPEED-Bench)."""
UNSAID = {"speculation": "off", "max-running-requests": 128, "chunked-prefill-size": 8192, "mem-fraction-static": 0.85}
"""What the engine takes where a configuration leaves it to the engine."""
LAYERS, HIDDEN, KV_BYTES, INPUT, FRESH, OUTPUT = 78, 6144, 50e3, 20_000, 8_000, 1_000


def capacity(config: dict, ttft_p95_s: float) -> tuple[float, float]:
    """(highest rate in requests per second within the limit, its TTFT p95); a rate of 0: none, -1: does not start."""
    config = UNSAID | config
    layout = config["layout"]
    tp, dp, attn_dp, ep = (layout[k] for k in ("tp", "dp", "attn_dp", "ep"))
    hbm, bandwidth, own_s, link = HARDWARE[config["pool"]]
    weights, steps = config["weights"], config["speculation"]
    drafted = 0 if steps == "off" else steps["mtp"]["steps"]
    chunk = config["chunked-prefill-size"] / attn_dp
    held = WEIGHTS[weights] / tp + (9e9 if attn_dp > 1 else 0) + (8e9 if drafted else 0)
    free = hbm * config["mem-fraction-static"] - held
    if hbm * (1 - config["mem-fraction-static"]) < 5e9 + chunk * 0.35e6 or free < INPUT * KV_BYTES * 1.5:
        return -1.0, math.inf
    batch = min(config["max-running-requests"] / attn_dp, free / KV_BYTES / (FRESH * 1.15 + OUTPUT / 2)) * attn_dp

    def decode_s(running: float) -> float:
        tokens = running * (1 + drafted)
        touched = 1 - (1 - 8 / 256) ** tokens
        skew = 1.0 + (0.12 if ep > 1 else 0.0) + 0.02 * (attn_dp - 1)
        read = WEIGHTS[weights] / tp * (0.04 + 0.96 * touched * skew) + running * 180e6 / min(attn_dp * 1.5, tp)
        mixed = tokens * HIDDEN * 2 * LAYERS * 2 * (0.6 if attn_dp > 1 else 1.0) / link
        own = own_s * (1 + 0.15 * (attn_dp > 1)) + drafted * 0.45e-3
        return own + read / (0.62 * bandwidth) + mixed + tokens * 22e-6

    chunks = max(1, math.ceil(FRESH / chunk))
    flops = FRESH * 105e9 * (1.0 + 0.18 * (ep > 1) * (attn_dp == 1))
    share = tp if attn_dp == 1 else tp / attn_dp * (1 + 0.72 * (attn_dp - 1))
    prefill_s = chunks * (own_s * 2.2 + WEIGHTS[weights] / tp / bandwidth / 1.5)
    prefill_s += flops / share / PREFILL_FLOPS[weights]
    prefill_s += FRESH * HIDDEN * 2 * LAYERS * 2 * (0.55 if attn_dp > 1 else 1.0) / link
    work_s = prefill_s / attn_dp * (1 + 0.08 * (attn_dp - 1))

    def p95(rate: float) -> float:
        """TTFT p95 of one replica at so many requests per second; inf where it cannot keep up."""
        busy = rate * work_s
        if busy >= 0.97:
            return math.inf
        running = 1.0
        for _ in range(40):
            token_s = decode_s(running) / ACCEPTED[drafted] / (1 - busy)
            running = 0.5 * running + 0.5 * min(4 * batch, rate * OUTPUT * token_s)
        if running > 0.92 * batch:
            return math.inf
        wait_s = busy * prefill_s * (1 + 0.3 * (dp == 1)) / (2 * (1 - busy))
        return 0.03 + prefill_s + decode_s(running) + 3.0 * wait_s + 0.02 * running * busy

    low, high = 0.0, 1.0 / work_s
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if p95(middle) <= ttft_p95_s else (low, middle)
    return (low * dp, p95(low)) if low > 1e-3 else (0.0, p95(0.01))


def answer() -> None:
    """The external command: a TrialSpec in, a TrialResult out."""
    spec = json.load(sys.stdin)
    rate, p95_s = capacity(spec["config"], spec["limits"]["ttft_p95_s"])
    result: dict = {"id": spec["id"], "state": "measured"}
    if rate < 0:
        failure = {"class": "configuration", "kind": "does_not_fit", "message": "the engine ran out of memory"}
        result |= {"state": "failed", "failure": failure}
    elif rate == 0:
        result |= {"state": "infeasible", "ttft_p95_s": p95_s, "bound_req_per_s": 0.05}
    else:
        seen = rate * math.exp(random.Random(f"{spec['seed']} {spec['id']}").gauss(0, 0.03))
        result |= {"capacity_req_per_s": seen, "ttft_p95_s": p95_s, "output_tokens_per_s": seen * OUTPUT}
    json.dump(result, sys.stdout)


def main() -> None:
    """One line per limit."""
    import argparse
    import statistics

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="nvidia-b200.yaml")
    parser.add_argument("--limits", nargs="+", type=float, default=[2.0, 5.0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--methods", nargs="+", default=["prior-gp", "tpe", "random"])
    asked = parser.parse_args()
    for limit_s in asked.limits:
        problem, costs = world_of(asked.space, limit_s, asked.trials)
        best = min(costs.values())
        works = sum(cost < math.inf for cost in costs.values())
        near = sum(cost <= 1.06 * best for cost in costs.values())
        print(f"TTFT p95 <= {limit_s:g} s: {len(costs)} points, {works} work, {near} within 6 % of the best")
        for method in asked.methods:
            found = [[cost / best - 1 for cost in picked(problem, costs, seed, method)] for seed in range(asked.seeds)]
            told = []
            for after in sorted({5, 10, asked.trials}):
                regrets = sorted(series[min(after, len(series)) - 1] for series in found)
                worst = regrets[math.ceil(0.9 * len(regrets)) - 1]
                told.append(f"@{after} {statistics.median(regrets):.1%} / {worst:.1%}")
            print(f"  {method}: {', '.join(told)} (median / p90 of {asked.seeds} seeds)", flush=True)


def world_of(space_name: str, limit_s: float, trials: int):
    """The problem with this limit, and the noise-free GPU-seconds per request of every valid point."""
    from dataclasses import replace

    from tuner.launch.spaces import open_space
    from tuner.study.assemble import Where, problem_of
    from tuner.study.points import evaluate
    from tuner.study.problem import ConfirmPlan
    from tuner.trial.spec import Deadlines

    space = open_space(space_name)
    objective = space.spec.objective
    bound = objective.model_copy(update={"subject_to": objective.subject_to.model_copy(update={"ttft_p95_s": limit_s})})
    space = replace(space, spec=space.spec.model_copy(update={"objective": bound}))
    made = problem_of(
        evaluate(space), name="external", where=Where(simulated=False), trials=trials, deadlines=Deadlines()
    )
    budget = replace(made.budget, wall_s=None, gpu_hours=None, usd=None)
    problem = replace(made, confirm=ConfirmPlan(top=0), budget=budget)
    costs = {}
    for config in [*(candidate.config for candidate in problem.candidates), *(config for _, config in problem.seeds)]:
        rate, _ = capacity(config.as_json(), limit_s)
        costs[config.fingerprint] = config.layout.gpus / rate if rate > 0 else math.inf
    return problem, costs


def picked(problem, costs: dict[str, float], seed: int, method: str) -> list[float]:
    """The true cost of the cheapest measured so far, after every trial."""
    import tempfile

    from tuner.runtime.external import ExternalRuntime
    from tuner.study.search import search
    from tuner.study.storage import open_storage
    from tuner.study.summary import summarize

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        runtime = ExternalRuntime([sys.executable, "-I", "-S", __file__, "answer"], timeout_s=60.0, parallel=1)
        search(problem, url, runtime, sampler=method, seed=seed, poll_s=0.2)  # type: ignore[arg-type]
        storage = open_storage(url)
        summary = summarize(storage, problem.name)
        storage.close()
    cheapest, chosen, series = math.inf, math.inf, []
    for figures in summary.trials_in_order:
        cost = figures.usd_per_million_output_tokens
        if figures.state == "measured" and cost is not None and cost < cheapest:
            cheapest, chosen = cost, costs[figures.fingerprint]
        series.append(chosen)
    return series


if __name__ == "__main__":
    answer() if sys.argv[1:] == ["answer"] else main()
