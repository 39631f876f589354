"""Hidden, seeded deviations from the engine model, so that what orders the search is not what is searched.

World 0 is the model itself. In every other world layouts, precisions and the rest are faster or slower than predicted,
some pairs interact, two cliffs wait, speculation is accepted more or less often, memory needs differ by some GiB, one
or two combinations crash, and one start in 16 lands on a slow node. Everything follows from hashes of (seed, factor,
level): no state, the same everywhere. Knows no flags and no clock; the sizes of the deviations are chosen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Literal, TypeVar

from tuner.model.catalogue import GIB
from tuner.model.memory import MemoryPlan
from tuner.model.protocol import StepTimes
from tuner.model.settings import EngineSettings
from tuner.model.steps import Coefficients, RooflineSteps

CrashKind = Literal["oom_weights", "oom_kv", "oom_runtime", "crash_first_request", "hang"]
Phase = Literal["prefill", "decode"]

# Standard deviations of the logarithm of a factor's multiplier: of each level for choices ...
LEVEL_SIGMA = {"layout": 0.11, "precision": 0.09, "speculation": 0.08}
# ... and of the slope per doubling (mem_fraction: per 0.05) for numbers, which act smoothly.
SLOPE_SIGMA = {"chunk": 0.03, "max_running": 0.025, "mem_fraction": 0.015}
INTERACTION_SIGMA = 0.08
INTERACTIONS = 5
CLIFFS = 2
CLIFF_FACTOR = (1.5, 2.5)
ACCEPTANCE_SHIFT_TOKENS = (0.1, 0.3)
MEMORY_SHIFT_SIGMA_GIB = 2.5
MEMORY_SHIFT_LIMIT_GIB = 6.0
SLOW_NODE_SHARE = 1 / 16
SLOW_NODE_FACTOR = (1.1, 1.3)

_REFERENCE = {"chunk": 16384.0, "max_running": 128.0}
_DEFAULT_MAX_RUNNING = 2048

T = TypeVar("T")
Predicate = Callable[[EngineSettings], bool]

# What a cliff or a crash may be tied to. None holds everywhere, so no world is without a working configuration.
_CONDITIONS: dict[str, Predicate] = {
    "speculation": lambda s: s.speculation_steps > 0,
    "no-speculation": lambda s: s.speculation_steps == 0,
    "deep-speculation": lambda s: s.speculation_steps >= 3,
    "replicas": lambda s: s.dp > 1,
    "attention-dp": lambda s: s.attn_dp > 1,
    "expert-parallel": lambda s: s.ep > 1,
    "wide": lambda s: s.tp >= 8,
    "fp4": lambda s: s.precision in ("mxfp4", "nvfp4"),
    "fp8": lambda s: s.precision == "fp8",
}
_THRESHOLDS: dict[str, tuple[float, ...]] = {
    "chunk": (12288, 24576, 49152),
    "max_running": (48, 112, 160),
    "mem_fraction": (0.81, 0.83, 0.85),
}
_CRASHES: dict[str, Predicate] = {
    "attention-dp+deep-speculation": lambda s: s.attn_dp > 1 and s.speculation_steps >= 3,
    "expert-parallel+replicas": lambda s: s.ep > 1 and s.dp > 1,
    "expert-parallel+fp8": lambda s: s.ep > 1 and s.precision == "fp8",
    "attention-dp+fp4": lambda s: s.attn_dp > 1 and s.precision in ("mxfp4", "nvfp4"),
    "large-chunk+attention-dp": lambda s: s.attn_dp > 1 and s.chunked_prefill_tokens * s.attn_dp >= 65536,
    "many-running+deep-speculation": lambda s: (
        s.speculation_steps >= 5 and (s.max_running_requests or _DEFAULT_MAX_RUNNING) >= 192
    ),
}
_CRASH_KINDS: tuple[CrashKind, ...] = ("crash_first_request", "hang")


@dataclass(frozen=True, slots=True)
class Cliff:
    """Steps of one phase take `factor` times as long on one side of a threshold, where a condition holds."""

    phase: Phase
    number: str
    threshold: float
    above: bool
    condition: str
    factor: float

    def hits(self, settings: EngineSettings) -> bool:
        return (_numbers(settings)[self.number] > self.threshold) == self.above and _CONDITIONS[self.condition](
            settings
        )


def _levels(settings: EngineSettings) -> dict[str, str]:
    return {
        "layout": f"tp{settings.tp}-dp{settings.dp}-adp{settings.attn_dp}-ep{settings.ep}",
        "precision": settings.precision,
        "speculation": str(settings.speculation_steps),
    }


def _numbers(settings: EngineSettings) -> dict[str, float]:
    chunk = settings.chunked_prefill_tokens * settings.attn_dp
    return {
        "chunk": float(chunk) if chunk > 0 else float(settings.max_prefill_tokens),
        "max_running": float(settings.max_running_requests or _DEFAULT_MAX_RUNNING),
        "mem_fraction": settings.mem_fraction,
    }


def _doublings(name: str, value: float) -> float:
    return (value - 0.83) / 0.05 if name == "mem_fraction" else math.log2(value / _REFERENCE[name])


@dataclass(frozen=True)
class World:
    """One hidden world. `seed` 0 has no deviations at all."""

    seed: int

    def factor(self, phase: Phase, settings: EngineSettings) -> float:
        """Multiplier on the model's step time of a phase."""
        if self.seed == 0:
            return 1.0
        levels, numbers = _levels(settings), _numbers(settings)
        log = sum(sigma * self._normal(phase, name, levels[name]) for name, sigma in LEVEL_SIGMA.items())
        for name, sigma in SLOPE_SIGMA.items():
            log += sigma * self._normal(phase, name, "slope") * _doublings(name, numbers[name])
        coarse = levels | {name: f"{_doublings(name, value):.0f}" for name, value in numbers.items()}
        for index, (one, other) in enumerate(self._interactions):
            log += INTERACTION_SIGMA * self._normal(phase, f"interaction-{index}", coarse[one], coarse[other])
        cliff = math.prod(c.factor for c in self.cliffs if c.phase == phase and c.hits(settings))
        return math.exp(log) * cliff

    @cached_property
    def acceptance_shift_tokens(self) -> float:
        """Tokens per verify step gained or lost against the model, where speculation is on."""
        if self.seed == 0:
            return 0.0
        low, high = ACCEPTANCE_SHIFT_TOKENS
        size = low + (high - low) * self._uniform("acceptance", "size")
        return size if self._uniform("acceptance", "sign") < 0.5 else -size

    @cached_property
    def memory_shift_gib(self) -> float:
        """GiB per GPU that the engine needs at run time beyond the plan (negative: it needs less)."""
        if self.seed == 0:
            return 0.0
        shift = MEMORY_SHIFT_SIGMA_GIB * self._normal("memory", "shift")
        return max(-MEMORY_SHIFT_LIMIT_GIB, min(MEMORY_SHIFT_LIMIT_GIB, shift))

    @cached_property
    def cliffs(self) -> tuple[Cliff, ...]:
        return () if self.seed == 0 else tuple(self._cliff(index) for index in range(CLIFFS))

    @cached_property
    def incompatible(self) -> dict[str, CrashKind]:
        """The combinations that do not work in this world, and how they fail."""
        if self.seed == 0:
            return {}
        ranked = sorted(_CRASHES, key=lambda name: self._uniform("crash", name))
        count = 1 + (self._uniform("crash", "count") < 0.5)
        return {name: self._pick(_CRASH_KINDS, "crash-kind", name) for name in ranked[:count]}

    def memory_fate(self, plan: MemoryPlan) -> CrashKind | None:
        """Whether memory runs out, given what this world needs beyond the plan, and of what."""
        after_weights_gib = (plan.acc.hbm_bytes - plan.runtime_bytes - plan.weights_bytes) / GIB
        if after_weights_gib - max(0.0, self.memory_shift_gib) < 0:
            return "oom_weights"
        if plan.kv_capacity_tokens < 2:
            return "oom_kv"
        return "oom_runtime" if plan.dynamic_margin_gib - self.memory_shift_gib < 0 else None

    def incompatibility(self, settings: EngineSettings) -> CrashKind | None:
        """How this world's incompatible combinations fail; None: this is none of them."""
        return next((kind for name, kind in self.incompatible.items() if _CRASHES[name](settings)), None)

    def node_factor(self, start: str) -> float:
        """Multiplier on all step times of the node that this start of an engine lands on; most nodes are sound."""
        if self.seed == 0 or not start or self._uniform("node", start) >= SLOW_NODE_SHARE:
            return 1.0
        low, high = SLOW_NODE_FACTOR
        return low + (high - low) * self._uniform("node", start, "factor")

    # --- hashing

    @cached_property
    def _interactions(self) -> tuple[tuple[str, str], ...]:
        names = [*LEVEL_SIGMA, *SLOPE_SIGMA]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        return tuple(sorted(pairs, key=lambda pair: self._uniform("interaction", *pair))[:INTERACTIONS])

    def _cliff(self, index: int) -> Cliff:
        key = f"cliff-{index}"
        number = self._pick(tuple(_THRESHOLDS), key, "number")
        low, high = CLIFF_FACTOR
        phases: tuple[Phase, ...] = ("prefill", "decode")
        return Cliff(
            phase=self._pick(phases, key, "phase"),
            number=number,
            threshold=self._pick(_THRESHOLDS[number], key, "threshold"),
            above=self._uniform(key, "above") < 0.5,
            condition=self._pick(tuple(_CONDITIONS), key, "condition"),
            factor=low + (high - low) * self._uniform(key, "factor"),
        )

    def _uniform(self, *key: str) -> float:
        """A number in (0, 1) that depends on the seed and the key alone."""
        digest = hashlib.sha256("\x1f".join((str(self.seed), *key)).encode()).digest()
        return (int.from_bytes(digest[:8], "big") + 0.5) / 2.0**64

    def _normal(self, *key: str) -> float:
        return NormalDist().inv_cdf(self._uniform(*key))

    def _pick(self, options: tuple[T, ...], *key: str) -> T:
        return options[int(self._uniform(*key) * len(options))]


class DistortedSteps:
    """The model's step times as this world has them."""

    def __init__(self, steps: StepTimes, world: World, settings: EngineSettings, start: str = "") -> None:
        """`start` names one start of the engine: it may land on a slow node."""
        self._steps = steps
        node = world.node_factor(start)
        self._prefill = world.factor("prefill", settings) * node
        self._decode = world.factor("decode", settings) * node
        shift = world.acceptance_shift_tokens if settings.speculation_steps else 0.0
        self.tokens_per_verify = max(1.0, steps.tokens_per_verify + shift)
        self.request_overhead_s = steps.request_overhead_s

    def prefill_s(self, new_tokens: float, context_tokens: float, total_tokens: float = 0) -> float:
        return self._steps.prefill_s(new_tokens, context_tokens, total_tokens) * self._prefill

    def decode_s(self, batch: float, context_tokens: float) -> float:
        return self._steps.decode_s(batch, context_tokens) * self._decode

    @property
    def coefficients(self) -> Coefficients:
        """The roofline's constants with this world's factors in them."""
        assert isinstance(self._steps, RooflineSteps)
        return self._steps.coefficients.distorted(self._prefill, self._decode, self.tokens_per_verify)
