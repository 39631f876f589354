"""The prefix cache of one scheduler: what a radix tree with LRU leaf eviction keeps, without the tree.

Keys are chained (a key names its whole prefix), so a flat table suffices: a path is touched from its leaf to its
root, a parent is therefore always younger than its children, and evicting the oldest entry is evicting a leaf.
Knows sizes in tokens, no time and no requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

Path = Sequence[tuple[Hashable, int]]


class PrefixCache:
    """Entries are pinned (some running request uses them) or evictable, in LRU order."""

    def __init__(self) -> None:
        self.pinned_tokens = 0
        self.evictable_tokens = 0
        self._tokens: dict[Hashable, int] = {}
        self._pins: dict[Hashable, int] = {}
        self._lru: OrderedDict[Hashable, None] = OrderedDict()

    def match(self, path: Path) -> int:
        """Tokens of the longest cached prefix of a path."""
        hit = 0
        for key, tokens in path:
            if key not in self._tokens:
                break
            hit += tokens
        return hit

    def pin(self, path: Path) -> int:
        """Protect the entries of a path that are cached; returns how many it protected (its leading ones)."""
        count = 0
        for key, _ in path:
            if key not in self._tokens:
                break
            self._pin(key)
            count += 1
        return count

    def _pin(self, key: Hashable) -> None:
        pins = self._pins.get(key, 0)
        if not pins:
            del self._lru[key]
            tokens = self._tokens[key]
            self.evictable_tokens -= tokens
            self.pinned_tokens += tokens
        self._pins[key] = pins + 1

    def insert_pinned(self, path: Path, already: int) -> None:
        """Put a computed path into the cache, pinned; its first `already` entries are pinned by the caller before."""
        for key, tokens in path[already:]:
            if key in self._tokens:  # another request computed the same meanwhile
                self._pin(key)
                continue
            self._tokens[key] = tokens
            self._pins[key] = 1
            self.pinned_tokens += tokens

    def release(self, path: Path, count: int) -> None:
        """Unpin the first `count` entries of a path, leaf first, so that parents are evicted after children."""
        for key, _ in reversed(path[:count]):
            left = self._pins[key] - 1
            if left:
                self._pins[key] = left
                continue
            del self._pins[key]
            tokens = self._tokens[key]
            self._lru[key] = None
            self.pinned_tokens -= tokens
            self.evictable_tokens += tokens

    def leave(self, key: Hashable, tokens: int) -> None:
        """Keep a finished request's unshared tokens until they are evicted."""
        if tokens > 0:
            self._tokens[key] = tokens
            self._lru[key] = None
            self.evictable_tokens += tokens

    def evict(self, tokens: float) -> int:
        """Drop least recently used entries until `tokens` are free or nothing is left; returns the tokens freed."""
        freed = 0
        while freed < tokens and self._lru:
            key, _ = self._lru.popitem(last=False)
            freed += self._tokens.pop(key)
        self.evictable_tokens -= freed
        return freed

    def clear(self) -> None:
        """Forget everything that is not pinned."""
        self.evict(float("inf"))
