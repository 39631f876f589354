"""The traffic to tune for and the limits to hold, as values that cross every stage.

Knows nothing of files or engines. Standard library only, Python 3.10: the runner reads it inside a serving image.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, pvariance
from typing import Any, Literal

Arrivals = Literal["poisson", "constant", "trace"]

OBSERVED_STEPS = 20
"""Every twentieth of a file's lengths is kept: shape enough for a model, and no request can be told from it."""


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of a prompt or an answer: fixed, uniform in [low, high], log-normal clipped to it, or as observed.

    For `lognormal`, `median_tokens` and `sigma` (standard deviation of the logarithm) shape it. `observed` is what a
    file holds: its mean, its squared coefficient of variation, and quantiles at equal steps from lowest to highest.
    """

    kind: Literal["fixed", "uniform", "lognormal", "observed"]
    low: int
    high: int
    median_tokens: float = 0.0
    sigma: float = 0.0
    observed_mean: float = 0.0
    observed_cv2: float = 0.0
    quantiles: tuple[int, ...] = ()

    @classmethod
    def fixed(cls, tokens: int) -> Length:
        return cls("fixed", tokens, tokens)

    @classmethod
    def observed(cls, lengths: Sequence[int]) -> Length:
        """The distribution of these lengths."""
        ordered, mean = sorted(lengths), fmean(lengths)
        last = len(ordered) - 1
        quantiles = tuple(ordered[round(last * i / OBSERVED_STEPS)] for i in range(OBSERVED_STEPS + 1))
        cv2 = pvariance(lengths, mean) / mean**2
        return cls("observed", ordered[0], ordered[-1], observed_mean=mean, observed_cv2=cv2, quantiles=quantiles)

    @classmethod
    def from_json(cls, doc: Mapping[str, Any] | int) -> Length:
        """A stored length; a whole number, as a specification written by hand may have it, is a fixed one."""
        if isinstance(doc, int):
            return cls.fixed(doc)
        return cls(**{**doc, "quantiles": tuple(doc.get("quantiles") or ())})

    @property
    def mean_tokens(self) -> float:
        """Expected tokens; for `lognormal` of the clipped distribution."""
        if self.kind == "observed":
            return self.observed_mean
        if self.kind == "fixed":
            return float(self.low)
        if self.kind == "uniform":
            return (self.low + self.high) / 2
        return self._clipped_moment(1)

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation."""
        if self.kind == "uniform":
            return (self.high - self.low) ** 2 / 12 / self.mean_tokens**2
        if self.kind == "lognormal":
            return max(0.0, self._clipped_moment(2) / self.mean_tokens**2 - 1)
        return self.observed_cv2

    def _clipped_moment(self, k: int) -> float:
        """Mean of min(high, max(low, X))^k for log-normal X: its density times x^k is another one's, shifted."""
        mu, sigma = math.log(self.median_tokens), self.sigma

        def cdf(z: float) -> float:
            return 0.5 * math.erfc(-z / math.sqrt(2.0))

        a, b = (math.log(self.low) - mu) / sigma, (math.log(self.high) - mu) / sigma
        middle = math.exp(k * mu + (k * sigma) ** 2 / 2) * (cdf(b - k * sigma) - cdf(a - k * sigma))
        return float(self.low) ** k * cdf(a) + middle + float(self.high) ** k * (1 - cdf(b))

    def draw(self, rng: random.Random) -> int:
        """One length in tokens."""
        if self.kind == "fixed":
            return self.low
        if self.kind == "uniform":
            return rng.randint(self.low, self.high)
        if self.kind == "observed":
            step, part = divmod(rng.random() * OBSERVED_STEPS, 1.0)
            low, high = self.quantiles[int(step) : int(step) + 2]
            return round(low + part * (high - low))
        drawn = self.median_tokens * math.exp(self.sigma * rng.gauss(0.0, 1.0))
        return min(self.high, max(self.low, round(drawn)))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn; drafts are accepted more or less often with it, so it is part of the traffic."""

    temperature: float = 1.0
    top_p: float = 0.95
    ignore_eos: bool = True
    thinking: bool = True


@dataclass(frozen=True, slots=True)
class TrafficFile:
    """The user's file of prompts (`file`) or the trace (`trace`) that is replayed: all that is ever stored of it.

    `name` is as the user wrote it, `sha256` that of its content. `requests` are its lines, `block_tokens` the tokens
    one of a trace's hash ids stands for, `gaps_cv2` the squared coefficient of variation of its gaps (None: no times).
    """

    kind: Literal["file", "trace"]
    name: str
    sha256: str
    requests: int
    block_tokens: int = 512
    gaps_cv2: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The traffic one deployment has to serve.

    `cached_fraction` of every prompt is a prefix shared within one of `prefix_groups` groups. `prompts` is `builtin`
    (a natural-language corpus that ships with the runner), or `file` or `trace`: then `traffic` says which, requests
    come from it, and lengths, share and groups are what it amounts to.
    """

    input_tokens: Length
    output_tokens: Length
    cached_fraction: float = 0.0
    prefix_groups: int = 32
    arrivals: Arrivals = "poisson"
    endpoint: Literal["chat", "completions"] = "chat"
    sampling: Sampling = field(default_factory=Sampling)
    prompts: str = "builtin"
    traffic: TrafficFile | None = None

    @property
    def arrivals_cv2(self) -> float:
        """Squared coefficient of variation of the gaps between arrivals: 1 for a Poisson process."""
        if self.arrivals == "trace" and self.traffic is not None and self.traffic.gaps_cv2 is not None:
            return self.traffic.gaps_cv2
        return 0.0 if self.arrivals == "constant" else 1.0

    @property
    def max_context_tokens(self) -> int:
        """Longest prompt plus longest answer, in tokens."""
        return self.input_tokens.high + self.output_tokens.high

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Workload:
        fields = dict(doc)
        fields["input_tokens"] = Length.from_json(fields["input_tokens"])
        fields["output_tokens"] = Length.from_json(fields["output_tokens"])
        fields["traffic"] = TrafficFile(**fields["traffic"]) if fields.get("traffic") else None
        fields["sampling"] = Sampling(**fields.get("sampling") or {})
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
