"""Which scheduler gets a request: what a data-parallel controller, or a router in front of replicas, decides.

`round-robin` is the engine's own way, `least-requests` its `--load-balance-method total_requests` (and total_tokens),
`sticky` a router's that keeps a prefix where it was (sglang's router with cache-aware or consistent-hashing policy).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from tuner.model.settings import Routing
from tuner.simulator.events import SimRequest


class Router:
    """Deals requests out over `targets` schedulers. A new prefix goes to the one with the fewest prefixes."""

    def __init__(self, policy: Routing, targets: int, load: Callable[[int], int]) -> None:
        """`load`: requests a scheduler has, waiting or running."""
        self._policy = policy
        self._targets = targets
        self._load = load
        self._next = 0
        self._homes: dict[Hashable, int] = {}

    def target(self, request: SimRequest) -> int:
        """The scheduler this request goes to."""
        key = _prefix(request)
        if self._policy == "sticky" and key is not None:
            return self._homes.setdefault(key, len(self._homes) % self._targets)
        if self._policy == "least-requests":
            return min(range(self._targets), key=lambda i: (self._load(i), (i - self._next) % self._targets))
        turn = self._next % self._targets
        self._next += 1
        return turn


def _prefix(request: SimRequest) -> Hashable:
    """What names the beginning of a prompt; None: nothing to share."""
    if request.blocks:
        return request.blocks[0]
    return request.prefix_group if request.prefix_tokens else None
