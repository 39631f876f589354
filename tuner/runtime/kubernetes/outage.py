"""How long an API server that does not answer is waited for, and when it is asked again. Knows no request."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_S = 1.0
_MOST_S = 30.0
LIMIT_S = 30 * 60.0
"""An upgrade of a control plane takes minutes; after half an hour a person must look."""


@dataclass(slots=True)
class Outage:
    """Failures in a row of one server. `limit_s`: for so long they are ridden out."""

    limit_s: float = LIMIT_S
    since_s: float | None = None
    next_try_s: float = 0.0
    pause_s: float = 0.0
    reason: str = ""

    def note(self, now_s: float, reason: str, retry_after_s: float | None = None) -> None:
        """Another request failed: wait twice as long as before it, or as long as the server says."""
        if self.since_s is None:
            self.since_s = now_s
        self.pause_s = min(_MOST_S, max(_FIRST_S, 2 * self.pause_s))
        self.next_try_s = now_s + max(self.pause_s, min(retry_after_s or 0.0, 2 * _MOST_S))
        self.reason = reason

    def over(self) -> None:
        """A request was answered."""
        self.since_s, self.next_try_s, self.pause_s, self.reason = None, 0.0, 0.0, ""

    def lasts_s(self, now_s: float) -> float:
        return 0.0 if self.since_s is None else now_s - self.since_s

    def too_long(self, now_s: float) -> bool:
        return self.lasts_s(now_s) > self.limit_s


@dataclass(slots=True)
class Allowance:
    """One request a second on average: what regular looks leave over is for asking why something waits."""

    per_s: float = 1.0
    most: float = 20.0
    left: float = 20.0
    at_s: float = 0.0

    def spend(self, now_s: float, requests: int) -> None:
        self._accrue(now_s)
        self.left -= requests

    def has(self, now_s: float, requests: int = 1) -> bool:
        self._accrue(now_s)
        return self.left >= requests

    def _accrue(self, now_s: float) -> None:
        self.left = min(self.most, self.left + self.per_s * max(0.0, now_s - self.at_s))
        self.at_s = now_s
