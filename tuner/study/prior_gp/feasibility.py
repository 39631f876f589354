"""How likely a candidate is to start, and to serve within the limits: two Laplace-approximated GP classifiers.

Each starts from what the engine model says (memory margin; predicted TTFT) and learns an offset, a slope and effects of
the dimensions. Sizes are fixed: a handful of failures cannot teach them. Knows no costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, log_expit

from tuner.study.prior_gp.kernel import BLOCK, Kernel
from tuner.study.prior_gp.observations import Labels

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

OFFSET_SD, SLOPE_SD, MAINS_SD, PAIRS_SD, PRODUCT_SD = 1.2, 0.4, 3.2, 2.2, 2.0
"""Standard deviations of the logit; mains share theirs. Large, since one crash means that its like crash too. Chosen
on the design worlds of tests/benchmarks/search.py: with mains of 1.6 one choice crashed ten times in thirty trials."""

_NEWTON_STEPS = 30
_TOLERANCE = 1e-6
_SHORTEST = 1e-4


@dataclass(frozen=True, slots=True)
class Head:
    """A fitted classifier over candidates `which`."""

    which: Codes
    logit: Floats  # of every candidate, before anything was observed
    gradient: Floats
    half: Floats


def component_variances(kernel: Kernel) -> Floats:
    """One variance per component of the kernel."""
    main = MAINS_SD**2 / max(1, len(kernel.mains)) * MAIN_SHARE
    return np.array([OFFSET_SD**2, SLOPE_SD**2, *[main] * len(kernel.mains), PAIRS_SD**2, PRODUCT_SD**2])


MAIN_SHARE = 3.0  # as if three dimensions at a time decided


def fit(kernel: Kernel, codes: Codes, logit: Floats, labels: Labels) -> Head:
    """Newton's method for the mode; the curvature there is the approximation's precision."""
    which = labels.which
    n = len(which)
    if n == 0:
        return Head(which, logit, np.zeros(0), np.zeros((0, 0)))
    covariance = np.tensordot(component_variances(kernel), kernel.stack(codes[which], logit[which]), axes=1)
    good = labels.good.astype(float)
    a = np.zeros(n)
    value = _objective(a, covariance, logit[which], labels.good)
    for _ in range(_NEWTON_STEPS):
        step = _newton(a, covariance, logit[which], good) - a
        length = 1.0
        # Where the model was sure and wrong the curvature is almost flat and a full step overshoots.
        while length > _SHORTEST and _objective(a + length * step, covariance, logit[which], labels.good) < value:
            length /= 2
        a = a + length * step
        before, value = value, _objective(a, covariance, logit[which], labels.good)
        if abs(value - before) < _TOLERANCE:
            break
    latent = covariance @ a
    probability = expit(latent + logit[which])
    root = np.sqrt(np.maximum(probability * (1 - probability), 1e-9))
    inner = np.linalg.cholesky(np.eye(n) + root[:, None] * covariance * root)
    return Head(which, logit, good - probability, np.linalg.solve(inner, np.diag(root)))


def _objective(a: Floats, covariance: Floats, logit: Floats, good: NDArray[np.bool_]) -> float:
    """Log posterior density of latent = covariance a, up to a constant."""
    latent = covariance @ a
    return float(-0.5 * a @ latent + log_expit(np.where(good, 1, -1) * (latent + logit)).sum())


def _newton(a: Floats, covariance: Floats, logit: Floats, good: Floats) -> Floats:
    """The next iterate of Newton's method (Rasmussen and Williams, algorithm 3.1)."""
    latent = covariance @ a
    probability = expit(latent + logit)
    weight = np.maximum(probability * (1 - probability), 1e-9)
    root = np.sqrt(weight)
    factor = cho_factor(np.eye(len(a)) + root[:, None] * covariance * root, lower=True, check_finite=False)
    b = weight * latent + good - probability
    new: Floats = b - root * cho_solve(factor, root * (covariance @ b), check_finite=False)
    return new


def log_probability(head: Head, kernel: Kernel, codes: Codes, rows: Codes, block: int = BLOCK) -> Floats:
    """Log probability of some candidates, averaged over what the classifier does not know."""
    variances = component_variances(kernel)
    found = np.empty(len(rows))
    cross = kernel.cross(variances, codes[head.which], head.logit[head.which])
    for at in range(0, len(rows), block):
        which = rows[at : at + block]
        mean, variance = head.logit[which].copy(), kernel.diagonal(variances, head.logit[which])
        if len(head.which):
            between = cross.rows(which, head.logit[which])
            mean += between @ head.gradient
            left = between @ head.half.T
            left *= left
            variance = np.maximum(variance - left.sum(axis=1), 0.0)
        found[at : at + block] = log_expit(mean / np.sqrt(1 + math.pi * variance / 8))
    return found
