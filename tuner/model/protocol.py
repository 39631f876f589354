"""What the simulator needs to know of a machine: the seam between the physics and the scheduler that runs on it."""

from __future__ import annotations

from typing import Protocol


class StepTimes(Protocol):
    """Durations of the two kinds of engine step of one replica (its `tp` GPUs, all its attention-DP ranks in step)."""

    tokens_per_verify: float
    """Mean tokens a running request gains per decode step: 1 without speculation, the acceptance length with it."""

    request_overhead_s: float
    """Tokenizing, scheduling and HTTP per request, added to its TTFT; takes no engine time."""

    def prefill_s(self, new_tokens: float, context_tokens: float, total_tokens: float = 0) -> float:
        """Seconds of a prefill step over `new_tokens` uncached tokens whose mean attended context is given.

        `new_tokens` are those of one attention-DP rank, `total_tokens` those of all ranks where they are more.
        """

    def decode_s(self, batch: float, context_tokens: float) -> float:
        """Seconds of a decode (verify) step for `batch` running requests of the busiest rank, mean context given."""
