"""A point of the grid as Optuna parameters: readable values and fixed distributions.

The choice itself is made by `sampler`; Optuna only stores it. Knows nothing of costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.space.config import Scalar

_LOG_SPAN = 4.0  # values that span more than this factor are compared by their ratio, as batch sizes are


def distributions(dimensions: Mapping[str, tuple[Scalar, ...]]) -> dict[str, BaseDistribution]:
    """One distribution per dimension that has more than one value."""
    return {name: _distribution(values) for name, values in dimensions.items() if len(set(values)) > 1}


def _distribution(values: tuple[Scalar, ...]) -> BaseDistribution:
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return CategoricalDistribution(values)
    low, high = min(numbers), max(numbers)
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(low), int(high), log=low >= 1 and high / low > _LOG_SPAN)
    return FloatDistribution(float(low), float(high), log=low > 0 and high / low > _LOG_SPAN)


def snap(value: Scalar, values: tuple[Scalar, ...]) -> Scalar:
    """The dimension's own value nearest to what a sampler proposed."""
    if value in values or isinstance(value, (str, bool)):
        return value
    numbers = [v for v in values if not isinstance(v, str)]
    logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_SPAN
    scale = math.log if logarithmic else float
    return min(numbers, key=lambda v: abs(scale(v) - scale(value)))
