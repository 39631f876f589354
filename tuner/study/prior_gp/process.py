"""One Gaussian process on log cost: component sizes and noise learned by maximum a posteriori.

With the engine model as mean (`with_prior`) what is modelled is the residual: offset, slope and effects correct it.
Without, only the mean of what was observed is assumed. Knows no candidates beyond what a kernel says of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from tuner.study.prior_gp.kernel import BLOCK, FEW, OFFSET, SLOPE, Kernel
from tuner.study.prior_gp.observations import BOUND_GAP, BOUND_SD, Costs

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is believed before the first trial. Sizes are standard deviations of log cost."""

    with_prior: bool
    effect_sd: float
    slope_sd: float
    interaction_sd: float
    effect_spread: float = 0.7
    offset_sd: float = 1.0
    noise_sd: float = 0.04
    noise_spread: float = 0.4


# Chosen on the design worlds of tests/benchmarks/search.py: an engine model is off by about 10 % per factor and by more
# where factors meet; costs themselves vary by about 35 % per factor. A slope of 1 +- 1 admits a model upside down.
WITH_PRIOR = Assumptions(with_prior=True, effect_sd=0.1, slope_sd=1.0, interaction_sd=0.3)
WITHOUT_PRIOR = Assumptions(with_prior=False, effect_sd=0.35, slope_sd=0.0, interaction_sd=0.35)

FITTED_ON = 120
"""Sizes are learned from at most so many observations: the cheapest half and the latest half."""
_JITTER = 1e-8
_SURPRISE = -4.0  # floor of one log predictive density: a single outlier does not decide between the processes
_MAX_STEPS = 40


@dataclass(frozen=True, slots=True)
class Process:
    """A fitted process. `variances` are the component sizes squared; columns are observations (and believers)."""

    assumed: Assumptions
    variances: Floats
    noise_sd: float
    which: Codes
    mean_shift: float
    alpha: Floats
    half: Floats  # inverse of the lower Cholesky factor
    slope: float
    offset: float
    evidence: float  # sum of leave-one-out log predictive densities of the observations


@dataclass(frozen=True, slots=True)
class _Data:
    """Residuals to explain, with the components between their points."""

    stack: Floats
    y: Floats
    extra: Floats  # variance beyond the noise
    priors: Floats


def fit(kernel: Kernel, codes: Codes, prior: Floats, center: float, costs: Costs, assumed: Assumptions) -> Process:
    """Learn from observations of candidates. `codes` and `prior` are of all candidates."""
    shift = (
        center if assumed.with_prior else float(costs.log_cost[~costs.bound].mean()) if _any(~costs.bound) else center
    )
    y = (
        costs.log_cost
        + np.where(costs.bound, BOUND_GAP, 0.0)
        - shift
        - (prior[costs.which] if assumed.with_prior else 0.0)
    )
    data = _Data(
        kernel.stack(codes[costs.which], prior[costs.which]),
        y,
        np.where(costs.bound, BOUND_SD**2, 0.0),
        prior[costs.which],
    )
    x = _start(kernel, assumed)
    if len(costs):
        x = _maximise(_subset(data, _fitted_on(costs)), x, kernel, assumed)
    return _solve(data, *_unpack(x, kernel, assumed), costs.which, shift, assumed)


def believe(process: Process, kernel: Kernel, codes: Codes, prior: Floats, which: Codes) -> Process:
    """The process once running trials have come out exactly as it expects: surer of them, its mean unchanged.

    Block-wise extension of the inverse factor; what is believed adds no evidence.
    """
    if not len(which):
        return process
    seen = (codes[process.which], prior[process.which])
    cross = kernel.between(process.variances, codes[which], prior[which], seen)
    own = np.tensordot(process.variances, kernel.stack(codes[which], prior[which]), axes=1)
    left = cross @ process.half.T
    rest = own + process.noise_sd**2 * np.eye(len(which)) - left @ left.T
    inverse = np.linalg.inv(np.linalg.cholesky(rest + _JITTER * np.eye(len(which))))
    n, m = len(process.which), len(which)
    half = np.zeros((n + m, n + m))
    half[:n, :n] = process.half
    half[n:, :n] = -inverse @ left @ process.half
    half[n:, n:] = inverse
    return Process(
        process.assumed,
        process.variances,
        process.noise_sd,
        np.concatenate([process.which, which]),
        process.mean_shift,
        np.concatenate([process.alpha, np.zeros(m)]),
        half,
        process.slope,
        process.offset,
        process.evidence,
    )


def predict(
    process: Process, kernel: Kernel, codes: Codes, prior: Floats, which: Codes, block: int = BLOCK
) -> tuple[Floats, Floats]:
    """Mean and variance of the noise-free log cost of some candidates."""
    seen = (codes[process.which], prior[process.which])
    cross = kernel.cross(process.variances, *seen) if len(which) > FEW else None
    mean = np.full(len(which), process.mean_shift)
    variance = np.empty(len(which))
    if process.assumed.with_prior:
        mean += prior[which]
    for at in range(0, len(which), block):
        rows = which[at : at + block]
        between = (
            cross.rows(rows, prior[rows])
            if cross is not None
            else kernel.between(process.variances, codes[rows], prior[rows], seen)
        )
        mean[at : at + block] += between @ process.alpha
        left = between @ process.half.T
        left *= left
        variance[at : at + block] = kernel.diagonal(process.variances, prior[rows]) - left.sum(axis=1)
    return mean, np.maximum(variance, 1e-8)


def _any(flags: Bools) -> bool:
    return bool(flags.any())


def _start(kernel: Kernel, assumed: Assumptions) -> Floats:
    """Logarithms of the learned sizes (mains, pairs, product) and of the noise, at their expected values."""
    sizes = [assumed.effect_sd] * len(kernel.mains) + [assumed.interaction_sd] * 2 + [assumed.noise_sd]
    return np.log(sizes)


def _unpack(x: Floats, kernel: Kernel, assumed: Assumptions) -> tuple[Floats, float]:
    variances = np.empty(kernel.components)
    variances[OFFSET], variances[SLOPE] = assumed.offset_sd**2, assumed.slope_sd**2
    variances[SLOPE + 1 :] = np.exp(2 * x[:-1])
    return variances, math.exp(x[-1])


def _fitted_on(costs: Costs) -> Codes:
    if len(costs) <= FITTED_ON:
        return np.arange(len(costs))
    cheapest = np.argsort(costs.log_cost, kind="stable")[: FITTED_ON // 2]
    return np.unique(np.concatenate([cheapest, np.arange(len(costs) - FITTED_ON // 2, len(costs))]))


def _subset(data: _Data, chosen: Codes) -> _Data:
    return _Data(data.stack[:, chosen][:, :, chosen], data.y[chosen], data.extra[chosen], data.priors[chosen])


def _maximise(data: _Data, start: Floats, kernel: Kernel, assumed: Assumptions) -> Floats:
    """Sizes and noise with the highest posterior density; log-normal priors keep a few observations from deciding."""
    target = data.y
    flat = data.stack.reshape(kernel.components, -1)
    free = slice(SLOPE + 1, None)
    spread = np.array([assumed.effect_spread] * (len(start) - 1) + [assumed.noise_spread])
    n = len(target)

    def loss(x: Floats) -> tuple[float, Floats]:
        variances, noise_sd = _unpack(x, kernel, assumed)
        covariance = (variances @ flat).reshape(n, n)
        covariance[np.diag_indices(n)] += noise_sd**2 + data.extra + _JITTER
        factor = cho_factor(covariance, lower=True, check_finite=False)
        alpha = cho_solve(factor, target, check_finite=False)
        inverse = cho_solve(factor, np.eye(n), check_finite=False)
        slope = (inverse - np.outer(alpha, alpha)).reshape(-1)
        away = (x - start) / spread
        value = 0.5 * target @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        gradient = away / spread
        gradient[:-1] += variances[free] * (flat[free] @ slope)
        gradient[-1] += noise_sd**2 * slope.reshape(n, n)[np.diag_indices(n)].sum()
        return float(value), gradient

    bounds = [(s - 3 * w, s + 3 * w) for s, w in zip(start, spread, strict=True)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _MAX_STEPS})
    best: Floats = found.x
    return best


def _solve(
    data: _Data,
    variances: Floats,
    noise_sd: float,
    which: Codes,
    shift: float,
    assumed: Assumptions,
) -> Process:
    n = len(data.y)
    covariance = np.tensordot(variances, data.stack, axes=1)
    noise = noise_sd**2 + data.extra + _JITTER
    factor = np.linalg.cholesky(covariance + np.diag(noise)) if n else np.zeros((0, 0))
    half: Floats = np.asarray(solve_triangular(factor, np.eye(n), lower=True) if n else factor, dtype=np.float64)
    inverse = half.T @ half
    alpha = inverse @ data.y
    # Leaving one out: mean y - alpha / inverse_ii, variance 1 / inverse_ii.
    scale = np.diag(inverse)
    density = 0.5 * (np.log(scale) - alpha**2 / scale - math.log(2 * math.pi))
    evidence = np.logaddexp(density, _SURPRISE).sum()
    slope = variances[SLOPE] * float(data.priors @ alpha)
    offset = variances[OFFSET] * float(alpha.sum())
    return Process(
        assumed,
        variances,
        noise_sd,
        which,
        shift,
        alpha,
        half,
        slope=(1.0 if assumed.with_prior else 0.0) + slope,
        offset=offset,
        evidence=float(evidence),
    )
