"""The only writer of trials: ask, spec, result, constraints, tell, in the order that survives SIGKILL anywhere.

    ask        -> a RUNNING trial with its parameters, and config, fingerprint, origin, proposal
    spec       -> the one attribute with everything needed to run; only now may the runtime start it
    shown      -> what it has shown while it runs, where that is of use: only the sampler reads it, until it has ended
    result     -> what the runtime reported; from here on the trial is never run again
    tell       -> constraints, figures and bound, derived from `result`, and the state; nothing is written afterwards

Each is one commit; `shown` may come often or never. At resume: RUNNING without spec never ran; with spec it may run;
with result it only needs the rest of its story. Knows nothing of runtimes, budgets or samplers' choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from tuner.space.config import Scalar, ServingConfig
from tuner.study.history import PRICES, SAME_AS, SHOWN, PastTrial, past, read_history, repriced, same_settings
from tuner.study.params import distributions
from tuner.study.problem import TokenWeights, coordinates
from tuner.study.score import bound_cost
from tuner.study.storage import Storage
from tuner.study.verdict import Verdict, judge, stored_result
from tuner.study.writer import Writer
from tuner.trial.result import TrialResult
from tuner.trial.spec import TrialSpec

ABANDONED = "abandoned before start"
_ABANDONED = Verdict("FAIL", "abandoned", {})


@dataclass(frozen=True, slots=True)
class Pick:
    """What to try next and why: `seed:<name>`, `model`, `sampler`, `retry` or `recheck`; on `node`, where that matters.

    `reasons` are what was believed of it: predicted cost, probability to work, expected improvement, ...
    """

    config: ServingConfig
    origin: str
    reasons: Mapping[str, float] = field(default_factory=dict)
    node: str = ""


class Recorder:
    """Asks and tells one study. Every method is one or more fenced writes, each safe to repeat."""

    def __init__(
        self,
        storage: Storage,
        study_name: str,
        dimensions: Mapping[str, tuple[Scalar, ...]],
        token_weights: TokenWeights,
        write: Writer,
    ) -> None:
        self.study = optuna.load_study(study_name=study_name, storage=storage.backend)
        self._study_id = storage.backend.get_study_id_from_name(study_name)
        self._storage = storage
        self._dimensions = dimensions
        self._distributions = distributions(dimensions)
        self._weights = token_weights
        self._write = write
        self._prices: Mapping[str, float] = self.study.user_attrs.get(PRICES) or {}
        self._known: list[PastTrial] | None = None
        self._stale: set[int] = set()
        self._ids: dict[int, int] = {}

    def history(self) -> list[PastTrial]:
        """All trials in order. Nobody else writes them: those not written since they were read are as they were."""
        if self._known is None:
            self._known = read_history(self.study)
            self._stale.clear()
        for number in self._stale:
            self._known[number] = self._read(self._trial_id(number))
        self._stale.clear()
        return list(self._known)

    def next_number(self) -> int:
        """The number the next asked trial will have."""
        return len(self.history())

    def ask(self, pick: Pick) -> int:
        """Create the trial. A point outside the grid has no parameters.

        Not Optuna's own `ask`: it hands out what another program has queued, and this study chooses for itself.
        """
        point = coordinates(pick.config, self._dimensions)
        attrs = {"config": pick.config.as_json(), "fingerprint": pick.config.fingerprint, "origin": pick.origin}
        begun = create_trial(
            state=TrialState.RUNNING,
            params={name: point[name] for name in self._distributions} if point is not None else {},
            distributions=self._distributions if point is not None else {},
            user_attrs=attrs | ({"proposal": dict(pick.reasons)} if pick.reasons else {}),
        )
        backend = self._storage.backend
        trial_id = self._write("ask", lambda: backend.create_new_trial(self._study_id, begun))
        trial = self._read(trial_id)
        self._ids[trial.number] = trial_id
        if self._known is not None and trial.number == len(self._known):
            self._known.append(trial)
        else:  # another program made trials too
            self._known = None
        return trial.number

    def commit(self, number: int, spec: TrialSpec) -> None:
        """From here on the trial may be started; a further attempt replaces the former."""
        self._set(number, "spec", spec.as_json())

    def note_shown(self, number: int, spec: TrialSpec, capacity_at_most_req_per_s: float) -> None:
        """A running trial cannot serve more than this; what says no more than was known is not written."""
        rate = capacity_at_most_req_per_s
        least = bound_cost(rate, spec.usd_per_hour, spec.guard, self._weights, spec.workload)
        known = self.history()[number]
        # What is known is at today's price, what is written at the one the trial began with.
        if known.result is None and least * known.price_factor > (known.bound_usd_per_million or 0.0):
            shown = {"attempt": spec.attempt, "bound_req_per_s": _rounded(rate), "bound_usd_per_million": least}
            self._set(number, SHOWN, shown)

    def finish(self, number: int, spec: TrialSpec, result: TrialResult) -> PastTrial:
        """Store the result, then derive and tell the rest. A stored result wins over the given one."""
        history = self.history()
        trial = history[number]
        if trial.finished:
            return trial
        if trial.result is None:
            trial = replace(trial, result=stored_result(result))
            self._set(number, "result", trial.result)
        else:
            result = TrialResult.from_json(trial.result)
        verdict = judge(result, spec, self._weights)
        figures = _figures(result, spec, verdict)
        if (same := same_settings(trial, history)) is not None:
            figures[SAME_AS] = same
        self._change(number, "tell", lambda: self._tell(number, verdict, figures))
        return self.history()[number]

    def finish_told_halfway(self) -> list[PastTrial]:
        """After a restart: finish the trials whose result is stored, set aside those that never started."""
        ended = []
        for trial in self.history():
            if trial.finished:
                continue
            if trial.result is not None and trial.spec is not None:
                spec, result = TrialSpec.from_json(trial.spec), TrialResult.from_json(trial.result)
                ended.append(self.finish(trial.number, spec, result))
            elif trial.spec is None:
                figures = {"state": "abandoned", "failure": ABANDONED}
                self._change(trial.number, "tell", partial(self._tell, trial.number, _ABANDONED, figures))
        return ended

    def _read(self, trial_id: int) -> PastTrial:
        return repriced(past(self._storage.backend.get_trial(trial_id)), self._prices)

    def _trial_id(self, number: int) -> int:
        if number not in self._ids:
            backend = self._storage.backend
            self._ids[number] = backend.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._ids[number]

    def _change(self, number: int, name: str, write: Callable[[], object]) -> None:
        try:
            self._write(name, write)
        finally:
            self._stale.add(number)

    def _set(self, number: int, key: str, value: Any) -> None:
        self._change(number, key, lambda: self._storage.backend.set_trial_user_attr(self._trial_id(number), key, value))

    def _tell(self, number: int, verdict: Verdict, figures: Mapping[str, Any]) -> None:
        """The rest of a trial's story. What an older controller told bit by bit before it was killed is told again."""
        backend, trial_id = self._storage.backend, self._trial_id(number)
        state, bound = TrialState[verdict.told], verdict.bound_usd_per_million
        values = [cost for cost in (verdict.value,) if cost is not None]
        marked = create_trial(state=TrialState.RUNNING, constraints=dict(verdict.constraints))
        # A repeated tell after a lost answer of the database finds the trial finished.
        with suppress(UpdateFinishedTrialError), self._storage.one_commit():
            for key, value in marked.system_attrs.items():
                backend.set_trial_system_attr(trial_id, key, value)
            for key, value in figures.items():
                backend.set_trial_user_attr(trial_id, key, value)
            if verdict.state == "pruned" and bound is not None:  # lets TPE rank it among its like
                backend.set_trial_intermediate_value(trial_id, 0, bound)
                values = [bound]
            backend.set_trial_state_values(trial_id, state, values or None)


def _figures(result: TrialResult, spec: TrialSpec, verdict: Verdict) -> dict[str, Any]:
    """The few readable attributes beside the documents; rounded where a person reads them."""
    figures: dict[str, Any] = {
        "failure": verdict.failure,
        "usd_per_million_output_tokens": verdict.value,
        "bound_usd_per_million_output_tokens": verdict.bound_usd_per_million,
        "capacity_req_per_s": _rounded(result.capacity_req_per_s if verdict.state == "measured" else None),
        "bound_req_per_s": _rounded(result.bound_req_per_s),
        "ttft_p95_s": _rounded(result.ttft_p95_s),
        "start_up_s": _rounded(result.start_up_s),
        "gpu_seconds": _rounded(result.gpu_seconds),
        "node": result.node or None,
        "simulated": result.simulated or spec.simulated,
        "attempt": spec.attempt,
        "state": verdict.state,
    }
    return {key: value for key, value in figures.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
