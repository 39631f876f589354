"""From a trial's Job, pod, events and the nodes to what is to be done about it. Pure, and total: it never raises.

Knows no API and no result document: `finished` says that the pod has ended and the document is to be looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tuner.runtime.kubernetes.ended import conclude, disruption_reason
from tuner.runtime.kubernetes.inventory import readiness
from tuner.runtime.kubernetes.objects import condition, many, moment, number, text
from tuner.runtime.kubernetes.pods import (
    Pod,
    has_ended,
    name_of,
    node_of,
    restarts,
    started_at,
    statuses,
    trial_status,
)
from tuner.runtime.kubernetes.unplaced import age_of_trial_s, without_node, without_pod
from tuner.runtime.kubernetes.unstarted import without_start
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot, Verdict, lost, running

NODE_LOST_S = 60.0
"""After the cluster itself has missed 40 s of a node's heartbeats."""
STUCK_S = 60.0
"""A pod that was told to end and is still not gone so long after its grace: nobody on its node listens."""


def diagnose(snapshot: Snapshot, expected: Expectation) -> Verdict:
    """What is to be done about the trial, with the time until its container ran told apart."""
    return replace(_verdict(snapshot, expected), seconds_queued=_queued_s(snapshot, expected))


def _verdict(snapshot: Snapshot, expected: Expectation) -> Verdict:
    pod = snapshot.pod
    if not pod:
        return without_pod(snapshot, expected)
    if has_ended(pod, expected.container, snapshot.now):
        return conclude(pod, snapshot.job, expected)
    if (leaving := _leaving(snapshot, pod)) is not None:
        return leaving
    if restarts(pod, expected.container):
        return _restarted(pod, expected)
    if started_at(pod, expected.container) is not None:
        return _running(snapshot, pod)
    placed = node_of(pod) or statuses(pod) or condition(pod, "PodScheduled").get("status") == "True"
    return without_start(snapshot, pod, expected) if placed else without_node(snapshot, pod, expected)


def _leaving(snapshot: Snapshot, pod: Pod) -> Verdict | None:
    """Its node is lost, or the pod was told to end; None: neither."""
    if (silent_s := _node_silent_s(snapshot, pod)) is not None:
        if silent_s > NODE_LOST_S:
            return _node_lost(pod, f"the node has not answered for {silent_s:.0f} s")
        return running(f"node {node_of(pod)} has not answered for {silent_s:.0f} s")
    ends = moment(pod, "metadata", "deletionTimestamp")
    if ends is None:
        return None
    why = disruption_reason(pod) or "it was deleted"
    if _since_s(snapshot.now, ends) > STUCK_S:
        return _node_lost(pod, f"it was told to end ({why}) and nothing says that it has")
    return running(f"being ended: {why}")


def _node_lost(pod: Pod, why: str) -> Verdict:
    message = f"the trial's node was lost - node {node_of(pod) or 'unknown'}, pod {name_of(pod)}: {why} - "
    return lost("node_lost", message + "the trial is repeated elsewhere; repair or remove the node")


def _node_silent_s(snapshot: Snapshot, pod: Pod) -> float | None:
    """For how long the pod's node has not been ready; None: it is, or nobody knows."""
    flipped = _flipped_by_the_cluster(pod)
    if snapshot.nodes is None or not node_of(pod):
        return None if flipped is None else _since_s(snapshot.now, flipped)
    ready = readiness(snapshot.nodes, node_of(pod))
    if ready is None:
        return None if flipped is None else _since_s(snapshot.now, flipped)
    if ready.get("status") not in ("False", "Unknown"):
        return None
    since = moment(ready, "lastTransitionTime")
    return _since_s(snapshot.now, since) if since else 0.0


def _flipped_by_the_cluster(pod: Pod) -> datetime | None:
    """Since when a pod whose containers are ready is not: so the node controller marks the pods of a silent node."""
    ready = condition(pod, "Ready")
    own = condition(pod, "ContainersReady").get("status") == "True"
    if ready.get("status") != "False" or text(ready, "reason") or not own:
        return None
    return moment(ready, "lastTransitionTime")


def _restarted(pod: Pod, expected: Expectation) -> Verdict:
    status = trial_status(pod, expected.container)
    code = number(status, "lastState", "terminated", "exitCode")
    message = (
        f"the trial's container was started again by its node - pod {name_of(pod)}: "
        f"{restarts(pod, expected.container)} times, last exit {code} - leave restartPolicy out of pod_patch"
    )
    return lost("restarted", message, elsewhere=False)


def _running(snapshot: Snapshot, pod: Pod) -> Verdict:
    failing = next((c for c in many(snapshot.job, "status", "conditions") if _is_failing(c)), None)
    if failing:
        return running(f"being ended: {text(failing, 'reason')} {text(failing, 'message')}".rstrip())
    return running(f"running on node {node_of(pod)}" if node_of(pod) else "running")


def _is_failing(found: Mapping[str, Any]) -> bool:
    return found.get("type") == "FailureTarget" and found.get("status") == "True"


def _queued_s(snapshot: Snapshot, expected: Expectation) -> float:
    created = moment(snapshot.job, "metadata", "creationTimestamp") or moment(
        snapshot.pod, "metadata", "creationTimestamp"
    )
    started = started_at(snapshot.pod, expected.container) if snapshot.pod else None
    if created is None or started is None:
        return age_of_trial_s(snapshot)
    return _since_s(started, created)


def _since_s(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())
