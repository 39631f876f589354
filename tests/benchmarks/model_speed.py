"""How fast the engine model is: predictions per second, and simulated requests per second.

    python tests/benchmarks/model_speed.py

Bars: 10,000 configurations in 1 s on one core; 400 requests of 20k/1k on an 8-GPU node in 0.5 s, growing linearly.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace

from tuner.launch.spaces import open_space
from tuner.model.capacity import predict_many
from tuner.model.catalogue import accelerator, architecture
from tuner.model.memory import plan_memory
from tuner.model.settings import EngineSettings
from tuner.model.standard import standard_settings
from tuner.model.steps import RooflineSteps
from tuner.probe.plan import RequestStream
from tuner.runtime.steady import Load, SteadyLoad
from tuner.runtime.virtual import VirtualLoad
from tuner.simulator.engine import Engine
from tuner.space.workload import Length, Limits, Workload
from tuner.study.points import evaluate

CONFIGURATIONS = 10_000
REQUESTS = 400
TRAFFIC = Workload(Length.fixed(20_000), Length.fixed(1000), cached_fraction=0.6, prefix_groups=32)
REPEATS = 3


def main() -> None:
    """Print the figures; exit 1 when a bar is missed."""
    predicted_s = min(_predicting(run) for run in range(REPEATS))
    print(f"closed form: {CONFIGURATIONS:,} configurations in {predicted_s:.2f} s")
    started = time.perf_counter()
    points = evaluate(open_space("amd-mi355x.yaml"))
    lasted_s = time.perf_counter() - started
    print(f"evaluate(amd-mi355x): {points.total:,} points, {len(points.valid):,} valid, {lasted_s:.2f} s")
    times = {}
    for factor in (1, 4, 16):
        times[factor] = min(_simulating(REQUESTS * factor) for _ in range(REPEATS))
        print(
            f"simulator: {REQUESTS * factor:,} requests of 20k/1k in {times[factor]:.3f} s"
            f" ({times[factor] / times[1] / factor:.2f} of linear)"
        )
    sys.exit(0 if predicted_s <= 1.0 and times[1] <= 0.5 and times[16] <= 1.5 * 16 * times[1] else 1)


def _predicting(run: int) -> float:
    """Seconds for configurations that all differ; every run others, so that no cache helps."""
    arch, acc = architecture("glm-5.2"), accelerator("mi355x")
    grid = itertools.product(
        [
            (4, 2, 1, 1),
            (4, 2, 1, 4),
            (8, 1, 1, 1),
            (8, 1, 1, 8),
            (8, 1, 2, 1),
            (8, 1, 4, 8),
            (8, 1, 8, 8),
            (2, 4, 1, 1),
        ],
        ["mxfp4", "fp8"],
        range(6),
        [8192, 16_384, 32_768, 65_536],
        [0.78, 0.80, 0.82, 0.84, 0.86, 0.88],
        range(32, 289, 48),
    )
    settings = [
        EngineSettings(
            tp=tp,
            dp=dp,
            attn_dp=attn_dp,
            ep=ep,
            precision=precision,  # type: ignore[arg-type]  # two of the literals
            kv_dtype="fp8",
            speculation_steps=steps,
            draft_tokens=steps + 1 if steps else 0,
            chunked_prefill_tokens=chunk // attn_dp,
            mem_fraction=share,
            max_running_requests=running + run,
        )
        for (tp, dp, attn_dp, ep), precision, steps, chunk, share, running in itertools.islice(grid, CONFIGURATIONS)
    ]
    assert len(settings) == CONFIGURATIONS
    started = time.perf_counter()
    predict_many(arch, acc, settings, TRAFFIC, Limits(ttft_p95_s=5.0))
    return time.perf_counter() - started


def _simulating(requests: int) -> float:
    """Seconds of an open loop at 2 req/s on TP4 x DP2, MXFP4 with three drafts."""
    arch, acc = architecture("glm-5.2"), accelerator("mi355x")
    settings = standard_settings(
        arch, acc, precision="mxfp4", tp=4, dp=2, speculation_steps=3, max_context_tokens=21_000
    )
    settings = replace(settings, max_running_requests=128)
    plan = plan_memory(arch, acc, settings, TRAFFIC.max_context_tokens)
    engine = Engine(settings, RooflineSteps(arch, acc, settings), plan.kv_capacity_tokens, seed=0)
    driver = VirtualLoad(engine, RequestStream(TRAFFIC, 0), first_token_s=1e9)
    started = time.perf_counter()
    driver.run(SteadyLoad(Load(rate_req_per_s=2.0), warm=0, judged=requests))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
