"""Reading one pod: which of its containers is the trial's, whether it has ended, since when, why it waits.

Pure; knows what a pod says, not what that means for a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from tuner.runtime.kubernetes.objects import at, condition, many, moment, number, text

# A side car may go on after the trial's container; its kubelet gets this long to write down why that one ended.
_SIDE_CAR_S = 15.0

# A container that could not be started "started" at the epoch.
_NEVER_YEAR = 1970

Pod = Mapping[str, Any]


def name_of(pod: Pod) -> str:
    """Its name, for messages."""
    return text(pod, "metadata", "name") or "of the trial"


def node_of(pod: Pod) -> str:
    """Its node; "" while it has none."""
    return text(pod, "spec", "nodeName")


def init_statuses(pod: Pod) -> list[Mapping[str, Any]]:
    """Of its init containers."""
    return many(pod, "status", "initContainerStatuses")


def statuses(pod: Pod) -> list[Mapping[str, Any]]:
    """Of all containers, init containers first. The API sorts each list by name: never take one by its place."""
    return init_statuses(pod) + many(pod, "status", "containerStatuses")


def trial_status(pod: Pod, container: str) -> Mapping[str, Any]:
    """The status of the trial's container; an empty one if it has none yet."""
    return next((s for s in many(pod, "status", "containerStatuses") if text(s, "name") == container), {})


def terminated(pod: Pod, container: str) -> Mapping[str, Any]:
    """How the trial's container ended; empty while it has not."""
    found = at(trial_status(pod, container), "state", "terminated")
    return found if isinstance(found, Mapping) else {}


def has_ended(pod: Pod, container: str, now: datetime) -> bool:
    """Whether nothing of the trial can change any more: its pod has ended, or its container beside a side car."""
    if text(pod, "status", "phase") in ("Succeeded", "Failed"):
        return True
    if restarts(pod, container) or text(pod, "spec", "restartPolicy") in ("Always", "OnFailure"):
        return False
    finished = moment(terminated(pod, container), "finishedAt")
    return finished is not None and now - finished > timedelta(seconds=_SIDE_CAR_S)


def restarts(pod: Pod, container: str) -> int:
    """How often the trial's container was started again."""
    return number(trial_status(pod, container), "restartCount")


def started_at(pod: Pod, container: str) -> datetime | None:
    """When the trial's container first ran; None if it never did."""
    status = trial_status(pod, container)
    paths = (("lastState", "terminated"), ("state", "terminated"), ("state", "running"))
    found = (moment(status, *path, "startedAt") for path in paths)
    return next((when for when in found if when and when.year > _NEVER_YEAR), None)


def placed_at(pod: Pod) -> datetime | None:
    """When it got its node; None while it has none."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return None
    return moment(pod, "status", "startTime") or (
        moment(scheduled, "lastTransitionTime") if scheduled.get("status") == "True" else None
    )


def waiting_container(pod: Pod) -> tuple[str, str, str]:
    """(container, reason, message) of the first container that waits for something of its own; else empty texts."""
    for status in statuses(pod):
        reason = text(status, "state", "waiting", "reason")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return text(status, "name"), reason, text(status, "state", "waiting", "message")
    return "", "", ""


def failed_init(pod: Pod) -> Mapping[str, Any]:
    """The status of an init container that ended badly; empty if none did."""
    return next((s for s in init_statuses(pod) if number(s, "state", "terminated", "exitCode") != 0), {})
