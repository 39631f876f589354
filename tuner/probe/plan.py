"""The requests a workload consists of: lengths and prefix group of the i-th one, the same for every configuration.

Every figure of request `i` depends on (seed, i) and the user's file alone: two configurations of a study see the same
traffic, which takes most of the noise out of their comparison. Knows no text, no tokenizer and no clock.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tuner.probe.arrivals import due_times
from tuner.space.traffic import Traffic
from tuner.space.workload import Workload


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request before it is sent. The first `prefix_tokens` of its prompt are its group's shared prefix.

    One from a file is its line `row`, in the `turn`-th round through the file; `blocks` name its beginning.
    """

    index: int
    input_tokens: int
    output_tokens: int
    prefix_group: int
    prefix_tokens: int
    row: int | None = None
    turn: int = 0
    blocks: tuple[int, ...] = ()


_NO_CHANCE = random.Random(0)  # noqa: S311 - draws nothing


def requests_that_fit(kv_tokens: int, workload: Workload) -> int:
    """How many mean requests of this traffic a KV pool of `kv_tokens` holds at once, at least 1.

    The shared prefixes are left out: an engine drops cached ones before it makes a request wait.
    """
    mean_input = workload.input_tokens.mean_tokens
    private = mean_input * (1 - workload.cached_fraction) + workload.output_tokens.mean_tokens
    return max(1, round(kv_tokens / private))


class RequestStream:
    """The endless sequence of a workload's requests."""

    traffic: Traffic | None = None

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self.seed = seed
        self._fixed = workload.input_tokens.kind == workload.output_tokens.kind == "fixed"
        self._block = -1
        self._order: list[int] = []

    def request(self, index: int) -> PlannedRequest:
        """The request number `index`, counted from 0."""
        # Making a generator takes longer than all the rest: fixed lengths need none.
        rng = _NO_CHANCE if self._fixed else random.Random(f"{self.seed}/request/{index}")  # noqa: S311 - traffic
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

    def due_times(self, level: int, rate_req_per_s: float, start_s: float, first_index: int) -> Iterator[float]:  # noqa: ARG002 - a trace's own times need the index
        """When the requests from `first_index` on are due at a rate; of a trace without its file, as if by chance."""
        kind: Literal["poisson", "constant"] = "constant" if self.workload.arrivals == "constant" else "poisson"
        return due_times(kind, self.seed, level, rate_req_per_s, start_s)

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


class ReplayStream(RequestStream):
    """The lines of the user's file one after the other, and again from the start; nothing of it is primed."""

    def __init__(self, workload: Workload, seed: int, traffic: Traffic) -> None:
        super().__init__(workload, seed)
        self.traffic: Traffic = traffic

    def request(self, index: int) -> PlannedRequest:
        turn, at = divmod(index, len(self.traffic.rows))
        row = self.traffic.rows[at]
        output_tokens = row.output_tokens or super().request(index).output_tokens
        return PlannedRequest(
            index, row.input_tokens, output_tokens, 0, row.shared_tokens, row=at, turn=turn, blocks=row.blocks
        )

    @property
    def longest_prefix_tokens(self) -> int:
        return 0

    def due_times(self, level: int, rate_req_per_s: float, start_s: float, first_index: int) -> Iterator[float]:
        """The file's own times at another speed: so that its requests, all of them, come at the rate on average."""
        if self.workload.arrivals != "trace":
            return super().due_times(level, rate_req_per_s, start_s, first_index)
        if rate_req_per_s <= 0:
            raise ValueError(f"level {level}: a rate must be above 0 req/s, not {rate_req_per_s}")
        before = self._mean_gaps(first_index - 1)
        indexes = itertools.count(first_index)
        return (start_s + (self._mean_gaps(i) - before) / rate_req_per_s for i in indexes)

    def _mean_gaps(self, index: int) -> float:
        """When a request came, counted in mean gaps since the first one; a round is followed by one mean gap."""
        rows = self.traffic.rows
        turn, at = divmod(index, len(rows))
        first_ms, last_ms, at_ms = rows[0].at_ms or 0.0, rows[-1].at_ms or 0.0, rows[at].at_ms or 0.0
        return turn * len(rows) + (at_ms - first_ms) / (last_ms - first_ms) * (len(rows) - 1)


def stream_of(workload: Workload, seed: int, traffic: Traffic | None = None) -> RequestStream:
    """The requests of a workload; `traffic` is the content of its file, where it has one."""
    return RequestStream(workload, seed) if traffic is None else ReplayStream(workload, seed, traffic)
