"""One trial as this controller knows it, and what its pod says that asks for a closer look."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.runtime.kubernetes.names import CONTAINER
from tuner.runtime.kubernetes.objects import condition, text
from tuner.runtime.kubernetes.place import Place
from tuner.runtime.kubernetes.pods import terminated
from tuner.runtime.kubernetes.site import Json, Key
from tuner.trial.spec import TrialSpec


@dataclass(slots=True)
class Tracked:
    """`stage` is the cluster's word, `told` its runner's own; `runs_in` the pod it runs in, while that is not in doubt.

    `tail_s` is when the end of its log was read last, or may be read again.
    """

    spec: TrialSpec
    place: Place
    manifest: Json
    created: bool = False
    next_try_s: float = 0.0
    stage: str = ""
    told: str = ""
    runs_in: str = ""
    tail_s: float = float("-inf")
    log_tries: int = 0
    ended: bool = False

    @property
    def key(self) -> Key:
        return Key(self.spec.id, self.spec.attempt)


def waits(pod: Json | None) -> bool:
    """Whether events may say why nothing runs."""
    return pod is None or text(pod, "status", "phase") in ("", "Pending")


def doubtful(pod: Json) -> bool:
    """Whether its node may be missing, or lost: only then is it worth asking for the nodes."""
    if not text(pod, "spec", "nodeName") or text(pod, "metadata", "deletionTimestamp"):
        return True
    return text(pod, "status", "phase") == "Running" and condition(pod, "Ready").get("status") != "True"


def ended_at(pod: Json | None) -> str:
    """When its container ended, in a form that sorts; "" if nobody says."""
    return text(terminated(pod, CONTAINER), "finishedAt") if pod else ""
