"""Everything right of the study, from the database alone: `summarize` -> `StudySummary` -> JSON.

Reads; never writes, runs or chooses. Report, export and status read this and nothing else of a study.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna

from tuner.errors import UsageError
from tuner.space.config import ServingConfig
from tuner.study.budget import Used, used
from tuner.study.confirm import Standing, sibling, standing
from tuner.study.history import PastState, PastTrial, counted, differences, measured_by_cost, read_history
from tuner.study.opening import EXIT_REASON, IDENTITY, PLAN, STOPPED_BY
from tuner.study.problem import ConfirmPlan
from tuner.study.recheck import Deviation, deviations
from tuner.study.retry import by_configuration
from tuner.study.storage import Storage, open_storage
from tuner.trial.result import UNSPECIFIED

STATES: tuple[PastState, ...] = ("measured", "infeasible", "pruned", "failed", "invalid", "running", "abandoned")
_SEED = "seed:"


@dataclass(frozen=True, slots=True)
class Figures:
    """One configuration and what is known of it. Figures are None where nothing was measured.

    `args` are the measured launch arguments without program and plumbing, `argv` the whole command as it ran.
    `standing` says what the confirmations say, None before any; `confirmed_ttft_p95_s` is the worst of them, also of
    those that missed.
    `failure` is why there are no figures, `same_as` the earlier trial whose engine ran the same settings; `proposal` is
    what the sampler believed beforehand. `usd_per_hour` is the price the trial ran at, `usd_per_hour_now` the one it is
    scored at.
    """

    trial: int
    trial_id: str
    state: str
    origin: str
    config: Mapping[str, Any]
    fingerprint: str
    args: tuple[str, ...]
    argv: tuple[str, ...]
    program: tuple[str, ...]
    env: Mapping[str, str]
    image: str
    image_digest: str
    engine_version: str
    pool: str
    gpus: int
    usd_per_hour: float
    usd_per_million_output_tokens: float | None
    bound_usd_per_million_output_tokens: float | None
    capacity_req_per_s: float | None
    ttft_p95_s: float | None
    output_tokens_per_s: float | None
    start_up_s: float | None
    simulated: bool
    confirmed: bool
    standing: Standing | None
    confirmed_rate_req_per_s: float | None
    confirmed_ttft_p95_s: float | None
    failure: str | None
    same_as: int | None
    constraints: Mapping[str, float]
    result: Mapping[str, Any]
    spec: Mapping[str, Any]
    proposal: Mapping[str, float] = field(default_factory=dict)
    usd_per_hour_now: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The figures without the stored documents behind them."""
        doc = asdict(self)
        for key in ("result", "spec"):
            del doc[key]
        return {**doc, "args": list(self.args), "argv": list(self.argv), "program": list(self.program)}

    @property
    def label(self) -> str:
        """One line for people."""
        return ServingConfig.from_json(self.config).describe() if self.config else f"trial {self.trial}"


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study, read.

    `ranked`: measured configurations, cheapest first. `seeds`: the latest figures of every seed by its name.
    `nearest_miss`: of those that missed a limit at every rate, the one that missed by least. `common_failure` is set
    when every finished trial failed for one reason. `trials_in_order` has every trial that ran, for charts.
    """

    study: str
    uid: str
    storage: str
    trials: Mapping[str, int]
    counted: int
    confirmations: Mapping[str, int]
    best: Figures | None
    nearest_miss: Figures | None
    ranked: tuple[Figures, ...]
    seeds: Mapping[str, Figures]
    trials_in_order: tuple[Figures, ...]
    confirmations_in_order: tuple[Figures, ...]
    used: Used
    plan: Mapping[str, Any]
    identity: Mapping[str, Any]
    exit_reason: str | None
    stopped_by: str | None
    common_failure: str | None
    simulated: bool
    failures: Mapping[str, int] = field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The contract: `study`, `trials` by state, `best`, `exit_reason`; the rest is additional."""
        best = None
        if self.best is not None:
            best = {**self.best.as_json(), "number": self.best.trial}
        return {
            "schema_version": 1,
            "common_failure": self.common_failure,
            "study": self.study,
            "uid": self.uid,
            "storage": self.storage,
            "exit_reason": self.exit_reason,
            "stopped_by": self.stopped_by,
            "trials": dict(self.trials),
            "counted": self.counted,
            "confirmations": dict(self.confirmations),
            "best": best,
            "nearest_miss": self.nearest_miss.as_json() if self.nearest_miss else None,
            "ranked": [figures.as_json() for figures in self.ranked],
            "seeds": {name: figures.as_json() for name, figures in self.seeds.items()},
            "failures": dict(self.failures),
            "budget": {"used": asdict(self.used), "limits": dict(self.plan.get("budget") or {})},
            "limits": dict(self.plan.get("limits") or {}),
            "guard": self.plan.get("guard"),
            "simulated": self.simulated,
        }


def read_summary(storage_url: str, study_name: str | None = None) -> StudySummary:
    """Open a database, summarize one study, close it. Without a name the only study of the database is meant.

    Raises:
        UsageError: no such database or study, or several studies and no name.
    """
    storage = open_storage(storage_url, must_exist=True)
    try:
        return summarize(storage, study_name or only_study(storage))
    finally:
        storage.close()


def study_names(storage: Storage) -> list[str]:
    """The studies of this program in a database, without the confirmations' siblings."""
    studies = storage.backend.get_all_studies()  # Optuna's summaries would read every trial as well
    return sorted(study.study_name for study in studies if IDENTITY in study.user_attrs)


def only_study(storage: Storage) -> str:
    """The one study of a database.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = study_names(storage)
    if len(names) != 1:
        what = f"holds {len(names)} studies ({', '.join(names)}); name one with --study" if names else "holds no study"
        raise UsageError(f"{storage.label}: {what}")
    return names[0]


def summarize(storage: Storage, study_name: str) -> StudySummary:
    """Read one study.

    Raises:
        UsageError: the database has no such study.
    """
    try:
        study = optuna.load_study(study_name=study_name, storage=storage.backend)
    except KeyError:
        known = ", ".join(study_names(storage)) or "none"
        raise UsageError(f"{storage.label}: no study {study_name!r}; it holds: {known}") from None
    attrs = study.user_attrs
    plan = attrs.get(PLAN) or {}
    history = read_history(study)
    runs = _confirmations(storage, study_name)
    standings = _standings(runs, plan)
    ran = [trial for trial in history if trial.spec is not None]
    figures = {trial.number: _figures(trial, standings.get(trial.fingerprint), runs) for trial in ran}
    ranked = tuple(figures[trial.number] for trial in measured_by_cost(history) if trial.number in figures)
    return StudySummary(
        study=study_name,
        uid=str(attrs.get("uid", "")),
        storage=storage.label,
        trials=_by_state(history),
        counted=counted(history),
        confirmations=_by_state(runs),
        best=best_of(ranked),
        nearest_miss=_nearest_miss(history, figures),
        ranked=ranked,
        seeds=_seeds(history, figures),
        trials_in_order=tuple(figures.values()),
        confirmations_in_order=tuple(_figures(trial, None, []) for trial in runs if trial.spec is not None),
        used=used(history, runs, attrs),
        plan=plan,
        identity=attrs.get(IDENTITY) or {},
        exit_reason=attrs.get(EXIT_REASON),
        stopped_by=attrs.get(STOPPED_BY),
        common_failure=common_failure(history),
        simulated=any(trial.simulated for trial in ran) or bool((attrs.get(IDENTITY) or {}).get("simulated")),
        deviations=tuple(deviations(history)),
        failures=dict(Counter(trial.failure_kind or UNSPECIFIED for trial in ran if _has_failed(trial))),
    )


def best_of(ranked: Sequence[Figures]) -> Figures | None:
    """The cheapest confirmed one; else the cheapest no confirmation has refuted; else the cheapest."""
    for wanted in (("holds",), ("open", "undecided", None), ("missed",)):
        for figures in ranked:
            if figures.standing in wanted:
                return figures
    return None


def common_failure(history: Sequence[PastTrial]) -> str | None:
    """The one reason every finished trial failed for, as a sentence; None when any trial did better."""
    ended = [trial for trial in history if trial.finished and trial.state != "abandoned"]
    # A command's failure may have no kind: then its words are the reason.
    kinds = {trial.failure if trial.failure_kind in (None, UNSPECIFIED) else trial.failure_kind for trial in ended}
    if not ended or len(kinds) != 1 or not all(_has_failed(trial) for trial in ended):
        return None
    count = "the only trial" if len(ended) == 1 else f"all {len(ended)} trials"
    return f"{count} failed for one reason: {ended[-1].failure or kinds.pop()}"


def identity_changes(summary: StudySummary, identity: Mapping[str, Any]) -> list[str]:
    """What differs between a stored study and an identity, as `path: old -> new`."""
    return differences(summary.identity, identity)


def _has_failed(trial: PastTrial) -> bool:
    return trial.state in ("failed", "invalid")


def _by_state(history: Sequence[PastTrial]) -> dict[str, int]:
    counts = Counter(trial.state for trial in history)
    return {state: counts[state] for state in STATES}


def _confirmations(storage: Storage, study_name: str) -> list[PastTrial]:
    try:
        return read_history(optuna.load_study(study_name=sibling(study_name), storage=storage.backend))
    except KeyError:
        return []


def _standings(runs: Sequence[PastTrial], plan: Mapping[str, Any]) -> dict[str, Standing]:
    confirm = ConfirmPlan(**(plan.get("confirm") or {}))
    # How often lost repetitions were tried again is the search's business: with any number, "holds" is the same.
    return {
        fingerprint: standing(trials, max(1, confirm.repeats), retries=len(trials))
        for fingerprint, trials in by_configuration(runs).items()
    }


def _nearest_miss(history: Sequence[PastTrial], figures: Mapping[int, Figures]) -> Figures | None:
    missed = [trial for trial in history if trial.state == "infeasible" and trial.number in figures]
    if not missed:
        return None

    def miss(trial: PastTrial) -> tuple[bool, float, int]:
        """A trial that tells by how much it missed comes before one that does not."""
        return trial.ttft_p95_s is None, max(trial.constraints.values(), default=0.0), trial.number

    return figures[min(missed, key=miss).number]


def _seeds(history: Sequence[PastTrial], figures: Mapping[int, Figures]) -> dict[str, Figures]:
    """By name, in the order they were tried; a retry of a seed speaks for it, a measured one before any other."""
    named: dict[str, Figures] = {}
    groups = by_configuration(trial for trial in history if trial.number in figures)
    for trials in groups.values():
        measured = [trial for trial in trials if trial.state == "measured"]
        for trial in trials:
            if trial.origin.startswith(_SEED):
                named.setdefault(trial.origin.removeprefix(_SEED), figures[(measured or trials)[-1].number])
    return named


def _figures(trial: PastTrial, says: Standing | None, runs: Sequence[PastTrial]) -> Figures:
    spec, result = trial.spec or {}, trial.result or {}
    context = spec.get("context") or {}
    told = [run for run in runs if run.fingerprint == trial.fingerprint and run.state in ("measured", "infeasible")]
    return Figures(
        trial=trial.number,
        trial_id=str(spec.get("id", "")),
        state=trial.state,
        origin=trial.origin,
        config=trial.config_json,
        fingerprint=trial.fingerprint,
        args=tuple(context.get("args") or ()),
        argv=tuple(spec.get("argv") or ()),
        program=_words(context.get("program")),
        env=dict(context.get("env") or spec.get("env") or {}),
        image=str(spec.get("image") or ""),
        image_digest=str(result.get("image_digest") or ""),
        engine_version=str(spec.get("engine_version") or ""),
        pool=trial.pool,
        gpus=int(spec.get("gpus") or 0),
        usd_per_hour=float(spec.get("usd_per_hour") or 0.0),
        usd_per_million_output_tokens=trial.usd_per_million,
        bound_usd_per_million_output_tokens=trial.bound_usd_per_million,
        capacity_req_per_s=trial.capacity_req_per_s if trial.state == "measured" else None,
        ttft_p95_s=trial.ttft_p95_s,
        output_tokens_per_s=result.get("output_tokens_per_s"),
        start_up_s=result.get("start_up_s"),
        simulated=trial.simulated,
        confirmed=says == "holds",
        standing=says,
        confirmed_rate_req_per_s=_confirmed_rate(told),
        confirmed_ttft_p95_s=max((run.ttft_p95_s for run in told if run.ttft_p95_s is not None), default=None),
        failure=trial.failure,
        same_as=trial.same_as,
        constraints=trial.constraints,
        result=result,
        spec=spec,
        proposal=trial.proposal,
        usd_per_hour_now=float(spec.get("usd_per_hour") or 0.0) * trial.price_factor,
    )


def _words(program: Any) -> tuple[str, ...]:
    return (program,) if isinstance(program, str) else tuple(program or ())


def _confirmed_rate(told: Sequence[PastTrial]) -> float | None:
    rates = [((run.spec or {}).get("confirm") or {}).get("rate_req_per_s") for run in told]
    return min((float(rate) for rate in rates if rate), default=None)
