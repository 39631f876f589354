"""The only writer of trials: ask, spec, result, constraints, tell, in the order that survives SIGKILL anywhere.

    ask        -> a RUNNING trial with its parameters, and config, fingerprint, origin, proposal
    spec       -> the one attribute with everything needed to run; only now may the runtime start it
    result     -> what the runtime reported; from here on the trial is never run again
    tell       -> constraints, figures and bound, derived from `result`, and the state; nothing is written afterwards

Each is one commit. At resume: RUNNING without spec never ran; with spec it may run; with result it only needs the
rest of its story. Knows nothing of runtimes, budgets or samplers' choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.space.config import Scalar, ServingConfig
from tuner.study.history import PRICES, SAME_AS, PastTrial, past, read_history, repriced, same_settings
from tuner.study.params import distributions
from tuner.study.problem import TokenWeights, coordinates
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
        self.study = optuna.load_study(
            study_name=study_name, storage=storage.backend, sampler=optuna.samplers.RandomSampler()
        )
        self._study_id = storage.backend.get_study_id_from_name(study_name)
        self._storage = storage
        self._dimensions = dimensions
        self._distributions = distributions(dimensions)
        self._weights = token_weights
        self._write = write
        self._known: list[PastTrial] | None = None
        self._stale: set[int] = set()
        self._ids: dict[int, int] = {}

    def history(self) -> list[PastTrial]:
        """All trials in order. Nobody else writes them: those not written since they were read are as they were."""
        if self._known is None:
            self._known = read_history(self.study)
            self._stale.clear()
        if self._stale:
            prices: Mapping[str, float] = self.study.user_attrs.get(PRICES) or {}
            for number in self._stale:
                self._known[number] = repriced(past(self._trial(number)), prices)
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
        number = backend.get_trial_number_from_id(trial_id)
        self._ids[number] = trial_id
        self._note_new(number)
        return number

    def _note_new(self, number: int) -> None:
        if self._known is not None and number == len(self._known):
            self._known.append(past(self._trial(number)))
        else:  # another program made trials too
            self._known = None

    def commit(self, number: int, spec: TrialSpec) -> None:
        """From here on the trial may be started; a further attempt replaces the former."""
        self._set(number, "spec", spec.as_json())

    def finish(self, number: int, spec: TrialSpec, result: TrialResult) -> PastTrial:
        """Store the result, then derive and tell the rest. A stored result wins over the given one."""
        frozen = self._trial(number)
        if frozen.state.is_finished():
            return past(frozen)
        if "result" not in frozen.user_attrs:
            self._set(number, "result", stored_result(result))
            frozen = self._trial(number)
        else:
            result = TrialResult.from_json(frozen.user_attrs["result"])
        verdict = judge(result, spec, self._weights)
        figures = _figures(result, spec, verdict)
        if (same := same_settings(past(frozen), self.history())) is not None:
            figures[SAME_AS] = same
        self._tell(number, verdict, figures)
        return past(self._trial(number))

    def finish_told_halfway(self) -> list[PastTrial]:
        """After a restart: finish the trials whose result is stored, set aside those that never started."""
        ended = []
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "result" in frozen.user_attrs:
                spec = TrialSpec.from_json(frozen.user_attrs["spec"])
                result = TrialResult.from_json(frozen.user_attrs["result"])
                ended.append(self.finish(frozen.number, spec, result))
            elif "spec" not in frozen.user_attrs:
                self._tell(frozen.number, _ABANDONED, {"state": "abandoned", "failure": ABANDONED})
        return ended

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.backend.get_trial(self._trial_id(number))

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
        """The rest of a trial's story, as far as it is not there yet: an older controller told it bit by bit."""

        def write() -> None:
            with self._storage.one_commit():
                trial = optuna.Trial(self.study, self._trial_id(number))
                frozen = self._trial(number)
                if frozen.state.is_finished():  # the database's answer to an earlier attempt was lost
                    return
                for key, value in verdict.constraints.items():
                    if key not in frozen.constraints:
                        trial.set_constraint(key, value)
                for key, value in figures.items():
                    if key not in frozen.user_attrs:
                        trial.set_user_attr(key, value)
                bound = verdict.bound_usd_per_million
                if verdict.state == "pruned" and bound is not None and not frozen.intermediate_values:
                    trial.report(bound, 0)  # lets TPE rank it among its like
                self.study.tell(number, verdict.value, state=TrialState[verdict.told])

        self._change(number, "tell", write)


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
