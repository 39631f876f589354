"""What a trial's pod adds to its result: the time its GPUs were held, the node, and the image that really ran. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tuner.runtime.kubernetes.names import CONTAINER
from tuner.runtime.kubernetes.objects import at, condition, many, moment, text
from tuner.trial.result import TrialResult
from tuner.trial.spec import TrialSpec

_SHA256 = "sha256:"

Pod = Mapping[str, Any]


def held_s(pod: Pod | None, now: datetime) -> float:
    """Seconds the pod kept its GPUs: from its node's choice until its container ended. Waiting in the queue is free."""
    scheduled = condition(pod, "PodScheduled")
    since = moment(scheduled, "lastTransitionTime") if scheduled.get("status") == "True" else None
    since = since or moment(pod, "status", "startTime")
    if since is None or not text(pod, "spec", "nodeName"):
        return 0.0
    until = moment(_own(pod), "state", "terminated", "finishedAt") or now
    return max(0.0, (until - since).total_seconds())


def booked(result: TrialResult, spec: TrialSpec, pod: Pod | None, now: datetime) -> TrialResult:
    """The result with what only the pod knows. Times of a pod are whole seconds: the runner's own stand where longer."""
    return replace(
        result,
        gpu_seconds=max(result.gpu_seconds, spec.gpus * held_s(pod, now)),
        node=text(pod, "spec", "nodeName") or result.node,
        image_digest=digest_of(pod) or result.image_digest,
    )


def digest_of(pod: Pod | None) -> str:
    """`sha256:...` of the image that the trial's container runs, as its node says; "" while it does not."""
    found = text(_own(pod), "imageID").rpartition("@")[2].removeprefix("docker://")
    return found if found.startswith(_SHA256) else ""


def _own(pod: Pod | None) -> Mapping[str, Any]:
    statuses = many(pod, "status", "containerStatuses")
    return next((status for status in statuses if at(status, "name") == CONTAINER), {})


@dataclass(slots=True)
class Pins:
    """Which digest each image tag meant when it first ran in this study: the tag may move meanwhile."""

    digests: dict[str, str] = field(default_factory=dict)

    def differs(self, image: str, pod: Pod | None) -> str:
        """What is wrong with the pod's image, "" if nothing; the first digest of an image pins it."""
        digest = digest_of(pod)
        if not digest:
            return ""
        pinned = self.digests.setdefault(image, digest)
        if pinned == digest:
            return ""
        return (
            f"node {text(pod, 'spec', 'nodeName')} runs another image under the same tag - {image} is {digest} there and "
            f"{pinned} in this study - pull the image anew on that node, or name it by its digest in the space file"
        )
