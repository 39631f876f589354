"""A study in its database as the events a watcher of its search would have seen: what runs, what ended last.

So that `tuner status` and the running search show the same. Reads; never writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from tuner.errors import UsageError
from tuner.study.budget import used
from tuner.study.bulletin import Posted, posted
from tuner.study.confirm import sibling
from tuner.study.events import Event, Ledger, StudyOpened, TrialEnded, TrialStage, TrialStarted
from tuner.study.history import PastTrial, counted, measured_by_cost, read_history
from tuner.study.ledger import ledger
from tuner.study.opening import EXIT_REASON, IDENTITY, PLAN, STOPPED_BY
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.storage import Storage
from tuner.study.summary import only_study, study_names

ENDED_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Replay:
    """What the database says now. `events` carry the Unix time they happened at.

    `written_at` is when the controller last told the stages of its trials; None when it never did.
    """

    study: str
    events: tuple[tuple[float, Event], ...]
    simulated: bool
    exit_reason: str | None
    stopped_by: str | None
    written_at: float | None


def replay(storage: Storage, study_name: str | None = None) -> Replay:
    """Read one study.

    Raises:
        UsageError: the database has no such study, or several and no name was given.
    """
    name = study_name or only_study(storage)
    try:
        study = optuna.load_study(study_name=name, storage=storage.backend)
    except KeyError:
        known = ", ".join(study_names(storage)) or "none"
        raise UsageError(f"{storage.label}: no study {name!r}; it holds: {known}") from None
    try:
        again: optuna.Study | None = optuna.load_study(study_name=sibling(name), storage=storage.backend)
    except KeyError:
        again = None
    attrs, trials = study.user_attrs, read_history(study)
    runs = read_history(again) if again else []
    board = posted(attrs)
    told = _told(study, trials, board, confirmation=False) + (
        _told(again, runs, board, confirmation=True) if again else []
    )
    opened: list[tuple[float, Event]] = [(0.0, StudyOpened(name, str(attrs.get("uid", "")), True, counted(trials)))]
    book: list[tuple[float, Event]] = [(board.at or 0.0, _ledger(attrs, trials, runs, board.slots))]
    ended = sorted((e for e in told if isinstance(e[1], TrialEnded)), key=lambda e: e[0])[-ENDED_SHOWN:]
    running = [e for e in told if not isinstance(e[1], TrialEnded)]
    return Replay(
        study=name,
        events=(*opened, *ended, *running, *book),
        simulated=bool((attrs.get(IDENTITY) or {}).get("simulated")),
        exit_reason=attrs.get(EXIT_REASON),
        stopped_by=attrs.get(STOPPED_BY),
        written_at=board.at,
    )


def replay_or_none(storage: Storage, study_name: str | None = None) -> Replay | None:
    """The same, or None while the database does not answer."""
    try:
        return replay(storage, study_name)
    except (StorageInternalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError):
        return None


def _ledger(attrs: Mapping[str, Any], trials: Sequence[PastTrial], runs: Sequence[PastTrial], slots: int) -> Ledger:
    plan = attrs.get(PLAN) or {}
    budget, confirm = Budget(**(plan.get("budget") or {})), ConfirmPlan(**(plan.get("confirm") or {}))
    return ledger(budget, confirm, plan.get("limits") or {}, used(trials, runs, attrs), trials, runs, slots)


def _told(
    study: optuna.Study, history: Sequence[PastTrial], board: Posted, *, confirmation: bool
) -> list[tuple[float, Event]]:
    """The events of every trial that ran, in the order of their numbers."""
    times = {t.number: (t.datetime_start, t.datetime_complete) for t in study.get_trials(deepcopy=False)}
    best = next(iter(measured_by_cost(history)), None)
    told: list[tuple[float, Event]] = []
    so_far = 0
    for trial in history:
        so_far += trial.counted
        if trial.spec is None:
            continue
        began, done = (0.0 if at is None else at.timestamp() for at in times[trial.number])
        if trial.finished:
            is_best = not confirmation and best is not None and best.number == trial.number
            told.append((done, _ended(trial, so_far, best=is_best, confirmation=confirmation)))
        else:
            told += _running(trial, began, board, confirmation=confirmation)
    return told


def _running(trial: PastTrial, began: float, board: Posted, *, confirmation: bool) -> list[tuple[float, Event]]:
    trial_id = str((trial.spec or {}).get("id", ""))
    since = board.since.get(trial_id, began)
    started = TrialStarted(trial.number, trial_id, trial.config, trial.origin, trial.attempt, confirmation)
    if trial_id not in board.stages:
        return [(since, started)]
    return [(since, started), (since, TrialStage(trial.number, trial_id, board.stages[trial_id], confirmation))]


def _ended(trial: PastTrial, so_far: int, *, best: bool, confirmation: bool) -> TrialEnded:
    return TrialEnded(
        trial.number,
        str((trial.spec or {}).get("id", "")),
        trial.config,
        trial.state,
        so_far,
        trial.usd_per_million,
        trial.capacity_req_per_s,
        trial.ttft_p95_s,
        trial.failure,
        best=best,
        confirmation=confirmation,
    )
