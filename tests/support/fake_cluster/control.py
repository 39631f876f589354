"""The controllers: Jobs make Pods and count them, the scheduler places Pods, lost nodes lose theirs, time runs out."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

from support.fake_cluster.store import Refused, Store, condition, seconds_since, set_condition, stamp

Json = dict[str, Any]
TRACKING = "batch.kubernetes.io/job-tracking"


def quantity(text: Any) -> float:
    """`8`, `500m`, `64Gi`."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ti": 2.0**40, "Gi": 2.0**30, "Mi": 2.0**20, "Ki": 2.0**10}
    for unit, factor in units.items():
        if str(text).endswith(unit):
            return float(str(text).removesuffix(unit)) * factor
    return float(text)


def over(pod: Json) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def requests_of(pod: Json) -> dict[str, float]:
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        for name, value in {**resources.get("limits", {}), **resources.get("requests", {})}.items():
            total[name] = total.get(name, 0.0) + quantity(value)
    return total


class Controllers:
    """Everything of a control plane but the API server. `lost_after_s`: until a silent node's pods are given up."""

    def __init__(self, store: Store, *, lost_after_s: float = 0.5) -> None:
        self._store = store
        self._lost_after_s = lost_after_s
        self._made: dict[str, str] = {}
        self._next_try_s: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def tick(self) -> None:
        for job in self._store.list("jobs"):
            try:
                self._job(job)
            except Refused:
                continue  # it was deleted meanwhile
        pods = self._store.list("pods")
        for pod in pods:
            if not pod["spec"].get("nodeName") and not over(pod) and "deletionTimestamp" not in pod["metadata"]:
                self._schedule(pod)
        self._lose_nodes()

    # --- jobs

    def _job(self, job: Json) -> None:
        meta, status = job["metadata"], job["status"]
        if "deletionTimestamp" in meta or self._finished(job):
            return
        if job["spec"].get("suspend"):
            self._set(job, lambda s: set_condition(s, "Suspended", "True", "JobSuspended", "Job suspended"))
            return
        if "startTime" not in status:
            self._set(job, lambda s: s.update(startTime=stamp()))
        pods = [p for p in self._store.list("pods", meta["namespace"]) if _owner(p) == meta["uid"]]
        if not pods and meta["uid"] not in self._made:
            self._make_pod(job)
        elif not pods:
            self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        for pod in pods:
            self._count(job, pod)

    def _finished(self, job: Json) -> bool:
        ended = condition(job["status"], "Complete") or condition(job["status"], "Failed")
        if ended is None:
            return False
        ttl_s = job["spec"].get("ttlSecondsAfterFinished")
        if ttl_s is not None and seconds_since(ended["lastTransitionTime"]) >= ttl_s:
            self._store.delete("jobs", job["metadata"]["namespace"], job["metadata"]["name"], propagation="Foreground")
        return True

    def _make_pod(self, job: Json) -> None:
        meta = job["metadata"]
        uid, namespace = meta["uid"], meta["namespace"]
        if time.monotonic() < self._next_try_s.get(uid, 0.0):
            return
        template = copy.deepcopy(job["spec"]["template"])
        inner = template.setdefault("metadata", {})
        inner["generateName"] = f"{meta['name']}-"
        own = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": meta["name"]}
        inner["labels"] = {**inner.get("labels", {}), **own, "job-name": meta["name"]}
        inner["finalizers"] = [*inner.get("finalizers", []), TRACKING]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": uid, "controller": True}
        inner["ownerReferences"] = [owner]
        pod = {**template, "status": {"phase": "Pending"}}
        try:
            self._check_quota(namespace, pod, meta["name"])
            made = self._store.create("pods", namespace, pod)
        except Refused as refused:
            tries = self._tries[uid] = self._tries.get(uid, 0) + 1
            self._next_try_s[uid] = time.monotonic() + min(10.0, 0.2 * 2**tries)
            self._store.event(job, "FailedCreate", f"Error creating: {refused.message}", source="job-controller")
            self._set(job, lambda s: s.update(ready=0, terminating=0))
            return
        self._made[uid] = made["metadata"]["name"]
        message = f"Created pod: {made['metadata']['name']}"
        self._store.event(job, "SuccessfulCreate", message, source="job-controller", warning=False)
        self._set(job, lambda s: s.update(active=1, ready=0, terminating=0))

    def _check_quota(self, namespace: str, pod: Json, name: str) -> None:
        asked = requests_of(pod)
        alive = [p for p in self._store.list("pods", namespace) if not over(p)]
        for quota in self._store.list("resourcequotas", namespace):
            for key, limit in quota["spec"]["hard"].items():
                resource = key.removeprefix("requests.")
                if not key.startswith("requests.") or resource not in asked:
                    continue
                used = sum(requests_of(p).get(resource, 0.0) for p in alive)
                if used + asked[resource] > quantity(limit):
                    said = f"requested: {key}={asked[resource]:g}, used: {key}={used:g}, limited: {key}={limit}"
                    message = f'pods "{name}-" is forbidden: exceeded quota: {quota["metadata"]["name"]}, {said}'
                    raise Refused(403, "Forbidden", message)

    def _count(self, job: Json, pod: Json) -> None:
        """A pod that has ended is taken into the Job's status, and then let go."""
        if not over(pod):
            ready = int(condition(pod["status"], "Ready") is not None)
            leaving = int("deletionTimestamp" in pod["metadata"])
            self._set(job, lambda s: s.update(active=1 - leaving, ready=ready, terminating=leaving))
            return
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if pod["status"]["phase"] == "Succeeded":
            self._set(job, _complete)
        elif self._policy_fails(job, pod):
            said = f"Pod {namespace}/{name} has condition DisruptionTarget matching FailJob rule at index 0"
            self._fail(job, "PodFailurePolicy", said)
        else:
            self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        self._store.update("pods", namespace, name, _untrack)

    def _policy_fails(self, job: Json, pod: Json) -> bool:
        rules = (job["spec"].get("podFailurePolicy") or {}).get("rules", [])
        wanted = [c["type"] for r in rules if r["action"] == "FailJob" for c in r.get("onPodConditions", [])]
        return any(condition(pod["status"], kind) for kind in wanted)

    def _fail(self, job: Json, reason: str, message: str) -> None:
        def fail(status: Json) -> None:
            status.update(active=0, ready=0, terminating=0, failed=1)
            set_condition(status, "FailureTarget", "True", reason, message)
            set_condition(status, "Failed", "True", reason, message)

        self._set(job, fail)

    def _set(self, job: Json, change: Any) -> None:
        meta = job["metadata"]
        self._store.update("jobs", meta["namespace"], meta["name"], lambda held: change(held["status"]))

    # --- the scheduler

    def _schedule(self, pod: Json) -> None:
        meta = pod["metadata"]
        nodes = self._store.list("nodes")
        pods = self._store.list("pods")
        reasons: dict[str, int] = {}
        for node in sorted(nodes, key=lambda n: n["metadata"]["name"]):
            reason = self._why_not(pod, node, pods)
            if reason is None:
                self._bind(pod, node["metadata"]["name"])
                return
            reasons[reason] = reasons.get(reason, 0) + 1
        said = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        busy = any(reason.startswith("Insufficient") and not reason.endswith(" ") for reason in reasons)
        tail = "No preemption victims found for incoming pod" if busy else "Preemption is not helpful for scheduling"
        message = f"0/{len(nodes)} nodes are available: {said.replace(' .', '.').strip()}. preemption: {tail}."
        old = next((c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled"), {})
        if old.get("message") == message:
            return
        self._store.event(pod, "FailedScheduling", message, source="default-scheduler")

        def mark(held: Json) -> None:
            set_condition(held["status"], "PodScheduled", "False", "Unschedulable", message)

        self._update(pod, mark)
        del meta

    def _bind(self, pod: Json, node: str) -> None:
        def bind(held: Json) -> None:
            held["spec"]["nodeName"] = node
            set_condition(held["status"], "PodScheduled", "True")

        self._update(pod, bind)

    def _why_not(self, pod: Json, node: Json, pods: list[Json]) -> str | None:
        spec, labels = pod["spec"], node["metadata"].get("labels", {})
        if node["spec"].get("unschedulable"):
            return "node(s) were unschedulable"
        if any(not _tolerated(taint, spec.get("tolerations", [])) for taint in node["spec"].get("taints", [])):
            return "node(s) had untolerated taint(s)"
        if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()) or not _affine(spec, node):
            return "node(s) didn't match Pod's node affinity/selector"
        here = [p for p in pods if p["spec"].get("nodeName") == node["metadata"]["name"] and not over(p)]
        if not _apart(spec, here):
            return "node(s) didn't match pod anti-affinity rules"
        for name, asked in requests_of(pod).items():
            has = quantity(node["status"]["allocatable"].get(name, math.inf if name in ("cpu", "memory") else 0))
            if asked + sum(requests_of(p).get(name, 0.0) for p in here) > has:
                return f"Insufficient {name}" + ("" if asked <= has else " ")
        return None

    # --- nodes that say nothing any more

    def _lose_nodes(self) -> None:
        nodes = {n["metadata"]["name"]: n for n in self._store.list("nodes")}
        for pod in self._store.list("pods"):
            name = pod["spec"].get("nodeName")
            if not name or over(pod):
                continue
            node = nodes.get(name)
            if node is None:
                self._update(pod, _collect_orphan)
                continue
            ready = next((c for c in node["status"]["conditions"] if c["type"] == "Ready"), {})
            if ready.get("status") == "True":
                continue
            self._update(pod, lambda held: set_condition(held["status"], "Ready", "False", "NodeNotReady"))
            if time.time() - node["status"]["silentSince"] > self._lost_after_s:
                self._evict_by_taint(pod)

    def _evict_by_taint(self, pod: Json) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            return
        message = "Taint manager: deleting due to NoExecute taint"

        def mark(held: Json) -> None:
            set_condition(held["status"], "DisruptionTarget", "True", "DeletionByTaintManager", message)

        self._update(pod, mark)
        self._store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _update(self, pod: Json, change: Any) -> None:
        try:
            self._store.update("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], change)
        except Refused:
            return  # gone meanwhile


def _owner(pod: Json) -> str:
    return next((str(ref["uid"]) for ref in pod["metadata"].get("ownerReferences", [])), "")


def _complete(status: Json) -> None:
    status.update(active=0, ready=0, terminating=0, succeeded=1, completionTime=stamp())
    set_condition(status, "SuccessCriteriaMet", "True", "CompletionsReached", "Reached expected number of succeeded pods")
    set_condition(status, "Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods")


def _untrack(pod: Json) -> None:
    pod["metadata"]["finalizers"] = [f for f in pod["metadata"].get("finalizers", []) if f != TRACKING]


def _collect_orphan(pod: Json) -> None:
    """What the pod garbage collector does to a pod whose node is gone."""
    set_condition(pod["status"], "DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists")
    pod["status"]["phase"] = "Failed"
    pod["metadata"].setdefault("deletionTimestamp", stamp())


def _tolerated(taint: Json, tolerations: list[Json]) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    for t in tolerations:
        fits = not t.get("key") or t["key"] == taint["key"]
        value = t.get("operator") == "Exists" or t.get("value", "") == taint.get("value", "")
        if fits and value and t.get("effect", taint["effect"]) == taint["effect"]:
            return True
    return False


def _affine(spec: Json, node: Json) -> bool:
    required = (spec.get("affinity", {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    labels = {**node["metadata"].get("labels", {}), "metadata.name": node["metadata"]["name"]}
    return any(
        all(_expressed(e, labels) for e in [*term.get("matchExpressions", []), *term.get("matchFields", [])])
        for term in required["nodeSelectorTerms"]
    )


def _expressed(expression: Json, labels: Json) -> bool:
    have, values = labels.get(expression["key"]), expression.get("values", [])
    operator = expression["operator"]
    if operator == "Exists":
        return have is not None
    if operator == "DoesNotExist":
        return have is None
    return (have in values) is (operator == "In")


def _apart(spec: Json, here: list[Json]) -> bool:
    """Required anti-affinity between pods on one node."""
    terms = (spec.get("affinity", {}).get("podAntiAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    for term in terms or []:
        selector = term.get("labelSelector") or {}
        wanted = [{"key": k, "operator": "In", "values": [v]} for k, v in selector.get("matchLabels", {}).items()]
        wanted += selector.get("matchExpressions", [])
        if any(all(_expressed(e, p["metadata"].get("labels", {})) for e in wanted) for p in here):
            return False
    return True
