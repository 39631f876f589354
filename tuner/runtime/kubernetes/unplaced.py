"""Why a trial has no pod, or its pod no node: suspended by a queue, refused, busy, scaled up for, or never.

Pure. Whether a node could ever hold the pod is decided from the nodes; what the scheduler says is only the message,
unless nodes may not be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tuner.runtime.kubernetes.inventory import Needs, Survey, counted, needs_of, survey
from tuner.runtime.kubernetes.objects import at, condition, event_time, moment, text
from tuner.runtime.kubernetes.pods import Pod, name_of
from tuner.runtime.kubernetes.refusals import pod_refused
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot, Verdict, lost, misfit, too_large, waiting

SETTLE_S = 20.0
"""The scheduler and the controllers read caches; a thing just made may be missing in their first words."""
NO_POD_S = 600.0
NODE_RETURN_S = 1800.0
"""Nodes that could hold the trial are not ready: a reboot of a large server with its drivers takes 20 minutes."""
NODES_UNREADABLE_S = 60.0
VOLUME_S = 300.0
# One look at the groups takes the autoscaler 10 s; it says no for the first time before it has looked at all of them.
_AUTOSCALER_SAYS_NO_S = 120.0
_AUTOSCALE_S = 1800.0  # where a pool scales although its space file does not say so
_KUEUE_SILENT_S = 60.0

# What the scheduler also says of nodes that another trial has, or that will be back.
_BUSY_OR_PASSING = ("No preemption victims", "anti-affinity", "were unschedulable")

_MISSING_CLAIM = re.compile(r'persistentvolumeclaim "(?P<name>[^"]+)" (not found|is being deleted)')


def age_s(snapshot: Snapshot, *path: str) -> float:
    """Seconds since a time of the Job or, if that is not known, of the pod."""
    since = moment(snapshot.job, *path) or moment(snapshot.pod, *path)
    return max(0.0, (snapshot.now - since).total_seconds()) if since else 0.0


def age_of_trial_s(snapshot: Snapshot) -> float:
    """Seconds since the trial was created."""
    return age_s(snapshot, "metadata", "creationTimestamp")


def without_pod(snapshot: Snapshot, expected: Expectation) -> Verdict:
    """The Job is there and no pod is."""
    for kind in ("Failed", "FailureTarget", "Complete"):
        found = condition(snapshot.job, kind)
        if found.get("status") == "True":
            return _vanished(snapshot, text(found, "reason"), text(found, "message"))
    if at(snapshot.job, "spec", "suspend") is True:
        return _suspended(snapshot, expected)
    refused = newest(snapshot, "FailedCreate")
    created = newest(snapshot, "SuccessfulCreate")
    if refused and not created:
        return pod_refused(text(refused[-1], "message"), expected)
    if age_of_trial_s(snapshot) > NO_POD_S:
        said = f": {text(refused[-1], 'message')}" if refused else ""
        message = f"no pod was created in {NO_POD_S / 60:.0f} min{said} - job {_job_name(snapshot)} - "
        return lost("no_pod", message + "see kubectl describe job")
    return waiting("waiting for its pod to be created")


def newest(snapshot: Snapshot, *reasons: str) -> list[Any]:
    """The events with one of these reasons, the latest last."""
    found = [event for event in snapshot.events if text(event, "reason") in reasons]
    return sorted(found, key=lambda event: when.timestamp() if (when := event_time(event)) else 0.0)


def _vanished(snapshot: Snapshot, reason: str, message: str) -> Verdict:
    said = f"{reason} {message}".strip() or "no reason given"
    text_ = (
        f"the trial's pod is gone and its result with it - job {_job_name(snapshot)}: {said} - the trial is repeated"
    )
    return lost("deadline" if reason == "DeadlineExceeded" else "pod_gone", text_)


def _suspended(snapshot: Snapshot, expected: Expectation) -> Verdict:
    if expected.queue is None:
        return waiting(f"suspended: job {_job_name(snapshot)} waits until somebody resumes it")
    silent = not newest(snapshot, "CreatedWorkload", "UpdatedWorkload", "Started", "Stopped", "Suspended")
    if silent and age_of_trial_s(snapshot) > _KUEUE_SILENT_S:
        return waiting(f"queued: Kueue has not taken it up; is there a LocalQueue {expected.queue} in the namespace?")
    return waiting(f"queued by Kueue in {expected.queue}")


def without_node(snapshot: Snapshot, pod: Pod, expected: Expectation) -> Verdict:
    """The pod is there and no node has it."""
    scheduled = condition(pod, "PodScheduled")
    said = text(scheduled, "message")
    if text(scheduled, "reason") == "SchedulingGated":
        return waiting("queued: its pod is held back by a scheduling gate")
    if text(scheduled, "reason") != "Unschedulable":
        return waiting("waiting for the scheduler")
    if missing := _MISSING_CLAIM.search(said):
        return _claim_missing(snapshot, missing["name"], expected)
    if "unbound immediate PersistentVolumeClaims" in said and _pending_s(snapshot, pod) > VOLUME_S:
        message = f"a volume claim of the pool is not bound - pod {name_of(pod)}: {said} - see kubectl describe pvc"
        return misfit("volume_unbound", message, expected)
    if snapshot.nodes is None:
        return _by_its_words(snapshot, pod, said, expected)
    return _by_inventory(snapshot, pod, said, snapshot.nodes, expected)


def _claim_missing(snapshot: Snapshot, name: str, expected: Expectation) -> Verdict:
    if age_of_trial_s(snapshot) < SETTLE_S:
        return waiting(f"waiting for volume claim {name}")
    message = (
        f"there is no PersistentVolumeClaim {name} - pool {expected.pool} mounts it - create it, or correct the pool"
    )
    return misfit("volume_missing", message, expected)


def _by_inventory(snapshot: Snapshot, pod: Pod, said: str, nodes: Sequence[Any], expected: Expectation) -> Verdict:
    needs = needs_of(at(pod, "spec") or at(snapshot.job, "spec", "template", "spec"))
    found = survey(nodes, needs, expected.gpu_resource)
    if found.ready:
        return waiting(f"waiting for a free node ({len(found.ready)} could hold it): {said}")
    if found.could:
        return _not_ready(snapshot, pod, found, expected)
    if (scaling := _autoscaler(snapshot, pod, expected)) is not None:
        return scaling
    if age_of_trial_s(snapshot) < SETTLE_S:
        return waiting(f"no node could hold it yet: {said}")
    message = never_fits(found, needs, expected)
    return too_large("no_such_node", message, expected, found.gpus)


def never_fits(found: Survey, needs: Needs, expected: Expectation) -> str:
    """Why no node could ever hold a trial, for people."""
    gpus = f"{needs.requests.get(expected.gpu_resource, expected.gpus):g} {expected.gpu_resource}"
    if not found.advertised:
        why = f"none of {found.nodes} nodes advertises {expected.gpu_resource}"
        return f"no node can hold a trial of pool {expected.pool} - {why} - install its device plugin, or add nodes"
    why = f"of {found.nodes} nodes {counted(found.never)}"
    step = "correct node_selector, tolerations or gpus_per_node of the pool, or add nodes"
    return f"no node can hold a trial of pool {expected.pool} ({gpus}) - {why} - {step}"


def _not_ready(snapshot: Snapshot, pod: Pod, found: Survey, expected: Expectation) -> Verdict:
    if (scaling := _autoscaler(snapshot, pod, expected)) is not None and scaling.kind == "waiting":
        return scaling
    why = counted(found.passing)
    if _pending_s(snapshot, pod) < NODE_RETURN_S:
        return waiting(f"waiting for a node to come back: {why}")
    message = (
        f"no node that could hold the trial came back in {NODE_RETURN_S / 60:.0f} min - "
        f"pool {expected.pool}: {why} - repair or uncordon them"
    )
    return lost("nodes_not_ready", message)


def _by_its_words(snapshot: Snapshot, pod: Pod, said: str, expected: Expectation) -> Verdict:
    """Without the nodes: "Preemption is not helpful" everywhere is "never", as long as no node is about to return."""
    blind = "nodes may not be read (k8s/rbac.yaml, node reader), so this is what the scheduler says"
    if (scaling := _autoscaler(snapshot, pod, expected)) is not None:
        return scaling
    never = "Preemption is not helpful" in said
    if not never or any(sign in said for sign in _BUSY_OR_PASSING):
        return waiting(f"waiting for a node: {said} [{blind}]")
    if _pending_s(snapshot, pod) < NODES_UNREADABLE_S:
        return waiting(f"no node may ever hold it: {said} [{blind}]")
    step = "correct node_selector, tolerations or gpus_per_node of the pool, or add nodes"
    message = f"no node can hold a trial of pool {expected.pool} - {said} [{blind}] - {step}"
    return misfit("no_such_node", message, expected)


def _autoscaler(snapshot: Snapshot, pod: Pod, expected: Expectation) -> Verdict | None:
    """What an autoscaler is doing about the pod; None: there is none, as far as is known."""
    up = newest(snapshot, "TriggeredScaleUp", "Nominated")
    no = newest(snapshot, "NotTriggerScaleUp")
    if expected.autoscale_wait_s is None and not up:
        return None
    limit_s = expected.autoscale_wait_s or _AUTOSCALE_S
    pending_s = _pending_s(snapshot, pod)
    said = text((up or no or [{}])[-1], "message")
    if pending_s > limit_s:
        message = f"no node came in {limit_s:.0f} s - pool {expected.pool}: {said or 'the autoscaler said nothing'} - "
        return lost("autoscale", message + "see the autoscaler's log, or raise autoscale.wait", elsewhere=False)
    if no and not up and pending_s > _AUTOSCALER_SAYS_NO_S and not _group_full(said):
        message = f"the autoscaler has no node group for a trial of pool {expected.pool} - {said} - "
        return misfit("autoscale", message + "correct node_selector or tolerations, or add a group", expected)
    return waiting(f"waiting for the autoscaler: {said}" if said else "waiting for the autoscaler to add a node")


def _group_full(said: str) -> bool:
    return "max node group size reached" in said or "backoff" in said or "limit" in said


def _pending_s(snapshot: Snapshot, pod: Pod) -> float:
    since = moment(condition(pod, "PodScheduled"), "lastTransitionTime") or moment(pod, "metadata", "creationTimestamp")
    return max(0.0, (snapshot.now - since).total_seconds()) if since else age_of_trial_s(snapshot)


def _job_name(snapshot: Snapshot) -> str:
    return text(snapshot.job, "metadata", "name") or "of the trial"
