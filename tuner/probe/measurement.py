"""What a load probe reports: `Level` per load step, `Measurement` for the trial.

Values and their JSON only. Python 3.10, standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Level:
    """One load level. `rate_req_per_s` is None for a closed loop, `concurrency` is None for an open one.

    `requests` counts those scheduled in the level and decided, `misses` those that broke a latency limit or failed.
    TTFT is from the scheduled send time; p95 is None when more than 5 % failed to produce a token. An `invalid` level
    was spoilt by the load client itself, as `invalid_reason` says: neither fast nor slow.
    `capacity_at_most_req_per_s` is what it and the levels before have shown of the capacity; None: nothing.
    """

    level: int
    kind: Literal["closed", "open"]
    rate_req_per_s: float | None
    concurrency: int | None
    start_s: float
    duration_s: float
    requests: int
    misses: int
    errors: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_p50_ms: float | None
    tpot_p95_ms: float | None
    output_tokens_per_s: float
    verdict: Literal["holds", "misses", "saturates", "undecided", "invalid"]
    invalid_reason: str = ""
    capacity_at_most_req_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures of one trial, at the highest rate that held.

    `capacity_req_per_s` is the lower end of the bracket, `capacity_high_req_per_s` the upper. TTFT is from the
    scheduled send time; `ttft_p95_low_s`/`ttft_p95_high_s` is its 95 % order-statistic interval (high is None when
    the sample is too small to bound it). Cached shares are of input tokens. `samples` counts the requests behind
    the figures.
    """

    capacity_req_per_s: float
    capacity_high_req_per_s: float
    output_tokens_per_s: float
    input_tokens_per_s: float
    cached_tokens_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    ttft_p95_low_s: float | None
    ttft_p95_high_s: float | None
    ttft_from_send_p95_s: float
    tpot_p50_ms: float | None
    tpot_p95_ms: float | None
    e2e_p95_s: float | None
    chunk_gap_p95_ms: float | None
    error_rate: float
    offered_cached_share: float
    achieved_cached_share: float
    samples: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Measurement:
        return cls(**{k: doc[k] for k in cls.__dataclass_fields__})
