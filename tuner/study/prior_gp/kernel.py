"""The covariance over candidates as a sum of components, each with a size of its own.

    offset + slope x prior + one main effect per dimension + all pairs + one product over all dimensions

Every component is positive semi-definite with a unit diagonal (the slope's is prior squared), so any sizes give a valid
covariance. Candidates form a grid with holes: dimensions are split into two halves whose combinations are few, and
what a whole candidate needs is looked up from its two halves. That is what makes 100,000 candidates affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.study.prior_gp import levels as tables
from tuner.study.prior_gp.levels import Level, Table

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

OFFSET, SLOPE = 0, 1
"""Places of the first two components; mains follow, then pairs, then the product."""

BLOCK = 1024
"""Candidates at a time: with 50 observations a block stays in a core's cache."""
FEW = 256
"""Up to so many points the covariance is computed directly, not by way of the halves' combinations."""


@dataclass(frozen=True, slots=True)
class Main:
    """One main effect: a table over the levels of a dimension."""

    name: str
    dimension: int
    table: Table


class Kernel:
    """The components over one candidate table."""

    def __init__(self, dimensions: Sequence[tuple[str, Sequence[Level]]], codes: Codes) -> None:
        self.mains = [
            Main(f"{name}{suffix}", d, table)
            for d, (name, levels) in enumerate(dimensions)
            for suffix, table in tables.mains(levels).items()
        ]
        self.own = [next(m.table for m in self.mains if m.dimension == d) for d in range(len(dimensions))]
        self.alike = [tables.alike(levels) for _, levels in dimensions]
        self.halves = _halves([len(levels) for _, levels in dimensions])
        self._combinations = [np.unique(codes[:, half], axis=0, return_inverse=True) for half in self.halves]

    @property
    def names(self) -> list[str]:
        return ["offset", "slope", *(main.name for main in self.mains), "pairs", "product"]

    @property
    def components(self) -> int:
        return len(self.mains) + 4

    @property
    def pair_count(self) -> int:
        return max(1, len(self.own) * (len(self.own) - 1) // 2)

    def stack(self, codes: Codes, prior: Floats, others: tuple[Codes, Floats] | None = None) -> Floats:
        """Every component between a few points, or between them and others: shape (components, n, m)."""
        right, right_prior = others if others is not None else (codes, prior)
        shape = (len(codes), len(right))
        at = [np.ix_(codes[:, d], right[:, d]) for d in range(len(self.own))]
        own = [self.own[d][where] for d, where in enumerate(at)]
        product = np.ones(shape)
        for d, where in enumerate(at):
            product *= self.alike[d][where]
        total = sum(own, np.zeros(shape))
        squares = sum((table**2 for table in own), np.zeros(shape))
        mains = [m.table[at[m.dimension]] for m in self.mains]
        pairs = (total**2 - squares) / 2 / self.pair_count if len(own) > 1 else np.zeros(shape)
        return np.stack([np.ones(shape), np.outer(prior, right_prior), *mains, pairs, product])

    def between(self, sizes: Floats, codes: Codes, prior: Floats, others: tuple[Codes, Floats]) -> Floats:
        """The covariance of a few points with a few others."""
        return np.asarray(np.tensordot(sizes, self.stack(codes, prior, others), axes=1), dtype=np.float64)

    def cross(self, sizes: Floats, codes: Codes, prior: Floats) -> Cross:
        """The covariance of any candidate with a few points, for given component variances."""
        return Cross(self, sizes, codes, prior)

    def diagonal(self, sizes: Floats, prior: Floats) -> Floats:
        """Each point's own variance before anything is observed."""
        rest = float(sizes.sum() - sizes[SLOPE]) - (sizes[-2] if len(self.own) < 2 else 0.0)
        return np.asarray(rest + sizes[SLOPE] * prior**2, dtype=np.float64)

    def combination(self, half: int) -> tuple[Codes, Codes]:
        """The distinct level combinations of a half, and which one each candidate has."""
        distinct, inverse = self._combinations[half]
        return distinct, inverse.reshape(-1)


class Cross:
    """Covariances of candidates (rows) with observed points (columns), row block by row block."""

    def __init__(self, kernel: Kernel, sizes: Floats, codes: Codes, prior: Floats) -> None:
        self._kernel, self._sizes, self._prior = kernel, sizes, prior
        self._pair = sizes[-2] / kernel.pair_count if len(kernel.own) > 1 else 0.0
        self._added, self._once, self._product = zip(*(self._half(h, codes) for h in (0, 1)), strict=True)
        self._of = [kernel.combination(h)[1] for h in (0, 1)]

    def _half(self, half: int, codes: Codes) -> tuple[Floats, Floats, Floats]:
        """For every combination of the half: what adds up, the sum of own tables, the product of tables."""
        kernel, dims = self._kernel, self._kernel.halves[half]
        distinct, _ = kernel.combination(half)
        shape = (len(distinct), len(codes))
        column = {d: distinct[:, i] for i, d in enumerate(dims)}
        added, once, squares, product = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.ones(shape)
        for i, main in enumerate(kernel.mains):
            if main.dimension in column:
                d = main.dimension
                added += self._sizes[SLOPE + 1 + i] * main.table[np.ix_(column[d], codes[:, d])]
        for d in dims:
            own = kernel.own[d][np.ix_(column[d], codes[:, d])]
            once, squares = once + own, squares + own**2
            product *= kernel.alike[d][np.ix_(column[d], codes[:, d])]
        added += self._pair * (once**2 - squares) / 2
        if half == 0:
            added += self._sizes[OFFSET]
            once, product = once * self._pair, product * self._sizes[-1]
        return added, once, product

    def rows(self, which: Codes, prior: Floats) -> Floats:
        """The block of some candidates; `prior` is theirs."""
        a, b = self._of[0][which], self._of[1][which]
        block = self._product[0][a]
        block *= self._product[1][b]
        if self._pair:
            pairs = self._once[0][a]
            pairs *= self._once[1][b]
            block += pairs
        block += self._added[0][a]
        block += self._added[1][b]
        if self._sizes[SLOPE]:
            block += np.outer(prior, self._sizes[SLOPE] * self._prior)
        return np.asarray(block, dtype=np.float64)


def _halves(levels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Dimensions split so that both halves have about equally many combinations."""
    halves: tuple[list[int], list[int]] = ([], [])
    sizes = [1, 1]
    for d in sorted(range(len(levels)), key=lambda d: -levels[d]):
        smaller = int(sizes[1] < sizes[0])
        halves[smaller].append(d)
        sizes[smaller] *= levels[d]
    return sorted(halves[0]), sorted(halves[1])
