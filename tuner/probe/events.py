"""What a load driver tells the capacity search, and what the search tells the driver.

Plain values: the same search runs against real sockets and against the simulator in virtual time. All times are
seconds on the driver's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One finished or failed request as the client saw it.

    `first_token_s` is None when no generated token arrived. `error` is a short stable word (`http_503`, `reset`,
    `timeout`, `truncated`, `error_event`, `token_count`) or None. `first_tokens` is how many tokens the first
    token-bearing chunk carried (1 where the server does not say). Token counts are the server's own usage.
    """

    index: int
    level: int
    scheduled_s: float
    sent_s: float
    first_token_s: float | None
    done_s: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    chunks: int = 0
    first_tokens: int = 1
    max_chunk_gap_s: float = 0.0
    error: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token from the scheduled send time."""
        return None if self.first_token_s is None else self.first_token_s - self.scheduled_s

    @property
    def ttft_from_send_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first chunk; None for answers of a single chunk."""
        rest = self.output_tokens - self.first_tokens
        if self.first_token_s is None or rest <= 0:
            return None
        return (self.done_s - self.first_token_s) / rest


# --- driver -> search


@dataclass(frozen=True, slots=True)
class Sent:
    """A request left (or was due and could not leave: its record follows). `level` is the command's that caused it."""

    index: int
    level: int
    scheduled_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first generated token of a request arrived (never the role-only chunk)."""

    index: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A request ended, well or badly."""

    record: RequestRecord

    @property
    def at_s(self) -> float:
        return self.record.done_s


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed and nothing else happened; drivers send one at least every second and at `wake_at_s`."""

    at_s: float


@dataclass(frozen=True, slots=True)
class EngineDied:
    """The engine process ended or stopped answering; nothing more will come."""

    at_s: float


@dataclass(frozen=True, slots=True)
class ClientStalled:
    """The load client itself stood still for `for_s` seconds: what it saw of that time is its own delay."""

    at_s: float
    for_s: float


Event = Sent | FirstToken | Finished | Tick | EngineDied | ClientStalled


# --- search -> driver


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Keep `concurrency` requests in flight from now on: send at once whenever there are fewer.

    With `stagger`, the first wave's answers get residual lengths (uniform between one token and the drawn length), so
    that completions start at once instead of in cohorts.
    """

    level: int
    concurrency: int
    stagger: bool = False


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Send at `rate_req_per_s` from now on, on an absolute schedule of the workload's arrival process."""

    level: int
    rate_req_per_s: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Send nothing new; running requests go on."""

    level: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The search is over: abort what runs. The search's `outcome` is set."""


Command = ClosedLoop | OpenLoop | Hold | Stop
