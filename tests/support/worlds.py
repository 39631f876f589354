"""Synthetic worlds for judging a search: a space of a few thousand points, a model of it, and a truth that differs.

A world's truth is the same arithmetic as the model's with other coefficients, times hidden effects: a factor per level,
interactions of pairs, two cliffs, memory that is off, two combinations that crash, limits missed. Measurements carry
3 % noise, and 2 % of all starts crash for no reason. Nothing here is a real accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations, product

import numpy as np

from tuner.space.config import Choice, Layout, ServingConfig
from tuner.space.workload import Length, Limits, Workload
from tuner.study.problem import Budget, Candidate, ConfirmPlan, Problem
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import Confirm, TrialSpec

LAYOUTS = (
    Layout(4),
    Layout(8),
    Layout(8, ep=8),
    Layout(8, attn_dp=2),
    Layout(8, attn_dp=8),
    Layout(8, attn_dp=8, ep=8),
    Layout(4, dp=2),
    Layout(4, dp=2, ep=4),
)
WEIGHTS = {"fp8": 1.0, "fp4": 0.56, "w4a8": 0.6}
KV = {"bf16": 1.0, "fp8": 0.5}
SPECULATION = {
    Choice("off"): (0, 1.0),
    Choice("ngram"): (1, 1.25),
    Choice("mtp", (("steps", 1),)): (1, 1.7),
    Choice("mtp", (("steps", 2),)): (2, 2.1),
    Choice("mtp", (("steps", 3),)): (3, 2.4),
    Choice("mtp", (("steps", 5),)): (5, 2.6),
}
RUNNING, CHUNKS, FRACTIONS = (32, 64, 128, 256), (8192, 32768), (0.82, 0.9)
DIMENSIONS = ("layout", "weights", "kv-dtype", "speculation", "max-running", "chunk", "fraction")
LEVEL_SD = (0.11, 0.09, 0.06, 0.08, 0.04, 0.04, 0.02)
PAIRS, PAIR_SD = 7, 0.10
CLIFFS, CLIFF_FACTOR = 2, (1.5, 2.5)
COEFFICIENT_SD, ACCEPTANCE_SD, MEMORY_SD_GIB = 0.15, 0.1, 2.5
NOISE_SD, FLAKES, SATURATION_SD = 0.03, 0.02, 0.08
SHOWN_AFTER = 0.77
"""Share of a trial after which its saturated throughput is known: 0.72 to 0.80 of the nine measured trials of `tuner
search --space amd-mi355x.yaml --runtime simulated --trials 24`. Loading takes half of the time."""
HBM_GIB, USD_PER_GPU_HOUR, GUARD = 192.0, 2.1, 0.05
LIMITS = Limits(ttft_p95_s=5.0)

Quality = str  # good, weak or misleading


@dataclass(frozen=True)
class Coefficients:
    """What the arithmetic needs beyond the configuration; a truth multiplies the model's own."""

    bandwidth: float = 4.0
    compute: float = 1.0
    link: float = 1.0
    overhead: float = 1.0
    kv: float = 1.0
    prefill: float = 1.0
    narrow: float = 1.0
    acceptance: float = 0.0


@dataclass(frozen=True)
class Traffic:
    """Tokens in and out of one request."""

    input_tokens: float
    output_tokens: float
    limit_scale: float


@lru_cache(maxsize=1)
def grid() -> tuple[ServingConfig, ...]:
    """Every combination, whether it fits or not."""
    return tuple(
        ServingConfig(
            "lab",
            layout,
            (
                ("chunk", chunk),
                ("fraction", fraction),
                ("kv-dtype", Choice(kv)),
                ("max-running", running),
                ("speculation", speculation),
                ("weights", Choice(weights)),
            ),
        )
        for layout, weights, kv, speculation, running, chunk, fraction in product(
            LAYOUTS, WEIGHTS, KV, SPECULATION, RUNNING, CHUNKS, FRACTIONS
        )
    )


@lru_cache(maxsize=1)
def levels() -> np.ndarray:
    """Level codes of the grid, one column per dimension."""
    shape = [range(len(d)) for d in (LAYOUTS, WEIGHTS, KV, SPECULATION, RUNNING, CHUNKS, FRACTIONS)]
    return np.array(list(product(*shape)))


@lru_cache(maxsize=1)
def _columns() -> dict[str, np.ndarray]:
    code = levels()
    layouts = np.array([(x.tp, x.dp, x.attn_dp, x.ep) for x in LAYOUTS], dtype=float)[code[:, 0]]
    spec = np.array(list(SPECULATION.values()), dtype=float)[code[:, 3]]
    return {
        "tp": layouts[:, 0],
        "dp": layouts[:, 1],
        "attn_dp": layouts[:, 2],
        "ep": layouts[:, 3],
        "weights": np.array(list(WEIGHTS.values()))[code[:, 1]],
        "narrow": (code[:, 1] > 0).astype(float),
        "kv": np.array(list(KV.values()))[code[:, 2]],
        "steps": spec[:, 0],
        "accepted": spec[:, 1],
        "running": np.array(RUNNING, dtype=float)[code[:, 4]],
        "chunk": np.array(CHUNKS, dtype=float)[code[:, 5]],
        "fraction": np.array(FRACTIONS)[code[:, 6]],
    }


def rate_and_ttft(c: Coefficients, traffic: Traffic) -> tuple[np.ndarray, np.ndarray]:
    """Capacity in req/s and TTFT in seconds of every point of the grid: a crude roofline."""
    x = _columns()
    batch = x["running"] / x["dp"]
    read = 671 * x["weights"] * np.minimum(1.0, 0.06 + batch * (1 + x["steps"]) / 90) / x["tp"] / c.bandwidth
    read *= np.where(x["narrow"] > 0, c.narrow, 1.0)
    cache = batch * (traffic.input_tokens + traffic.output_tokens / 2) * 7e-5 * x["kv"] * c.kv
    cache /= x["attn_dp"] * c.bandwidth
    link = c.link * (2.0 * np.log2(x["tp"]) + 2.5 * (x["ep"] > 1) - 1.5 * (x["ep"] > 1) * (batch > 48))
    maths = batch * (1 + x["steps"]) * 0.05 * c.compute * np.where(x["attn_dp"] > 1, 0.9, 1.0) * 8 / x["tp"]
    step_ms = read + cache + link + maths + c.overhead * (6 + 1.2 * x["steps"])
    accepted = np.maximum(1.0, x["accepted"] + c.acceptance * (x["steps"] > 0))
    prefill_s = c.prefill * traffic.input_tokens * 3.2e-5 * 8 / x["tp"] * (1 + 2000 / x["chunk"])
    prefill_s *= np.where(x["attn_dp"] > 1, 0.85, 1.0) * np.where(x["narrow"] > 0, 0.5 + 0.5 * c.narrow, 1.0)
    busy_s = traffic.output_tokens * step_ms * 1e-3 / (batch * accepted) + prefill_s
    ttft_s = prefill_s * (2 + x["attn_dp"] * 0.6) + x["chunk"] / 32768 * 0.8 + step_ms * 0.02
    return x["dp"] / busy_s, ttft_s


def margins() -> np.ndarray:
    """GiB per GPU the model expects to be left over."""
    x = _columns()
    needed = 671 * x["weights"] / x["tp"] + 4 * x["chunk"] / 8192 + 3 * x["steps"]
    needed += 0.35 * x["running"] / (x["dp"] * x["attn_dp"]) * x["kv"]
    return x["fraction"] * HBM_GIB - needed - 12


def gpus() -> np.ndarray:
    """Accelerators of every point of the grid."""
    return _columns()["tp"] * _columns()["dp"]


@dataclass
class World:
    """One hidden truth. Everything follows from the seed."""

    seed: int
    quality: Quality
    problem_name: str = "world"
    _draws: dict[tuple[str, int], int] = field(default_factory=dict)

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([20_26, self.seed])

    @cached_property
    def valid(self) -> np.ndarray:
        """Points the memory model does not exclude, and that can meet the limit as far as the model knows."""
        return np.flatnonzero(margins() > -1.0)

    @cached_property
    def _hidden(self) -> dict[str, np.ndarray]:
        rng, code = self.rng, levels()
        traffic = Traffic(10 ** rng.uniform(3.0, 4.0), 10 ** rng.uniform(2.3, 3.3), rng.uniform(1.3, 2.6))
        shift = np.exp(rng.normal(0, COEFFICIENT_SD, 7))
        truth = Coefficients(
            4.0 * shift[0], *(float(s) for s in shift[1:6]), float(shift[6]) * 1.25, rng.normal(0, ACCEPTANCE_SD)
        )
        modelled, modelled_ttft = rate_and_ttft(Coefficients(), traffic)
        rate, ttft = rate_and_ttft(truth, traffic)
        effect = self._effects(rng, code)
        rate = rate / np.exp(effect)
        ttft = ttft * np.exp(0.5 * effect)
        limit = float(np.median(modelled_ttft[self.valid])) * traffic.limit_scale
        spare = margins() + rng.normal(0, MEMORY_SD_GIB) + rng.normal(0, 1.5, len(LAYOUTS))[code[:, 0]]
        return {
            "modelled": modelled,
            "rate": rate,
            "serves": ttft < limit,
            "slack": np.log(limit / modelled_ttft),
            "starts": (spare > 0) & ~self._crashes(rng, code),
        }

    def _effects(self, rng: np.random.Generator, code: np.ndarray) -> np.ndarray:
        """Hidden log factors of time: per level, per pair of levels, and cliffs."""
        shapes = [int(code[:, d].max()) + 1 for d in range(code.shape[1])]
        total = np.zeros(len(code))
        for d, sd in enumerate(LEVEL_SD):
            total += rng.normal(0, sd, shapes[d])[code[:, d]]
        pairs = list(combinations(range(len(shapes)), 2))
        for k in rng.choice(len(pairs), PAIRS, replace=False):
            a, b = pairs[k]
            total += rng.normal(0, PAIR_SD, (shapes[a], shapes[b]))[code[:, a], code[:, b]]
        for _ in range(CLIFFS):
            number, condition = int(rng.integers(4, 7)), int(rng.integers(0, 4))
            beyond = code[:, number] >= int(rng.integers(1, shapes[number]))
            there = code[:, condition] == int(rng.integers(shapes[condition]))
            total += math.log(rng.uniform(*CLIFF_FACTOR)) * (beyond & there)
        return total

    @staticmethod
    def _crashes(rng: np.random.Generator, code: np.ndarray) -> np.ndarray:
        """Two pairs of choices that do not go together."""
        bad = np.zeros(len(code), dtype=bool)
        for _ in range(2):
            a, b = sorted(rng.choice(4, 2, replace=False))
            bad |= (code[:, a] == rng.integers(code[:, a].max() + 1)) & (
                code[:, b] == rng.integers(code[:, b].max() + 1)
            )
        return bad

    @cached_property
    def cost(self) -> np.ndarray:
        """True cost of every point of the grid at its true guarded capacity; inf where it does not work."""
        works = self._hidden["starts"] & self._hidden["serves"]
        cost = gpus() / self._hidden["rate"]
        return np.where(works, cost, np.inf)

    @cached_property
    def best(self) -> float:
        return float(self.cost[self.valid].min())

    @cached_property
    def predicted(self) -> np.ndarray:
        """What the model says each point costs: near the truth, uncalibrated, or upside down."""
        nominal = np.log(gpus() / self._hidden["modelled"])
        truth = np.log(gpus() / self._hidden["rate"])
        if self.quality == "good":
            return np.exp(nominal + 0.4 * (truth - nominal))
        if self.quality == "weak":
            return np.exp(nominal)
        if self.quality == "flat":
            return np.full(len(nominal), float(np.exp(nominal.mean())))
        upside = np.random.default_rng([self.seed, 1]).normal(0, 0.5 * nominal.std(), len(nominal))
        return np.exp(2 * nominal.mean() - nominal + upside)

    @cached_property
    def index(self) -> dict[str, int]:
        return {grid()[i].fingerprint: int(i) for i in self.valid}

    def problem(self, trials: int, confirm: int) -> Problem:
        """The search problem an operator would see."""
        configs, margin = grid(), margins()
        candidates = [
            Candidate(
                configs[i],
                USD_PER_GPU_HOUR * self.predicted[i] / 3.6,
                gpus()[i] / self.predicted[i],
                float(margin[i]),
                float(self._hidden["slack"][i]),
            )
            for i in self.valid
        ]
        dimensions = {
            "pool": ("lab",),
            "layout": tuple(x.label for x in LAYOUTS),
            "weights": tuple(WEIGHTS),
            "kv-dtype": tuple(KV),
            "speculation": tuple(x.label for x in SPECULATION),
            "max-running": RUNNING,
            "chunk": CHUNKS,
            "fraction": FRACTIONS,
        }
        return Problem(
            name=self.problem_name,
            identity={"world": self.seed, "quality": self.quality},
            candidates=candidates,
            seeds=[],
            dimensions=dimensions,
            workload=Workload(Length.fixed(4000), Length.fixed(1000)),
            limits=LIMITS,
            guard=GUARD,
            make_spec=self.make_spec,
            budget=Budget(trials=trials),
            confirm=ConfirmPlan(top=confirm, repeats=2, minutes=10),
        )

    def make_spec(
        self,
        config: ServingConfig,
        trial_id: str,
        attempt: int,
        seed: int,
        incumbent: float | None,
        confirm: Confirm | None,
    ) -> TrialSpec:
        return TrialSpec(
            id=trial_id,
            study=self.problem_name,
            config=config.as_json(),
            fingerprint=config.fingerprint,
            argv=("engine",),
            env={},
            gpus=config.layout.gpus,
            usd_per_hour=USD_PER_GPU_HOUR * config.layout.gpus,
            workload=Workload(Length.fixed(4000), Length.fixed(1000)),
            limits=LIMITS,
            guard=GUARD,
            incumbent_req_per_s=incumbent,
            seed=seed,
            simulated=True,
            attempt=attempt,
            pool=config.pool,
            confirm=confirm,
        )

    def run(self, spec: TrialSpec) -> TrialResult:
        """One trial of this world: the script of a fake runtime. The same spec has the same result."""
        i = self.index[spec.fingerprint]
        rng = np.random.default_rng([self.seed, spec.seed, spec.attempt, spec.confirm is not None])
        noise, saturation, flake = rng.normal(0, NOISE_SD), abs(rng.normal(0, SATURATION_SD)), rng.random() < FLAKES
        if not self._hidden["starts"][i]:
            return _crash(spec, "oom_kv", recognised=True)
        if flake:
            return _crash(spec, "crash", recognised=False)
        rate = float(self._hidden["rate"][i])
        if spec.confirm is not None:
            return self._confirm(spec, rate * math.exp(noise / 3))
        if not self._hidden["serves"][i]:
            return TrialResult(spec.id, "infeasible", ttft_p95_s=6.5, bound_req_per_s=rate, gpu_seconds=600.0)
        bound = rate * math.exp(saturation)
        if spec.incumbent_req_per_s is not None and bound < spec.incumbent_req_per_s:
            return TrialResult(spec.id, "pruned", ttft_p95_s=4.0, bound_req_per_s=bound, gpu_seconds=600.0)
        return _measured(spec, rate * math.exp(noise), saturation=bound)

    @staticmethod
    def _confirm(spec: TrialSpec, rate: float) -> TrialResult:
        assert spec.confirm is not None
        if spec.confirm.rate_req_per_s > rate:
            return TrialResult(spec.id, "infeasible", ttft_p95_s=6.0, bound_req_per_s=rate, gpu_seconds=600.0)
        return _measured(spec, spec.confirm.rate_req_per_s)

    def holds(self, fingerprint: str, rate_req_per_s: float) -> bool:
        """Whether a configuration truly serves a rate within the limits."""
        i = self.index[fingerprint]
        return bool(np.isfinite(self.cost[i]) and rate_req_per_s <= self._hidden["rate"][i])

    def regret(self, fingerprints: Sequence[str]) -> float:
        """Of the configuration picked last, relative to the best of the world."""
        return float(self.cost[self.index[fingerprints[-1]]] / self.best - 1) if fingerprints else math.inf

    def describe(self) -> dict[str, float]:
        """How far off the model is, and how much of the space works."""
        works = self.valid[np.isfinite(self.cost[self.valid])]
        error = np.log(self.predicted[works] / self.cost[works])
        ranks = [np.argsort(np.argsort(v)) for v in (self.predicted[works], self.cost[works])]
        return {
            "valid": float(len(self.valid)),
            "works": len(works) / len(self.valid),
            "rank_correlation": float(np.corrcoef(*ranks)[0, 1]) if error.std() else 0.0,
            "log_error_sd": float(error.std()),
            "median_over_best": float(np.median(self.cost[works]) / self.best),
            "within_5_percent": float((self.cost[works] < 1.05 * self.best).sum()),
        }


def _measured(spec: TrialSpec, rate: float, saturation: float | None = None) -> TrialResult:
    return TrialResult(
        spec.id,
        "measured",
        capacity_req_per_s=rate,
        saturation_req_per_s=saturation,
        ttft_p95_s=4.5,
        output_tokens_per_s=1000 * rate,
        start_up_s=300.0,
        gpu_seconds=1200.0 * spec.gpus,
        node="lab-1",
        simulated=True,
    )


def _crash(spec: TrialSpec, kind: str, *, recognised: bool) -> TrialResult:
    failure = Failure("configuration", kind, "the engine ended before it was ready", recognised=recognised)
    return TrialResult(spec.id, "failed", failure=failure, gpu_seconds=300.0 * spec.gpus, node="lab-1", simulated=True)


def shown(spec: TrialSpec, result: TrialResult, elapsed_s: float) -> float | None:
    """What a running trial has shown of its capacity by now: the saturated throughput, once it is known."""
    return result.saturation_req_per_s if elapsed_s >= SHOWN_AFTER * duration_s(spec) else None


def duration_s(spec: TrialSpec) -> float:
    """15 to 30 virtual minutes."""
    return 900.0 + 900.0 * ((spec.seed % 997) / 997)
