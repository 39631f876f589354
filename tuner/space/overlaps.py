"""What is set twice: a flag, a variable or an image that two parts of a file give to one and the same point.

Two choices of one dimension never meet, nor do bundles meant for different pools. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuner.space.document import Path_
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
        for section, what, keys in (("args", "the flag", pool.args), ("env", "the variable", pool.env)):
            for key in keys:
                yield Setting(f"{what} {key}", f"pool {name}", frozenset({name}), ("pools", name, section, key))
    for dimension in space.dimensions:
        owner, base = f"dimension {dimension.name}", ("space", dimension.name)
        if not dimension.bundles:
            yield Setting(f"the flag {dimension.name}", owner, everywhere, base)
        for choice, bundle in dimension.bundles.items():
            here, path = everywhere if bundle.pools is None else frozenset(bundle.pools), (*base, "choice", choice)
            for flag in bundle.args:
                yield Setting(f"the flag {flag}", owner, here, (*path, "args", flag))
            for variable in bundle.env:
                yield Setting(f"the variable {variable}", owner, here, (*path, "env", variable))
            for single in _SINGLE:
                if getattr(bundle, single) is not None:
                    yield Setting(f"`{single}`", owner, here, (*path, single))
    for flag in space.derived:
        yield Setting(f"the flag {flag}", f"dimension {flag}", everywhere, ("space", flag))
