"""What a refusal of the API server means: of a call of ours, or of the pod that the Job controller tried to create.

Pure, over status, reason and message. Whether a 409 is our own earlier call is for the caller to find out by uid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tuner.runtime.kubernetes.objects import quantity
from tuner.runtime.kubernetes.verdict import Expectation, Verdict, lost, misfit, too_large, unusable, waiting

_QUOTA = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>.+?), used: (?P<used>.+?), limited: (?P<limited>.+)"
)
_RANGE = re.compile(r"(?P<which>maximum|minimum) (?P<resource>\S+) usage per \w+ is (?P<bound>\S+?)(?:,|$)")
_FORBIDDEN = re.compile(r'cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)"')
_NAMESPACE = re.compile(r'namespaces? "(?P<name>[^"]+)" not found')
_INVALID = re.compile(r"is invalid: (?P<problem>.+)", re.DOTALL)
_ANONYMOUS = 'User "system:anonymous"'
_PASSING_STATUS = frozenset([*range(300, 400), 408, 410, 425, 429, *range(500, 600)])
"""A server or what stands before it that is not itself; a redirection is a proxy's, no API server sends one."""


def call_refused(status: int | None, reason: str, message: str, expected: Expectation, doing: str) -> Verdict:
    """What to do about a call that failed; `waiting` is: try it again later.

    `status` is the HTTP status, None when the server did not answer; `doing` names the call for people.
    """
    said = _one_line(message) or reason or "no reason given"
    if status is None:
        return waiting(f"the API server does not answer while {doing}: {said}")
    if status in _PASSING_STATUS or reason == "Conflict":
        return waiting(f"the API server is busy while {doing} ({status}): {said}")
    if status == 401 or (status == 403 and _ANONYMOUS in said):
        step = "log in or renew them; what a login command of the kubeconfig says stands above"
        message = f"the cluster does not accept the credentials - {said} - {step}"
        return waiting(message) if expected.known_here else unusable("credentials", message)
    if status == 403:
        return _forbidden(said, expected, doing)
    if status == 404 and (namespace := _NAMESPACE.search(said)):
        return unusable("no_namespace", _no_namespace(namespace["name"]))
    if status == 404:
        return lost("gone", f"{doing}: the object is gone - {said} - the trial is repeated")
    if status == 409:
        return lost("name_taken", f"{doing}: the name is taken - {said} - the trial is repeated under another name")
    return misfit("refused", _invalid(said, doing), expected)


def pod_refused(message: str, expected: Expectation) -> Verdict:
    """Why the Job controller could not create the pod: the text of its FailedCreate event."""
    said = _one_line(message).removeprefix("Error creating: ")
    return _admission(said, expected) or misfit(
        "pod_refused", f"the cluster refuses the pod - {said} - correct the pool or its pod_patch", expected
    )


def _forbidden(said: str, expected: Expectation, doing: str) -> Verdict:
    missing = _FORBIDDEN.search(said)
    if missing:
        what = f"{missing['verb']} on {missing['resource']}"
        return unusable("forbidden", f"no permission for {what} - {said} - apply k8s/rbac.yaml or ask for that verb")
    return _admission(said, expected) or unusable(
        "forbidden", f"{doing} is forbidden - {said} - ask who runs the cluster"
    )


def _admission(said: str, expected: Expectation) -> Verdict | None:
    """Refusals that come as a 403 on whatever is created; None: it is none of those."""
    if quota := _QUOTA.search(said):
        return _quota(quota, said, expected)
    if bound := _RANGE.search(said):
        return _limit_range(bound, said, expected)
    if "violates PodSecurity" in said:
        step = "label the namespace to allow it, or lower the pool's security context with pod_patch"
        return misfit("pod_security", f"the namespace's PodSecurity refuses the pod - {said} - {step}", expected)
    if "being terminated" in said:
        return unusable("no_namespace", f"the namespace is being deleted - {said} - use another with --namespace")
    if "failed calling webhook" in said or "object has been modified" in said:
        return waiting(f"the pod cannot be created yet: {said}")
    if "admission webhook" in said and "denied the request" in said:
        step = "change the pool's pod_patch so that the policy allows it"
        return misfit("policy", f"a policy of the cluster refuses the pod - {said} - {step}", expected)
    if "no PriorityClass" in said:
        return misfit("priority_class", f"the pool's priority class does not exist - {said} - correct it", expected)
    if "must specify" in said:
        step = "add what the quota asks for with pod_patch"
        return misfit("quota", f"a quota of the namespace wants more said of the pod - {said} - {step}", expected)
    return None


def _quota(quota: re.Match[str], said: str, expected: Expectation) -> Verdict:
    """Full for now, or smaller than one trial."""
    requested, limited = _pairs(quota["requested"]), _pairs(quota["limited"])
    beyond = sorted(name for name, value in requested.items() if value > limited.get(name, value))
    if not beyond:
        return waiting(f"quota {quota['quota']} is used up: {said}")
    gpus = f"requests.{expected.gpu_resource}"
    message = f"quota {quota['quota']} is smaller than one trial - {said} - have it raised, or use another namespace"
    if beyond == [gpus]:
        return too_large("quota", message, expected, limited[gpus])
    return misfit("quota", message, expected)


def _limit_range(bound: re.Match[str], said: str, expected: Expectation) -> Verdict:
    message = f"a LimitRange of the namespace refuses the pod - {said} - have it changed, or use another namespace"
    if bound["resource"] == expected.gpu_resource and bound["which"] == "maximum":
        return too_large("limit_range", message, expected, quantity(bound["bound"]))
    return misfit("limit_range", message, expected)


def _pairs(written: str) -> Mapping[str, float]:
    """Read `requests.amd.com/gpu=8,pods=1`."""
    parts = [part.partition("=") for part in written.strip().split(",")]
    return {name.strip(): quantity(value.strip()) for name, _, value in parts if value}


def _no_namespace(name: str) -> str:
    return f"there is no namespace {name} - trials are created there - create it, or name another with --namespace"


def _invalid(said: str, doing: str) -> str:
    problem = _INVALID.search(said)
    what = problem["problem"] if problem else said
    return f"the API server refuses {doing} - {what} - correct the pool in the space file or its pod_patch"


def _one_line(message: str) -> str:
    return " ".join(message.split())
