"""What a pod that has ended says of the trial, if the trial itself left no result.

Read in this order: the pod's reason, its DisruptionTarget, its containers, the Job. Pure. Every failure here is
`infrastructure` but for two: the container's memory limit was hit, or its program cannot be started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tuner.runtime.kubernetes.objects import at, condition, holds, moment, number, text
from tuner.runtime.kubernetes.pods import (
    Pod,
    failed_init,
    name_of,
    node_of,
    started_at,
    terminated,
    waiting_container,
)
from tuner.runtime.kubernetes.verdict import Expectation, Verdict, lost, misfit

ENDED_BY_SIGNAL = 75
"""The runner's exit code when it was asked to stop."""
_SIGTERM_CODE = 128 + 15
_SIGKILL_CODE = 128 + 9
AT_ONCE = timedelta(seconds=30)
"""A runner that cannot even start in the image dies at once, before it has written a first result."""
_OUR_RESULT = '"tuner_result"'
_SAID_CHARS = 200

_DISRUPTIONS = {
    "PreemptionByScheduler": ("preempted", "was preempted by a pod of higher priority", "raise priority_class"),
    "DeletionByTaintManager": ("node_lost", "was removed because its node was lost or tainted", ""),
    "EvictionByEvictionAPI": ("evicted", "was evicted", "keep drains and autoscalers away from the pool"),
    "DeletionByPodGC": ("node_lost", "was removed because its node is gone", ""),
    "TerminationByKubelet": ("evicted", "was ended by its node", ""),
}
_REASONS = {
    "Evicted": ("evicted", "was evicted by its node"),
    "NodeLost": ("node_lost", "was on a node that was lost"),
    "Shutdown": ("node_shutdown", "ended because its node was shut down"),
    "NodeShutdown": ("node_shutdown", "ended because its node was shut down"),
    "Terminated": ("node_shutdown", "ended because its node was shut down"),
    "Preempting": ("preempted", "was preempted on its node"),
    "UnexpectedAdmissionError": ("admission_refused", "was refused by its node's device plugin"),
    "NodeAffinity": ("admission_refused", "was refused by its node, whose labels have changed"),
}


def conclude(pod: Pod, job: Mapping[str, Any], expected: Expectation) -> Verdict:
    """`finished` with what to conclude when there is no result, or at once the failure when the trial never ran."""
    verdict = _reason(pod, expected) or _disruption(pod) or _containers(pod, job, expected) or _job(pod, job)
    if started_at(pod, expected.container) is None:
        return verdict
    otherwise = verdict.kind if verdict.kind in ("configuration", "unusable") else "infrastructure"
    return replace(verdict, kind="finished", stage="ended", otherwise=otherwise)


def disruption_reason(pod: Pod) -> str:
    """Why the cluster takes the pod away; "" if it does not."""
    return text(condition(pod, "DisruptionTarget"), "reason") if holds(pod, "DisruptionTarget") else ""


def _reason(pod: Pod, expected: Expectation) -> Verdict | None:
    reason, said = text(pod, "status", "reason"), text(pod, "status", "message").strip()
    if not reason:
        return None
    if reason == "DeadlineExceeded":
        return _deadline(pod, expected)
    kind, what = _REASONS.get(reason, ("admission_refused", f"was refused by its node ({reason})"))
    return _lost(pod, kind, f"{what}: {said}" if said else what)


def _deadline(pod: Pod, expected: Expectation) -> Verdict:
    if started_at(pod, expected.container) is not None:
        return _lost(pod, "deadline", "ran into its deadline: it hung far beyond all its own time limits")
    container, reason, said = waiting_container(pod)
    why = f": container {container} waited with {reason} {said}".rstrip() if reason else ""
    return _lost(pod, "deadline", f"ran into its deadline before the trial's container had started{why}")


def _disruption(pod: Pod) -> Verdict | None:
    reason = disruption_reason(pod)
    if not reason:
        return None
    said = text(condition(pod, "DisruptionTarget"), "message")
    kind, what, step = _DISRUPTIONS.get(reason, ("disrupted", f"was disrupted ({reason})", ""))
    return _lost(pod, kind, f"{what}: {said}" if said else what, step)


def _containers(pod: Pod, job: Mapping[str, Any], expected: Expectation) -> Verdict | None:
    if init := failed_init(pod):
        return _init_failed(pod, init)
    end = terminated(pod, expected.container)
    return _ended(pod, job, end, expected) if end else None


def _init_failed(pod: Pod, status: Mapping[str, Any]) -> Verdict:
    end = at(status, "state", "terminated")
    said = text(end, "message").strip() or text(end, "reason")
    what = f"its init container {text(status, 'name')} failed with exit {number(end, 'exitCode')}: {said}"
    return _lost(pod, "init_failed", what, "see its log with kubectl, and check the tuner image and the node's disk")


def _ended(pod: Pod, job: Mapping[str, Any], end: Mapping[str, Any], expected: Expectation) -> Verdict:
    reason, code = text(end, "reason"), number(end, "exitCode")
    if reason == "OOMKilled":
        message = (
            f"the container's memory limit was hit - pod {name_of(pod)}{_where(pod)} - "
            "raise its memory limit with pod_patch, or lower the loader's threads or the host cache"
        )
        return Verdict("configuration", "ended", "host_oom", message)
    if reason in ("StartError", "ContainerCannotRun"):
        return _not_started(pod, end, expected)
    if reason == "ContainerStatusUnknown":
        return _lost(pod, "node_lost", "vanished from its node without a trace")
    if why := _stopped_by_job(job):
        return _lost(pod, *why)
    if code in (ENDED_BY_SIGNAL, _SIGTERM_CODE):
        return _lost(pod, "interrupted", "was asked to stop before the trial was done")
    if code == _SIGKILL_CODE:
        return _lost(pod, "killed", "was killed from outside (exit 137)")
    if code == 0:
        return _lost(pod, "no_result", "ended well, and neither its message nor its log holds a whole result")
    return _runner_failed(pod, end, code, expected)


def _not_started(pod: Pod, end: Mapping[str, Any], expected: Expectation) -> Verdict:
    """A program that is not there is the image's fault; anything else the runtime says is the node's."""
    said = text(end, "message").strip()
    if not any(sign in said for sign in ("no such file", "not found in $PATH", "permission denied", "exec format")):
        return _lost(pod, "start_error", f"could not be started by its node: {said}")
    step = "name an image whose python3 (3.10 to 3.13) is on its PATH"
    message = f"the image cannot run the trial - pod {name_of(pod)}: {said} - {step}"
    if expected.own_image:
        return Verdict("configuration", "ended", "bad_command", message)
    return misfit("bad_command", message, expected)


def _runner_failed(pod: Pod, end: Mapping[str, Any], code: int, expected: Expectation) -> Verdict:
    """Without a result the message, if there is one, is the end of the log: the runtime falls back to it."""
    last = text(end, "message").strip().splitlines()[-1:]
    said = f": {last[0][:_SAID_CHARS]}" if last and _OUR_RESULT not in last[0] else ""
    if _died_at_once(end) and _OUR_RESULT not in text(end, "message") and not expected.own_image:
        message = (
            f"the runner does not start in the image - pod {name_of(pod)} ended with exit {code}{said} - "
            "the image needs python3 3.10 to 3.13 and glibc 2.17 or newer; kubectl logs has the whole of it"
        )
        return misfit("runner_not_started", message, expected)
    return _lost(pod, "runner_died", f"ended with exit {code} and no result{said}", "read its log with tuner logs")


def _died_at_once(end: Mapping[str, Any]) -> bool:
    started, finished = moment(end, "startedAt"), moment(end, "finishedAt")
    return started is not None and finished is not None and finished - started < AT_ONCE


def _stopped_by_job(job: Mapping[str, Any]) -> tuple[str, str] | None:
    """(kind, what) when the Job itself had its pod ended: then the exit code says only that it was."""
    if holds(job, "Suspended"):
        return "suspended", "was stopped because its Job was suspended, as a queue does to preempt"
    if "DeadlineExceeded" in (text(condition(job, kind), "reason") for kind in ("FailureTarget", "Failed")):
        return "deadline", "was stopped by the Job's deadline"
    return None


def _job(pod: Pod, job: Mapping[str, Any]) -> Verdict:
    failed = condition(job, "Failed") or condition(job, "FailureTarget")
    said = f"{text(failed, 'reason')} {text(failed, 'message')}".strip()
    return _lost(pod, "pod_failed", f"ended without saying why{': ' if said else ''}{said}")


def _lost(pod: Pod, kind: str, what: str, step: str = "") -> Verdict:
    message = (
        f"the trial's pod {what} - pod {name_of(pod)}{_where(pod)} - the trial is repeated{'; ' if step else ''}{step}"
    )
    return lost(kind, message)


def _where(pod: Pod) -> str:
    return f" on node {node_of(pod)}" if node_of(pod) else ""
