"""Seeds: points to run first. A seed may leave dimensions open; whoever knows the model completes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.space.config import Choice, Layout, Scalar, ServingConfig
from tuner.space.dimension import Dimension
from tuner.space.nearest import did_you_mean

Mistake = tuple[tuple[str, ...], str]  # path below the seed, message


@dataclass(frozen=True)
class Seed:
    """A named, possibly partial point. `only` makes it a point outside the grid that leaves the rest to the engine."""

    name: str
    pool: str | None
    layout: Layout | None
    values: Mapping[str, Scalar | Choice]
    only: tuple[str, ...] = ()

    def matches(self, config: ServingConfig) -> bool:
        """Whether a point of the grid agrees with everything the seed fixes."""
        if self.pool not in (None, config.pool) or self.layout not in (None, config.layout):
            return False
        have = dict(config.values)
        return all(have.get(k) == v for k, v in self.values.items())

    def allows(self, dimension: str, value: Scalar | Choice) -> bool:
        """Whether the seed leaves the dimension open or fixes this value."""
        return self.values.get(dimension, value) == value


def read_seed(
    name: str, doc: Mapping[str, Any], dimensions: Mapping[str, Dimension], pools: list[str]
) -> tuple[Seed, list[Mistake]]:
    """Read one seed and list what is wrong with it. Parts of a layout that are not given are 1."""
    mistakes: list[Mistake] = []
    values: dict[str, Scalar | Choice] = {}
    layout = _layout(doc.get("layout"), mistakes)
    pool = doc.get("pool")
    if pool is not None and pool not in pools:
        mistakes.append((("pool",), f"no pool {pool!r}{did_you_mean(str(pool), pools)}"))
        pool = None
    only = doc.get("only", [])
    if "only" in doc and (not isinstance(only, list) or not only or any(o not in ("model", "tp") for o in only)):
        mistakes.append((("only",), "lists `model`, `tp` or both: the only arguments passed"))
        only = []
    for key, raw in doc.items():
        if key in ("layout", "pool", "only"):
            continue
        if key not in dimensions:
            mistakes.append(((key,), f"unknown dimension{did_you_mean(key, [*dimensions, 'layout', 'pool', 'only'])}"))
            continue
        value, message = _value(dimensions[key], raw)
        if message:
            mistakes.append(((key,), message))
        elif value is not None:
            values[key] = value
    seed = Seed(name, pool, layout, values, tuple(only))
    return seed, mistakes + (_unpassed(seed, dimensions) if only and not mistakes else [])


def _unpassed(seed: Seed, dimensions: Mapping[str, Dimension]) -> list[Mistake]:
    """What a seed with `only` says in vain, or lacks: it passes the checkpoint and tp, nothing else."""
    weights = [d.name for d in dimensions.values() if any(b.model for b in d.bundles.values())]
    found: list[Mistake] = [((k,), "a seed with `only` does not pass it") for k in seed.values if k not in weights]
    if seed.layout and seed.layout != Layout(seed.layout.tp):
        found.append((("layout",), "a seed with `only` passes at most tp; write {tp: N}"))
    if not any(name in seed.values for name in weights):
        found.append(((), f"a seed with `only` names its checkpoint; add {' or '.join(weights)}"))
    return found


def _layout(raw: Any, mistakes: list[Mistake]) -> Layout | None:
    if raw is None:
        return None
    parts = ("tp", "dp", "attn_dp", "ep")
    if not isinstance(raw, dict) or not all(type(v) is int and v >= 1 for v in raw.values()):
        mistakes.append((("layout",), "write it as {tp: 8}, with whole numbers from 1"))
        return None
    unknown = [k for k in raw if k not in parts]
    if unknown or "tp" not in raw:
        what = f"unknown key `{unknown[0]}`{did_you_mean(unknown[0], parts)}" if unknown else "tp is missing"
        mistakes.append((("layout",), what))
        return None
    return Layout(**raw)


def _value(dimension: Dimension, raw: Any) -> tuple[Scalar | Choice | None, str]:
    """The dimension's own value equal to `raw`, or a message."""
    if dimension.bundles:
        return _choice(dimension, raw)
    for value in dimension.values:
        if _same(value, raw):
            return value, ""
    return None, f"{raw!r} is not a value of this dimension ({_listed(dimension.values)})"


def _choice(dimension: Dimension, raw: Any) -> tuple[Choice | None, str]:
    name, params = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else (raw, {})
    if not isinstance(name, str) or not isinstance(params, dict):
        return None, f"{raw!r} is not a choice; write its name, or {{name: {{parameter: value}}}}"
    if name not in dimension.bundles:
        return None, f"no choice {name!r}{did_you_mean(name, dimension.bundles)}"
    choices = [v for v in dimension.values if isinstance(v, Choice) and v.name == name]
    for choice in choices:
        own = dict(choice.params)
        if own.keys() == params.keys() and all(_same(own[k], params[k]) for k in own):
            return choice, ""
    return None, f"{raw!r} is not one of {_listed([c.label for c in choices])}"


def _same(value: object, raw: object) -> bool:
    """Equal, and both or neither a boolean: Python holds true for 1."""
    return value == raw and isinstance(value, bool) == isinstance(raw, bool)


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(str(v) for v in values[:12])
    return f"{shown}, ... ({len(values)} in all)" if len(values) > 12 else shown
