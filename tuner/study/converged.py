"""Whether little more is to be gained, by the sampler's own figures stored with its proposals.

Pure. The figure is what the sampler expects, and it does not know what it does not know: a stop is offered with it,
never claimed to be the optimum. Only `prior-gp` stores such figures, so with another sampler nothing is ever offered.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.study.history import PastTrial, counted

GAIN = 0.01
"""Expected relative saving of one more trial below which it hardly pays."""
IN_A_ROW = 3
FROM_TRIALS = 14
MIN_WEIGHT = MIN_SLOPE = 0.5
"""While the engine model is doubted, what the sampler expects of untried regions is worth little."""


def expected_gain(history: Sequence[PastTrial]) -> float | None:
    """The largest saving expected of the latest proposals when a stop is to be offered, else None."""
    if counted(history) < FROM_TRIALS:
        return None
    last = [trial.proposal for trial in history if trial.counted and trial.proposal][-IN_A_ROW:]
    if len(last) < IN_A_ROW or last[-1]["prior_weight"] < MIN_WEIGHT or last[-1]["prior_slope"] < MIN_SLOPE:
        return None
    gain = max(proposal["expected_improvement"] for proposal in last)
    return gain if gain < GAIN else None
