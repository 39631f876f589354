"""The traffic to tune for and the limits to hold, as values that cross every stage.

Knows nothing of files or engines. Standard library only, Python 3.10: the runner reads it inside a serving image.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of a prompt or an answer: fixed, uniform in [low, high], or log-normal clipped to [low, high].

    For `lognormal`, `median_tokens` and `sigma` (standard deviation of the logarithm) shape it.
    """

    kind: Literal["fixed", "uniform", "lognormal"]
    low: int
    high: int
    median_tokens: float = 0.0
    sigma: float = 0.0

    @classmethod
    def fixed(cls, tokens: int) -> Length:
        return cls("fixed", tokens, tokens)

    @property
    def mean_tokens(self) -> float:
        """Expected tokens; for `lognormal` of the clipped distribution."""
        if self.kind == "fixed":
            return float(self.low)
        if self.kind == "uniform":
            return (self.low + self.high) / 2
        return _clipped_lognormal_mean(self.median_tokens, self.sigma, self.low, self.high)

    def draw(self, rng: random.Random) -> int:
        """One length in tokens."""
        if self.kind == "fixed":
            return self.low
        if self.kind == "uniform":
            return rng.randint(self.low, self.high)
        drawn = self.median_tokens * math.exp(self.sigma * rng.gauss(0.0, 1.0))
        return min(self.high, max(self.low, round(drawn)))


def _clipped_lognormal_mean(median: float, sigma: float, low: int, high: int) -> float:
    """Mean of min(high, max(low, X)) for log-normal X, in closed form (integral of the survival function)."""
    mu = math.log(median)

    def cdf(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2.0))

    a, b = (math.log(low) - mu) / sigma, (math.log(high) - mu) / sigma
    middle = math.exp(mu + sigma * sigma / 2) * (cdf(b - sigma) - cdf(a - sigma))
    return low * cdf(a) + middle + high * (1 - cdf(b))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn; drafts are accepted more or less often with it, so it is part of the traffic."""

    temperature: float = 1.0
    top_p: float = 0.95
    ignore_eos: bool = True
    thinking: bool = True


@dataclass(frozen=True, slots=True)
class Workload:
    """The traffic one deployment has to serve.

    `cached_fraction` of every prompt is a prefix shared within one of `prefix_groups` groups. `prompts` is `builtin`
    (a natural-language corpus that ships with the runner).
    """

    input_tokens: Length
    output_tokens: Length
    cached_fraction: float = 0.0
    prefix_groups: int = 32
    arrivals: Literal["poisson", "constant"] = "poisson"
    endpoint: Literal["chat", "completions"] = "chat"
    sampling: Sampling = field(default_factory=Sampling)
    prompts: str = "builtin"

    @property
    def max_context_tokens(self) -> int:
        """Longest prompt plus longest answer, in tokens."""
        return self.input_tokens.high + self.output_tokens.high

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Workload:
        fields = dict(doc)
        fields["input_tokens"] = Length(**fields["input_tokens"])
        fields["output_tokens"] = Length(**fields["output_tokens"])
        fields["sampling"] = Sampling(**fields["sampling"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rate must hold to count. Times from the *scheduled* send; `None` is not limited.

    `error_rate` is a fraction of all requests of the trial.
    """

    ttft_p95_s: float | None = None
    tpot_p95_ms: float | None = None
    e2e_p95_s: float | None = None
    error_rate: float = 0.005

    def as_json(self) -> dict[str, float]:
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Limits:
        return cls(**doc)
