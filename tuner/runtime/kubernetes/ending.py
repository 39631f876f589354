"""How a trial on a cluster ended, as a `TrialResult`: its own document where there is one, else what the cluster says.

Pure. Knows no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tuner.runtime.kubernetes.booking import booked
from tuner.runtime.kubernetes.harvest import harvest, is_checkpoint
from tuner.runtime.kubernetes.names import CONTAINER
from tuner.runtime.kubernetes.objects import text
from tuner.runtime.kubernetes.pods import terminated
from tuner.runtime.kubernetes.verdict import Verdict
from tuner.trial.result import Failure, FailureClass, TrialResult
from tuner.trial.spec import TrialSpec

_TAIL_CHARS = 2000
_RECORD = "tuner-record "


def result_of(
    spec: TrialSpec, verdict: Verdict, pod: Mapping[str, Any] | None, log: str | None, now: datetime
) -> tuple[TrialResult, bool]:
    """What to record of a trial whose verdict is an end, and whether its runner left anything at all.

    A document that the runner had not finished keeps its levels, and the verdict says why it ended.
    """
    message = text(terminated(pod, CONTAINER), "message") if pod else ""
    own = harvest(spec, message=message, log=log)
    ran = own is not None
    if own is None or is_checkpoint(own):
        bare = own or TrialResult(spec.id, "failed", simulated=spec.simulated)
        own = replace(bare, state="failed", failure=_failure(verdict, log))
    return booked(own, spec, pod, now), ran


def _failure(verdict: Verdict, log: str | None) -> Failure:
    said: FailureClass = "configuration" if "configuration" in (verdict.kind, verdict.otherwise) else "infrastructure"
    return Failure(said, verdict.failure_kind, verdict.message, log_tail=_tail(log))


def _tail(log: str | None) -> str:
    """What the image itself printed, such as why its python3 could not start; records are the runner's."""
    lines = [line for line in (log or "").splitlines() if _RECORD not in line]
    return "\n".join(lines)[-_TAIL_CHARS:]
