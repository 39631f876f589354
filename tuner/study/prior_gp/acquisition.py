"""How much a candidate is expected to improve on the incumbent, in logarithms that stay finite far from it. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

Floats = NDArray[np.float64]

_TAIL = -1.0  # below this the difference pdf + z cdf cancels; erfcx does not
_FAR = -1e5


def log_expected_improvement(mean: Floats, variance: Floats, best: float) -> Floats:
    """Log of E[max(best - f, 0)] for f ~ N(mean, variance); on log costs this is the expected relative saving."""
    sd = np.sqrt(variance)
    z = np.maximum((best - mean) / sd, _FAR)
    found: Floats = np.log(sd) + _log_gain(z)
    return found


def _log_gain(z: Floats) -> Floats:
    """log(pdf(z) + z cdf(z))."""
    near = np.maximum(z, _TAIL)
    gain = np.log(np.exp(-0.5 * near**2) / math.sqrt(2 * math.pi) + near * ndtr(near))
    far = np.minimum(z, _TAIL)
    # pdf + z cdf = pdf (1 - |z| cdf / pdf), and cdf(-t) / pdf(t) = sqrt(pi/2) erfcx(t / sqrt 2)
    rest = 1 + far * math.sqrt(math.pi / 2) * erfcx(-far / math.sqrt(2))
    series = 1 / np.maximum(far**2, 1.0)  # the same for large |z|, where even the rest cancels
    rest = np.where(far < -1e3, series, rest)
    tail = -0.5 * far**2 - 0.5 * math.log(2 * math.pi) + np.log(np.maximum(rest, 1e-300))
    return np.where(z > _TAIL, gain, tail)


def blend(first: Floats, second: Floats, weight: float) -> Floats:
    """log(weight exp(first) + (1 - weight) exp(second))."""
    if weight >= 1.0:
        return first
    if weight <= 0.0:
        return second
    mixed: Floats = np.logaddexp(math.log(weight) + first, math.log1p(-weight) + second)
    return mixed
