"""One trial of a study as a value: `PastTrial`, read from the database and from nothing else.

Read by sampler, budget, search and summary. Writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.space.config import ServingConfig

PastState = Literal["running", "measured", "infeasible", "pruned", "failed", "invalid", "abandoned"]

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
SAME_AS = "same_as"
"""Trial attribute: the number of the earlier trial that ran the same settings."""
SHOWN = "shown"
"""Trial attribute: what a running trial has shown of its cost; of no account once it has ended."""
PRICES = "usd_per_hour"
"""Study attribute: fingerprint -> USD per hour, where the price changed since the trial ran."""


@dataclass(frozen=True)
class PastTrial:
    """A trial as the study knows it.

    `usd_per_million` is the measured cost, `bound_usd_per_million` the least a pruned or infeasible one can cost, or a
    running one by what it has shown; both at today's price. `spec` and `result` are the stored JSON documents.
    `counted` trials told the study something; a lost or doubtful one did not. `same_as` is an earlier trial of another
    configuration whose engine ran with the same settings in the end. `proposal` is what the sampler believed of it
    beforehand. `price_factor` is today's price over the one it ran at.
    """

    number: int
    state: PastState
    counted: bool
    fingerprint: str
    origin: str
    config_json: Mapping[str, Any]
    params: Mapping[str, Any]
    constraints: Mapping[str, float]
    attempt: int = 1
    spec: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    usd_per_million: float | None = None
    bound_usd_per_million: float | None = None
    failure: str | None = None
    same_as: int | None = None
    proposal: Mapping[str, float] = field(default_factory=dict)
    price_factor: float = 1.0

    @property
    def finished(self) -> bool:
        return self.state != "running"

    @property
    def failure_class(self) -> str | None:
        return ((self.result or {}).get("failure") or {}).get("class")

    @property
    def failure_kind(self) -> str | None:
        return ((self.result or {}).get("failure") or {}).get("kind")

    @property
    def recognised(self) -> bool:
        """False for a crash whose log matches nothing known."""
        return bool(((self.result or {}).get("failure") or {}).get("recognised", True))

    @property
    def capacity_req_per_s(self) -> float | None:
        return (self.result or {}).get("capacity_req_per_s")

    @property
    def ttft_p95_s(self) -> float | None:
        return (self.result or {}).get("ttft_p95_s")

    @property
    def effective_fingerprint(self) -> str | None:
        """Equal for engines that ran the same settings, though they were asked differently; None: not known."""
        return ((self.result or {}).get("effective") or {}).get("fingerprint")

    @property
    def node(self) -> str:
        return str((self.result or {}).get("node") or "")

    @property
    def pool(self) -> str:
        return str(self.config_json.get("pool", ""))

    @property
    def simulated(self) -> bool:
        return bool((self.result or {}).get("simulated") or (self.spec or {}).get("simulated"))

    @property
    def gpu_hours(self) -> float:
        return float((self.result or {}).get("gpu_seconds") or 0.0) / 3600

    @property
    def usd(self) -> float:
        """What the trial itself cost: hours held x the price it was started at."""
        gpus = int((self.spec or {}).get("gpus") or 1)
        return self.gpu_hours / gpus * float((self.spec or {}).get("usd_per_hour") or 0.0)

    @cached_property
    def config(self) -> ServingConfig:
        return ServingConfig.from_json(self.config_json)


def read_history(study: optuna.Study) -> list[PastTrial]:
    """All trials of a study in order, at today's prices."""
    prices: Mapping[str, float] = study.user_attrs.get(PRICES) or {}
    return [repriced(past(trial), prices) for trial in study.get_trials(deepcopy=False)]


def past(trial: FrozenTrial) -> PastTrial:
    """Read one trial; a missing attribute means that the controller was killed before writing it."""
    attrs = trial.user_attrs
    state = _state(trial)
    return PastTrial(
        number=trial.number,
        state=state,
        counted=trial.state in COUNTED,
        fingerprint=attrs.get("fingerprint", ""),
        origin=attrs.get("origin", ""),
        config_json=attrs.get("config") or {},
        params=trial.params,
        constraints=trial.constraints,
        attempt=(attrs.get("spec") or {}).get("attempt", 1),
        spec=attrs.get("spec"),
        result=attrs.get("result"),
        usd_per_million=attrs.get("usd_per_million_output_tokens") if state == "measured" else None,
        bound_usd_per_million=_shown(attrs) if state == "running" else attrs.get("bound_usd_per_million_output_tokens"),
        failure=attrs.get("failure"),
        same_as=attrs.get(SAME_AS),
        proposal=attrs.get("proposal") or {},
    )


def _shown(attrs: Mapping[str, Any]) -> float | None:
    """The bound its present attempt has shown."""
    shown = attrs.get(SHOWN) or {}
    attempt = (attrs.get("spec") or {}).get("attempt")
    return shown.get("bound_usd_per_million") if shown.get("attempt") == attempt else None


def _state(trial: FrozenTrial) -> PastState:
    if trial.state is TrialState.RUNNING:
        return "running"
    state: PastState = trial.user_attrs.get("state", "abandoned")
    return state


def repriced(trial: PastTrial, prices: Mapping[str, float]) -> PastTrial:
    """The same trial at today's price: cost is proportional to it, capacity does not change."""
    price, then = prices.get(trial.fingerprint), (trial.spec or {}).get("usd_per_hour")
    if price is None or not then or price == then:
        return trial
    return replace(
        trial,
        usd_per_million=_times(trial.usd_per_million, price / then),
        bound_usd_per_million=_times(trial.bound_usd_per_million, price / then),
        price_factor=price / then,
    )


def same_settings(trial: PastTrial, history: Iterable[PastTrial]) -> int | None:
    """The first earlier trial of another configuration whose engine resolved its settings to the same.

    That is known only once the engine has started: both stay measured, as two samples of one thing.
    """
    mine = trial.effective_fingerprint
    alike = (
        other.number
        for other in history
        if other.number < trial.number
        and other.fingerprint != trial.fingerprint
        and other.effective_fingerprint == mine
    )
    return next(alike, None) if mine else None


def _times(figure: float | None, factor: float) -> float | None:
    return None if figure is None else figure * factor


def counted(history: Iterable[PastTrial]) -> int:
    """Trials that count against `--trials`: those that told the study something."""
    return sum(trial.counted for trial in history)


def measured_by_cost(history: Iterable[PastTrial]) -> list[PastTrial]:
    """Measured trials, cheapest first; of several of one configuration the latest."""
    latest = {trial.fingerprint: trial for trial in history if trial.state == "measured"}
    return sorted(latest.values(), key=lambda trial: (trial.usd_per_million or 0.0, trial.number))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two JSON documents, as `path: old -> new`, in the order of the paths."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for key in sorted({*old, *new}, key=str):
            inner = f"{path}.{key}" if path else str(key)
            lines += differences(old.get(key, _ABSENT), new.get(key, _ABSENT), inner)
        return lines
    if _is_list(old) and _is_list(new) and len(old) == len(new):
        return [line for i in range(len(old)) for line in differences(old[i], new[i], f"{path}[{i}]")]
    return [] if _same(old, new) else [f"{path}: {_show(old)} -> {_show(new)}"]


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, (int, float)) and isinstance(new, (int, float)):
        return old == new and isinstance(old, bool) is isinstance(new, bool)
    return json.dumps(old, default=str, sort_keys=True) == json.dumps(new, default=str, sort_keys=True)


class _Absent:
    def __str__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()
_SHOWN_CHARACTERS = 120


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _show(value: Any) -> str:
    text = str(value) if isinstance(value, _Absent) else json.dumps(value, default=str, sort_keys=True)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
