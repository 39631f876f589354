"""What is set twice: a flag, a variable or an image that two parts of a file give to one and the same point.

Two choices of one dimension never meet, nor do bundles meant for different pools. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuner.space.document import Path_
from tuner.space.schema import Bundle, Pool
from tuner.space.space import Space

_SINGLE = ("image", "engine_version", "precision")


@dataclass(frozen=True)
class Setting:
    """One place that sets one thing: `owner` is the pool or the dimension, `pools` where it can be chosen."""

    what: str
    owner: str
    pools: frozenset[str]
    path: Path_

    def meets(self, other: Setting) -> bool:
        return self.what == other.what and self.owner != other.owner and bool(self.pools & other.pools)


def overlaps(space: Space) -> Iterator[tuple[Path_, str]]:
    """The last place of everything that is set twice, and a sentence naming who sets it."""
    by_what: dict[str, list[Setting]] = {}
    for setting in _settings(space):
        by_what.setdefault(setting.what, []).append(setting)
    for what, settings in by_what.items():
        clashing = [s for s in settings if any(s.meets(other) for other in settings)]
        if clashing:
            owners = dict.fromkeys(s.owner for s in clashing)
            yield clashing[-1].path, f"{what} is set twice: by {' and by '.join(owners)}"


def _settings(space: Space) -> Iterator[Setting]:
    everywhere = frozenset(space.spec.pools)
    for name, pool in space.spec.pools.items():
        for what, keys in _flags_and_variables(pool):
            yield Setting(what, f"pool {name}", frozenset({name}), ("pools", name, *keys))
    for dimension in space.dimensions:
        if not dimension.bundles:
            path = ("space", dimension.name)
            yield Setting(f"the flag {dimension.name}", f"dimension {dimension.name}", everywhere, path)
        for choice, bundle in dimension.bundles.items():
            here = everywhere if bundle.pools is None else frozenset(bundle.pools)
            base = ("space", dimension.name, "choice", choice)
            for what, keys in _settings_of(bundle):
                yield Setting(what, f"dimension {dimension.name}", here, (*base, *keys))
    for flag in space.derived:
        yield Setting(f"the flag {flag}", f"dimension {flag}", everywhere, ("space", flag))


def _flags_and_variables(part: Pool | Bundle) -> Iterator[tuple[str, Path_]]:
    for flag in part.args:
        yield f"the flag {flag}", ("args", flag)
    for variable in part.env:
        yield f"the variable {variable}", ("env", variable)


def _settings_of(bundle: Bundle) -> Iterator[tuple[str, Path_]]:
    yield from _flags_and_variables(bundle)
    for single in _SINGLE:
        if getattr(bundle, single) is not None:
            yield f"`{single}`", (single,)
