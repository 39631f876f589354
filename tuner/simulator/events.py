"""What goes into the simulated engine and what comes out: plain values, times in seconds on the caller's clock."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

BLOCK_TOKENS = 64
"""Tokens of one block of a hashed prompt; sglang's page for the models simulated here."""


@dataclass(frozen=True, slots=True)
class SimRequest:
    """A prompt as a shared prefix plus a unique rest, and how many tokens it will generate.

    The prefix is either `prefix_tokens` of the group `prefix_group`, or, when `blocks` is given, a sequence of full
    blocks of `BLOCK_TOKENS`, each id naming the whole prompt up to its end (chained hashes): real prompts come so.
    """

    request_id: str
    input_tokens: int
    output_tokens: int
    prefix_group: Hashable | None = None
    prefix_tokens: int = 0
    blocks: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        if self.input_tokens < 1 or self.output_tokens < 1:
            raise ValueError(f"request {self.request_id}: input and output must have at least one token")
        if not 0 <= self.prefix_tokens <= self.input_tokens or len(self.blocks) * BLOCK_TOKENS > self.input_tokens:
            raise ValueError(f"request {self.request_id}: the shared prefix is longer than the prompt")


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first generated token of a request left the engine."""

    request_id: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A request has all its tokens. `cached_tokens` counts prompt tokens found in the cache at first admission."""

    request_id: str
    at_s: float
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request was refused: the queue is full, or its prompt can never fit into the KV pool."""

    request_id: str
    at_s: float
    reason: Literal["queue_full", "too_long"] = "queue_full"


@dataclass(frozen=True, slots=True)
class Died:
    """The engine's process crashed in a prefill step; nothing more will come."""

    at_s: float
    kind: str


EngineEvent = FirstToken | Finished | Rejected | Died


@dataclass(frozen=True, slots=True)
class Trap:
    """What ends this engine: the first prefill step of at least `prefill_tokens` uncached tokens.

    `kind` `hang` stops it without a word; every other kind is a crash, reported as `Died` when the step would end.
    """

    kind: str
    prefill_tokens: int
