"""Creates or reopens a study: identity, uid, seed, epoch, today's prices. Starts and runs nothing.

A study goes on only with what changes no measurement; anything else is refused with the list of differences.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning

from tuner.errors import UsageError
from tuner.study.confirm import sibling
from tuner.study.history import PRICES, PastTrial, differences, read_history
from tuner.study.lock import Ownership
from tuner.study.problem import Problem
from tuner.study.record import Recorder
from tuner.study.storage import Storage
from tuner.study.writer import Writer

IDENTITY = "identity"
PLAN = "plan"
EXIT_REASON = "exit_reason"
STOPPED_BY = "stopped_by"
_QUANTILES = 200
METRIC = "usd_per_million_output_tokens"


@dataclass(frozen=True)
class OpenStudy:
    """A study this controller owns. `confirmations` is its sibling, made when first needed."""

    study: optuna.Study
    trials: Recorder
    uid: str
    seed: int
    resumed: bool


def open_study(
    problem: Problem, storage: Storage, owner: Ownership, write: Writer, *, simulated: bool, seed: int | None
) -> OpenStudy:
    """Create or reopen the study of a problem.

    Raises:
        UsageError: it exists with another identity, or was not made by this program; nothing was written.
    """
    backend = storage.backend
    identity = {"simulated": simulated, **problem.identity}
    resumed = problem.name in optuna.get_all_study_names(backend)
    if resumed:
        _check_identity(optuna.load_study(study_name=problem.name, storage=backend), identity)
        _check_seed(optuna.load_study(study_name=problem.name, storage=backend), seed)
    else:
        write("create study", lambda: _create(problem.name, storage))
    write("epoch", owner.begin)
    study = optuna.load_study(study_name=problem.name, storage=backend)
    attrs = study.user_attrs
    # The identity comes last: without it a study has no trials and is simply made again.
    for key, value in (("uid", secrets.token_hex(6)), ("seed", seed or 0), (IDENTITY, identity)):
        if key not in attrs:
            write(key, partial(study.set_user_attr, key, value))
    refresh(study, write, PLAN, _plan(problem))
    refresh(study, write, PRICES, _new_prices(problem, read_history(study)))
    attrs = study.user_attrs
    trials = Recorder(storage, problem.name, problem.dimensions, problem.token_weights, write)
    return OpenStudy(study, trials, attrs["uid"], int(attrs["seed"]), resumed)


def open_confirmations(problem: Problem, storage: Storage, write: Writer, *, create: bool) -> Recorder | None:
    """The sibling study's recorder; None when there is none and none is to be made."""
    name = sibling(problem.name)
    if name not in optuna.get_all_study_names(storage.backend):
        if not create:
            return None
        write("create study", lambda: _create(name, storage))
    return Recorder(storage, name, problem.dimensions, problem.token_weights, write)


def refresh(study: optuna.Study, write: Writer, key: str, value: Any) -> None:
    """Write a study attribute if it changed."""
    if study.user_attrs.get(key, {}) != value:
        write(key, lambda: study.set_user_attr(key, value))


def _create(name: str, storage: Storage) -> None:
    study = optuna.create_study(study_name=name, storage=storage.backend, direction="minimize", load_if_exists=True)
    with warnings.catch_warnings():
        # Names the axis in dashboards; the method is marked experimental since Optuna 3.2.
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([METRIC])


def _check_identity(study: optuna.Study, identity: Mapping[str, Any]) -> None:
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        if study.get_trials(deepcopy=False):
            raise UsageError(
                f"study {study.study_name}: the database holds a study of this name that this program did not make; "
                "choose another name"
            )
        return
    changes = differences(stored, identity)
    if changes:
        raise UsageError(
            f"study {study.study_name}: was begun with other input, and its measurements do not hold for this one:\n"
            + "\n".join(f"  {line}" for line in changes)
            + "\nundo the change, or start a new study with --new-study NAME --seed-from "
            + study.study_name
        )


def _check_seed(study: optuna.Study, seed: int | None) -> None:
    stored = study.user_attrs.get("seed")
    if seed is not None and stored is not None and seed != stored:
        raise UsageError(f"study {study.study_name}: was begun with --seed {stored}, not {seed}; leave the option out")


def _plan(problem: Problem) -> dict[str, Any]:
    """What a reader needs beside the trials; may change between resumes."""
    return {
        "limits": problem.limits.as_json(),
        "guard": problem.guard,
        "budget": asdict(problem.budget),
        "confirm": asdict(problem.confirm),
        "token_weights": asdict(problem.token_weights),
        "pools": list(problem.pools),
        "space": _space_facts(problem),
    }


def _space_facts(problem: Problem) -> dict[str, Any]:
    """How many points there are, which rules took out others, and how the predicted costs of the valid ones spread.

    The quantiles are what random sampling is compared with; null is a point predicted to serve nothing.
    """
    costs = sorted(c.predicted_usd_per_million for c in problem.candidates)
    at = [costs[round(i * (len(costs) - 1) / _QUANTILES)] for i in range(_QUANTILES + 1)] if costs else []
    return {
        "valid": len(costs),
        "predicted_usd_per_million": [float(f"{cost:.5g}") if math.isfinite(cost) else None for cost in at],
        "rejected": {rule: {"points": count, "why": why} for rule, (count, why) in problem.rejected.items()},
    }


def _new_prices(problem: Problem, history: list[PastTrial]) -> dict[str, float]:
    """Today's price of every configuration tried at another one: prices re-score, they do not re-measure."""
    known = {c.config.fingerprint: c.config for c in problem.candidates}
    known.update({config.fingerprint: config for _, config in problem.seeds})
    prices: dict[str, float] = {}
    for trial in history:
        config = known.get(trial.fingerprint)
        if config is None or trial.spec is None:
            continue
        now = problem.make_spec(config, trial.spec["id"], 1, 0, None, None).usd_per_hour
        if now != trial.spec["usd_per_hour"]:
            prices[trial.fingerprint] = now
    return prices
