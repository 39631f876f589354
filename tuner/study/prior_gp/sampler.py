"""The sampler as an Optuna `BaseSampler`: proposes candidates of one problem to any study with its parameters.

`tuner search` chooses before it asks and does not need this; a notebook or another program's `study.ask` does. Keeps no
state: what it proposes follows from the study's trials, its seed and the trial's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from tuner.space.config import Scalar
from tuner.study.history import PastState, PastTrial, past
from tuner.study.params import distributions
from tuner.study.prior_gp.proposal import propose
from tuner.study.problem import Candidate, Problem, coordinates
from tuner.study.score import FAILURE


class PriorGPSampler(BaseSampler):
    """Use with `study.ask(sampler.distributions)`; tell the cost per million tokens, constraints first.

    A COMPLETE trial with a positive constraint missed a limit, or did not start if the constraint is `failure`. So did
    a PRUNED trial with one; without, it was raced out and its last reported value is the bound.
    """

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self._problem = problem
        self._seed = seed
        self.distributions = distributions(problem.dimensions)
        self._by_point: Mapping[tuple[Scalar, ...], Candidate] = {
            self._point(candidate): candidate for candidate in problem.candidates
        }

    def _point(self, candidate: Candidate) -> tuple[Scalar, ...]:
        point = coordinates(candidate.config, self._problem.dimensions) or {}
        return tuple(point[name] for name in self.distributions)

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's signature
    ) -> dict[str, BaseDistribution]:
        return dict(self.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        history = [self._past(t) for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        proposal = propose(self._problem, history, number=trial.number, seed=self._seed)
        if proposal is None:
            raise optuna.exceptions.OptunaError("every candidate has been tried")
        asked = optuna.Trial(study, trial._trial_id)  # noqa: SLF001 - the only way from a frozen trial to its handle
        asked.set_user_attr("origin", proposal.origin)
        asked.set_user_attr("proposal", dict(proposal.reasons))
        values = dict(zip(self.distributions, self._point(proposal.candidate), strict=True))
        return {name: values[name] for name in search_space}

    def sample_independent(
        self,
        study: optuna.Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's signature
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002 - Optuna's signature
    ) -> Any:
        raise ValueError(f"{param_name} is no dimension of {self._problem.name}; ask with `sampler.distributions`")

    def _past(self, trial: FrozenTrial) -> PastTrial:
        """A trial as the study of a search knows it; of a foreign one what Optuna's own fields say."""
        read = past(trial)
        if read.fingerprint:
            return read
        point = tuple(trial.params.get(name) for name in self.distributions)
        candidate = self._by_point.get(point)  # type: ignore[arg-type] # a missing parameter is no point
        if candidate is None:
            return replace(read, state="abandoned")
        bound = trial.intermediate_values.get(max(trial.intermediate_values, default=0))
        return replace(
            read,
            state=_state(trial),
            fingerprint=candidate.config.fingerprint,
            config_json=candidate.config.as_json(),
            usd_per_million=trial.value if _state(trial) == "measured" else None,
            bound_usd_per_million=bound,
        )


def _state(trial: FrozenTrial) -> PastState:
    if not trial.state.is_finished():
        return "running"
    if trial.state == TrialState.FAIL:
        return "invalid"
    if any(slack > 0 for slack in trial.constraints.values()):
        return "failed" if trial.constraints.get(FAILURE, 0.0) > 0 else "infeasible"
    return "measured" if trial.state == TrialState.COMPLETE else "pruned"
