"""How likely a candidate is to start, and to serve within the limits: two Laplace-approximated GP classifiers.

Each starts from what the engine model says (memory margin; predicted TTFT) and learns an offset, a slope and effects of
the dimensions. Sizes are fixed: a handful of failures cannot teach them. Knows no costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from tuner.study.prior_gp.kernel import Kernel
from tuner.study.prior_gp.observations import Labels

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

OFFSET_SD, SLOPE_SD, MAINS_SD, PAIRS_SD, PRODUCT_SD = 1.2, 0.4, 1.6, 2.2, 2.0
"""Standard deviations of the logit; mains share theirs. Large, since one crash means that its like crash too."""

_NEWTON_STEPS = 30
_TOLERANCE = 1e-6


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
    latent = np.zeros(n)
    a = np.zeros(n)
    before = -math.inf
    for _ in range(_NEWTON_STEPS):
        probability = expit(latent + logit[which])
        weight = np.maximum(probability * (1 - probability), 1e-9)
        root = np.sqrt(weight)
        inner = np.linalg.cholesky(np.eye(n) + root[:, None] * covariance * root)
        b = weight * latent + good - probability
        middle = np.linalg.solve(inner.T, np.linalg.solve(inner, root * (covariance @ b)))
        a = b - root * middle
        latent = covariance @ a
        value = float(-0.5 * a @ latent + log_expit(np.where(labels.good, 1, -1) * (latent + logit[which])).sum())
        if abs(value - before) < _TOLERANCE:
            break
        before = value
    probability = expit(latent + logit[which])
    root = np.sqrt(np.maximum(probability * (1 - probability), 1e-9))
    inner = np.linalg.cholesky(np.eye(n) + root[:, None] * covariance * root)
    return Head(which, logit, good - probability, np.linalg.solve(inner, np.diag(root)))


def log_probability(head: Head, kernel: Kernel, codes: Codes, rows: Codes, block: int = 4096) -> Floats:
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
