"""The requests a workload consists of: lengths and prefix group of the i-th one, the same for every configuration.

Every figure of request `i` depends on (seed, i) alone: two configurations of a study see the same traffic, which takes
most of the noise out of their comparison. Knows no text, no tokenizer and no clock.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tuner.space.workload import Workload


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request before it is sent. The first `prefix_tokens` of its prompt are its group's shared prefix."""

    index: int
    input_tokens: int
    output_tokens: int
    prefix_group: int
    prefix_tokens: int


def requests_that_fit(kv_tokens: int, workload: Workload) -> int:
    """How many mean requests of this traffic a KV pool of `kv_tokens` holds at once, at least 1.

    The shared prefixes are left out: an engine drops cached ones before it makes a request wait.
    """
    mean_input = workload.input_tokens.mean_tokens
    private = mean_input * (1 - workload.cached_fraction) + workload.output_tokens.mean_tokens
    return max(1, round(kv_tokens / private))


class RequestStream:
    """The endless sequence of a workload's requests."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self.seed = seed
        self._block = -1
        self._order: list[int] = []

    def request(self, index: int) -> PlannedRequest:
        """The request number `index`, counted from 0."""
        rng = random.Random(f"{self.seed}/request/{index}")  # noqa: S311 - traffic, not secrets
        input_tokens = self.workload.input_tokens.draw(rng)
        return PlannedRequest(
            index=index,
            input_tokens=input_tokens,
            output_tokens=max(1, self.workload.output_tokens.draw(rng)),
            prefix_group=self._group(index),
            prefix_tokens=self.prefix_tokens(input_tokens),
        )

    def staggered(self, index: int) -> PlannedRequest:
        """The same request with a residual answer: uniform between one token and its drawn length.

        A stationary server is full of requests at every stage of their lives; a first wave of these looks like it.
        """
        planned = self.request(index)
        rng = random.Random(f"{self.seed}/residual/{index}")  # noqa: S311 - traffic, not secrets
        return replace(planned, output_tokens=rng.randint(1, planned.output_tokens))

    def prefix_tokens(self, input_tokens: int) -> int:
        """Shared tokens at the head of a prompt; at least one token of it is always new."""
        return min(round(self.workload.cached_fraction * input_tokens), input_tokens - 1)

    @property
    def longest_prefix_tokens(self) -> int:
        """Tokens of a group's whole prefix; shorter prompts share its head."""
        return self.prefix_tokens(self.workload.input_tokens.high)

    def _group(self, index: int) -> int:
        """Every run of `prefix_groups` requests visits each group once, in an order shuffled per run."""
        groups = max(1, self.workload.prefix_groups)
        block, place = divmod(index, groups)
        if block != self._block:
            self._order = list(range(groups))
            random.Random(f"{self.seed}/groups/{block}").shuffle(self._order)  # noqa: S311 - traffic, not secrets
            self._block = block
        return self._order[place]
