"""How alike two levels of one dimension are: small correlation tables, each positive semi-definite by construction.

A table has a unit diagonal. Numbers are ordinal on their own scale, choices are categorical, the parameters of a
bundle count only between two levels of the same bundle. Knows nothing of costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.space.config import Choice, Layout, Scalar

Table = NDArray[np.float64]
Level = Scalar | Choice | Layout | None

SHARED = 0.5
"""Correlation of two different levels of a choice in the product kernel: what is learned of one is half believed of the
other."""
SAME_BUNDLE = 0.4
"""Share of a bundle's effect that all its parameterizations have in common, whatever their parameters."""
LENGTH = 0.7
"""Length scale of ordinal values relative to their whole range: neighbours are alike, ends are not."""
ROUGH = 0.15
"""Share of an ordinal effect that jumps from level to level: engines have cliffs."""
_LOG_SPAN = 4.0  # values that span more than this factor are compared by their ratio, as batch sizes are


def identity(levels: Sequence[object]) -> Table:
    """1 on equal levels, 0 elsewhere."""
    return np.array([[float(a == b) for b in levels] for a in levels])


def categorical(levels: Sequence[object], shared: float) -> Table:
    """`shared` between different levels."""
    return shared + (1 - shared) * identity(levels)


def ordinal(values: Sequence[float]) -> Table:
    """Matern 5/2 over positions in [0, 1]; by ratio where positive values span more than a factor of four."""
    x = np.asarray(values, dtype=float)
    if x.min() > 0 and x.max() > _LOG_SPAN * x.min():
        x = np.log(x)
    span = float(x.max() - x.min()) or 1.0
    d = math.sqrt(5) * np.abs(x[:, None] - x[None, :]) / span / LENGTH
    smooth = (1 + d + d**2 / 3) * np.exp(-d)
    table: Table = (1 - ROUGH) * smooth + ROUGH * identity(list(values))
    return table


def is_ordinal(levels: Sequence[Level]) -> bool:
    """Whether all levels are numbers (truth values are choices)."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in levels)


def mains(levels: Sequence[Level]) -> dict[str, Table]:
    """The tables of a dimension's own effects, by a suffix of the effect's name; the size of each is learned apart."""
    if any(isinstance(v, Layout) for v in levels):
        return {"": identity(levels), **{f".{part}": table for part, table in _layout_parts(levels).items()}}
    if is_ordinal(levels):
        return {"": ordinal([float(v) for v in levels])}  # type: ignore[arg-type] # checked
    if any(isinstance(v, Choice) and v.params for v in levels):
        return {"": bundles(levels, 0.0)}
    return {"": identity(levels)}


def alike(levels: Sequence[Level]) -> Table:
    """One table for products over dimensions: what differs in this dimension alone is partly alike."""
    if any(isinstance(v, Layout) for v in levels):
        parts = list(_layout_parts(levels).values())
        shape = sum(parts, np.zeros((len(levels), len(levels)))) / len(parts) if parts else identity(levels)
        return 0.5 * shape + 0.5 * categorical(levels, SHARED)
    if is_ordinal(levels):
        return ordinal([float(v) for v in levels])  # type: ignore[arg-type] # checked
    return bundles(levels, SHARED)


def bundles(levels: Sequence[Level], shared: float) -> Table:
    """Choices whose parameters count between levels of the same bundle only.

    Setting the distance to 0 where a parameter is inactive is not positive semi-definite; `shared * J + (1 - shared) *
    blocks` is: a block is constant 1 plus products of positive semi-definite tables over one bundle's own parameters.
    """
    names = identity([v.name if isinstance(v, Choice) else v for v in levels])
    own = np.ones_like(names)
    parameters = sorted({key for v in levels if isinstance(v, Choice) for key, _ in v.params})
    for key in parameters:
        own = own * _parameter(levels, key)
    within = SAME_BUNDLE + (1 - SAME_BUNDLE) * own
    table: Table = shared + (1 - shared) * names * within
    return table


def _parameter(levels: Sequence[Level], key: str) -> Table:
    """One parameter over all levels; a level without it is a category of its own."""
    values = [dict(v.params).get(key) if isinstance(v, Choice) else None for v in levels]
    present = [i for i, value in enumerate(values) if value is not None]
    held = [values[i] for i in present]
    table = identity(values)
    if is_ordinal(held):
        table[np.ix_(present, present)] = ordinal([float(v) for v in held if v is not None])
    return table


def _layout_parts(levels: Sequence[Level]) -> dict[str, Table]:
    """tp, dp, attn_dp and ep apart, so that what is learned of one layout transfers to its relatives."""
    parts: dict[str, Table] = {}
    for part in ("tp", "dp", "attn_dp", "ep"):
        values = [math.log2(getattr(v, part)) for v in levels]
        if len(set(values)) > 1:
            parts[part] = ordinal(values)
    return parts
