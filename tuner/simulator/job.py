"""A request inside the simulated engine, what of its prompt can be cached, and the share of a prefill step it gets.

Values of the scheduler; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from tuner.simulator.cache import Path
from tuner.simulator.events import BLOCK_TOKENS, SimRequest

GROUP_BLOCK_TOKENS = 256
"""Granularity of shared group prefixes: coarser than a page to be cheap, exact where all prefixes are equally long."""


@dataclass(slots=True, eq=False)
class Job:
    """A request inside the engine. `prompt_tokens` grows by what was generated when it is retracted.

    `pace`: tokens it gains per decode step over the mean of all requests; drafts are not accepted equally often.
    """

    request: SimRequest
    visible_s: float
    output_tokens: int
    path: Path
    path_tokens: int
    prompt_tokens: int
    pace: float = 1.0
    generated: int = 0
    cached_tokens: int = -1
    pinned: int = 0
    private: int = 0
    prefill_left: int = 0
    base: float = 0.0
    threshold: float = 0.0
    started: bool = False
    gone: bool = False

    @property
    def remaining(self) -> int:
        return self.output_tokens - self.generated


def path_of(request: SimRequest, *, radix_cache: bool) -> list[tuple[Hashable, int]]:
    """The cacheable beginning of a prompt as chained keys with their sizes."""
    if not radix_cache:
        return []
    if request.blocks:
        return [(block, BLOCK_TOKENS) for block in request.blocks]
    group, tokens = request.prefix_group, request.prefix_tokens
    full, rest = divmod(tokens, GROUP_BLOCK_TOKENS)
    path: list[tuple[Hashable, int]] = [((group, index), GROUP_BLOCK_TOKENS) for index in range(full)]
    return [*path, ((group, full, rest), rest)] if rest else path


@dataclass(slots=True)
class PrefillPlan:
    """One scheduler's share of a prefill step: uncached tokens per request, and their mean attended context."""

    parts: list[tuple[Job, int]] = field(default_factory=list)
    new_tokens: int = 0
    weighted_context: float = 0.0

    def add(self, job: Job, take: int) -> None:
        start = job.prompt_tokens - job.prefill_left
        self.parts.append((job, take))
        self.new_tokens += take
        self.weighted_context += take * (start + take / 2)


@dataclass(slots=True)
class Totals:
    """Counters since the start, in tokens and requests."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    retractions: int = 0
    finished: int = 0
    aborted: int = 0
    rejected: int = 0
