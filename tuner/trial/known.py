"""What a trial has learned so far, and the result it makes: at its end, and whenever it might be killed.

No secret leaves through here, whatever text it got into.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import tuner
from tuner.probe.measurement import Level
from tuner.space.secrets import masked
from tuner.trial import effective
from tuner.trial.result import Failure, State, TrialResult
from tuner.trial.spec import TrialSpec


@dataclass(slots=True)
class Known:
    """Grows while the trial runs. `secrets` are values that no result may hold."""

    spec: TrialSpec
    secrets: tuple[str, ...] = ()
    start_up_s: float | None = None
    effective: dict[str, Any] = field(default_factory=dict)
    simulated: bool = False
    engine_version: str = ""
    levels: list[Level] = field(default_factory=list)
    phase: Literal["start", "load"] = "start"
    retractions: int = 0

    def learn(self, server_info: Mapping[str, Any]) -> None:
        """Take what the engine says of itself; the rest of what decides over speed is the trial's own."""
        spec = self.spec
        around = {"env": effective.environment_of(spec.env), "image": spec.image, "pool": spec.pool}
        self.effective = effective.summary(spec.argv, server_info, around)
        self.simulated = self.simulated or server_info.get("simulated") is True
        self.engine_version = str(server_info.get("version", ""))

    def result(
        self,
        state: State,
        gpu_seconds: float,
        *,
        failure: Failure | None = None,
        client: Mapping[str, Any] | None = None,
        **figures: Any,
    ) -> TrialResult:
        """The result if this were the end."""
        retractions = {"retractions": self.retractions} if self.retractions else {}
        return TrialResult(
            id=self.spec.id,
            state=state,
            failure=_masked(failure, self.secrets),
            levels=tuple(self.levels),
            effective=masked({**self.effective, **retractions}, self.secrets),
            start_up_s=self.start_up_s,
            gpu_seconds=gpu_seconds,
            node=os.environ.get("NODE_NAME") or socket.gethostname(),
            client=masked(client or {}, self.secrets),
            simulated=self.simulated,
            versions=self._versions(),
            **figures,
        )

    def _versions(self) -> dict[str, str]:
        versions = {"tuner": tuner.__version__, "python": platform.python_version()}
        if self.engine_version:
            versions["engine"] = self.engine_version
        if self.spec.engine_version:
            versions["engine_expected"] = self.spec.engine_version
        return versions


def _masked(failure: Failure | None, secrets: tuple[str, ...]) -> Failure | None:
    if failure is None:
        return None
    return replace(failure, message=masked(failure.message, secrets), log_tail=masked(failure.log_tail, secrets))
