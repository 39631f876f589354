"""Starts one trial: asks the study, makes the spec, commits it, hands it to the runtime. In this order.

Knows no budget and does not choose.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tuner.space.config import ServingConfig
from tuner.study import retry, sampler
from tuner.study.floor import Flight, Floor
from tuner.study.history import PastTrial
from tuner.study.incumbent import cost_to_beat
from tuner.study.problem import Problem
from tuner.study.record import Pick, Recorder
from tuner.study.score import rate_to_beat
from tuner.trial.spec import Confirm, TrialSpec


class Starter:
    """Makes trials of one study and its sibling; keeps nothing that is not in the database."""

    def __init__(self, problem: Problem, trials: Recorder, floor: Floor, uid: str, seed: int) -> None:
        self._problem = problem
        self._trials = trials
        self._floor = floor
        self._uid = uid
        self._seed = seed
        self._candidates = {c.config.fingerprint: c for c in problem.candidates}
        self._seeds = {config.fingerprint: config for _, config in [*problem.seeds, *problem.chosen]}

    def config(self, trial: PastTrial) -> ServingConfig:
        """The space's own value where it has one: JSON does not tell a bundle's name from a plain string."""
        candidate = self._candidates.get(trial.fingerprint)
        return candidate.config if candidate else self._seeds.get(trial.fingerprint) or trial.config

    def near_certain(self, fingerprint: str) -> bool:
        """Whether the model expects it to fit with room to spare; a point outside the grid its user vouches for."""
        candidate = self._candidates.get(fingerprint)
        return candidate is None or candidate.margin_gib >= retry.NEAR_CERTAIN_MARGIN_GIB

    def launch(self, recorder: Recorder, pick: Pick, confirmation: Confirm | None) -> None:
        """Ask, commit, start."""
        earlier = retry.by_configuration(recorder.history()).get(pick.config.fingerprint, [])
        number = recorder.ask(pick)
        spec = self._spec(recorder, number, pick, earlier, confirmation)
        recorder.commit(number, spec)
        self._floor.start(Flight(recorder, number, spec, pick.config, pick.origin, confirmation is not None))

    def _spec(
        self, recorder: Recorder, number: int, pick: Pick, earlier: list[PastTrial], confirmation: Confirm | None
    ) -> TrialSpec:
        trial_id = trial_name(self._problem.name, number, pick.config, confirmation=confirmation is not None)
        # A trial that a killed controller never started takes a number; the traffic of those after it stays the same.
        lost = sum(trial.state == "abandoned" for trial in recorder.history())
        seed = sampler.trial_seed(self._seed, number - lost, phase=int(confirmation is not None))
        attempt = 1 if confirmation else 1 + max((trial.attempt for trial in earlier), default=0)
        spec = self._problem.make_spec(pick.config, trial_id, attempt, seed, None, confirmation)
        rate = None if confirmation or pick.config.fingerprint in self._seeds else self._rate_to_beat(spec)
        if rate is not None:
            spec = self._problem.make_spec(pick.config, trial_id, attempt, seed, rate, None)
        avoid = self._nodes_to_avoid(earlier, pick, confirmation)
        context = {**spec.context, "study_uid": self._uid, **self._predicted(pick.config.fingerprint)}
        if pick.node:
            context["node"] = pick.node
        return replace(spec, context={**context, "avoid_nodes": avoid} if avoid else context)

    def _predicted(self, fingerprint: str) -> dict[str, float]:
        """What the engine model says beforehand, kept to be compared with what comes out; never a result."""
        candidate = self._candidates.get(fingerprint)
        return {"predicted_req_per_s": float(f"{candidate.predicted_capacity_req_per_s:.5g}")} if candidate else {}

    def _nodes_to_avoid(self, earlier: list[PastTrial], pick: Pick, confirmation: Confirm | None) -> list[str]:
        """Nodes that lost an earlier attempt; for a confirmation on request every node that measured it before."""
        if confirmation is None or not self._problem.confirm.different_nodes:
            return retry.nodes_to_avoid(earlier)
        mine = [t for t in self._trials.history() if t.fingerprint == pick.config.fingerprint]
        return sorted({trial.node for trial in [*mine, *earlier] if trial.node})

    def _rate_to_beat(self, spec: TrialSpec) -> float | None:
        """Seeds and what was chosen by hand are measured to the end; the rest races the best so far."""
        cost = cost_to_beat(self._problem, self._trials.history())
        if cost is None:
            return None
        return rate_to_beat(cost, spec.usd_per_hour, spec.guard, self._problem.token_weights, spec.workload)


def trial_name(study: str, number: int, config: ServingConfig, *, confirmation: bool) -> str:
    """`<study>-<trial>-<fingerprint>`; a confirmation's number carries a `c`. Object names add the attempt."""
    slug = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:20].rstrip("-")
    return f"{slug}-{'c' if confirmation else ''}{number}-{config.fingerprint}"
