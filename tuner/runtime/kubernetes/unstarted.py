"""Why the containers of a pod that has its node do not run: image, configuration, volumes, or only time.

Pure. What can only be a mistake ends in seconds; what a registry or a volume may still get over is given its time.
"""

from __future__ import annotations

import re
from typing import Any

from tuner.runtime.kubernetes.objects import event_time, text
from tuner.runtime.kubernetes.pods import Pod, name_of, node_of, placed_at, statuses, waiting_container
from tuner.runtime.kubernetes.unplaced import SETTLE_S, age_of_trial_s, newest
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot, Verdict, lost, misfit, waiting

UNREACHABLE_S = 45.0
"""A registry that cannot be reached: the kubelet has tried three times by then."""
BUSY_REGISTRY_S = 900.0
"""A registry that says "too many" or "unavailable"; the kubelet asks every 5 minutes in the end."""
PULL_S = 3600.0
"""An image of 30 GB over 10 MB/s."""
START_S = 600.0

_IMAGE_REASONS = frozenset(
    [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    ]
)
_IMAGE_WRONG = re.compile(
    r"not found|manifest unknown|does not exist|unauthorized|denied|forbidden|authentication required|"
    r"insufficient_scope|no match for platform|invalid reference|not present with pull policy",
    re.IGNORECASE,
)
_IMAGE_PASSING = re.compile(
    r"toomanyrequests|too many requests|rate limit|service unavailable|bad gateway|gateway time|internal server error|"
    r"unexpected EOF|connection reset|no space left",
    re.IGNORECASE,
)
_MISSING = re.compile(r'(?P<kind>secret|configmap|persistentvolumeclaim) "(?P<name>[^"]+)" not found')
_MISSING_KEY = re.compile(r"references? non-existent (secret|config) key|couldn't find key", re.IGNORECASE)
_ABOUT_VOLUMES = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox")


def without_start(snapshot: Snapshot, pod: Pod, expected: Expectation) -> Verdict:
    """The pod has a node and the trial's container has not run yet."""
    container, reason, said = waiting_container(pod)
    if reason in _IMAGE_REASONS:
        return _image(snapshot, pod, container, reason, said or _event_text(snapshot, "Failed"), expected)
    if reason:
        return _not_made(snapshot, pod, container, reason, said, expected)
    if (trouble := _trouble(snapshot)) is not None:
        return _volume(snapshot, pod, text(trouble, "message"), expected)
    return _takes_time(snapshot, pod)


def _image(snapshot: Snapshot, pod: Pod, container: str, reason: str, said: str, expected: Expectation) -> Verdict:
    image = next((text(s, "image") for s in statuses(pod) if text(s, "name") == container), "") or "of the pod"
    cause = said.replace(image, "the image") if image else said
    wrong = reason in ("ErrImageNeverPull", "InvalidImageName", "SignatureValidationFailed")
    wrong = wrong or (bool(_IMAGE_WRONG.search(cause)) and not _IMAGE_PASSING.search(cause))
    patience_s = 0.0 if wrong else BUSY_REGISTRY_S if _IMAGE_PASSING.search(cause) else UNREACHABLE_S
    if _placed_s(snapshot, pod) < patience_s:
        return waiting(f"pulling image {image}: {said or reason}")
    secrets = _event_text(snapshot, "FailedToRetrieveImagePullSecret")
    why = f"{said or reason}{'; ' if secrets else ''}{secrets}"
    message = f"image {image} cannot be pulled - pool {expected.pool}, pod {name_of(pod)}: {why} - "
    message += "correct the image or image_pull_secrets, or make its registry reachable from the nodes"
    passing = patience_s == BUSY_REGISTRY_S or (container == expected.container and expected.own_image)
    return lost("image_pull", message) if passing else misfit("image_pull", message, expected)


def _not_made(snapshot: Snapshot, pod: Pod, container: str, reason: str, said: str, expected: Expectation) -> Verdict:
    if _placed_s(snapshot, pod) < SETTLE_S:
        return waiting(f"container {container} is not created yet: {reason} {said}".rstrip())
    what = f"container {container} cannot be created ({reason}) - pod {name_of(pod)} on node {node_of(pod)}: {said}"
    if reason == "CreateContainerConfigError":
        step = "create what is missing in the namespace, or correct the pool's env, volumes or pod_patch"
        return misfit("container_config", f"{what} - {step}", expected)
    return lost("container_create", f"{what} - see kubectl describe pod; the trial is repeated")


def _trouble(snapshot: Snapshot) -> Any:
    """The newest event about volumes or the sandbox, unless the pod got past it."""
    found = newest(snapshot, *_ABOUT_VOLUMES, "Pulling", "Pulled", "Created", "Started")
    return found[-1] if found and text(found[-1], "reason") in _ABOUT_VOLUMES else None


def _volume(snapshot: Snapshot, pod: Pod, said: str, expected: Expectation) -> Verdict:
    placed_s = _placed_s(snapshot, pod)
    if placed_s < SETTLE_S:
        return waiting(f"mounting volumes: {said}")
    if missing := _MISSING.search(said):
        message = (
            f"there is no {missing['kind']} {missing['name']} in the namespace - "
            f"pool {expected.pool} mounts it: {said} - create it, or correct the pool"
        )
        return misfit("volume_missing", message, expected)
    if _MISSING_KEY.search(said):
        message = f"a key is missing in a secret or config map - pool {expected.pool}: {said} - add it"
        return misfit("volume_missing", message, expected)
    hopeless = "hostPath type check failed" in said or "is not a directory" in said
    if hopeless or placed_s > START_S:
        message = f"a volume cannot be mounted - pod {name_of(pod)} on node {node_of(pod)}: {said} - "
        return lost("mount", message + "put the folder on every node of the pool, or correct the pool")
    return waiting(f"mounting volumes: {said}")


def _takes_time(snapshot: Snapshot, pod: Pod) -> Verdict:
    steps = newest(snapshot, "Pulling", "Pulled", "Created", "Started")
    pulling = bool(steps) and text(steps[-1], "reason") == "Pulling"
    stage = text(steps[-1], "message") if pulling else "creating its containers"
    limit_s = PULL_S if pulling else START_S
    last = max((when for event in steps if (when := event_time(event))), default=None)
    since_s = (snapshot.now - last).total_seconds() if last else _placed_s(snapshot, pod)
    if min(since_s, _placed_s(snapshot, pod)) <= limit_s:
        return waiting(stage or "pulling the image")
    where = f"pod {name_of(pod)} on node {node_of(pod)}"
    message = f"its containers did not start in {limit_s / 60:.0f} min - {where}: {stage} - "
    return lost("start", message + "see kubectl describe pod; the trial is repeated")


def _event_text(snapshot: Snapshot, reason: str) -> str:
    """The longest of the newest two: after "Failed to pull" comes a bare "Error: ErrImagePull"."""
    return max((text(event, "message") for event in newest(snapshot, reason)[-2:]), key=len, default="")


def _placed_s(snapshot: Snapshot, pod: Pod) -> float:
    since = placed_at(pod)
    return max(0.0, (snapshot.now - since).total_seconds()) if since else age_of_trial_s(snapshot)
