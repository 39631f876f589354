"""What an API server keeps: objects with uid, growing resourceVersion, finalizers, owners and graceful deletion."""

from __future__ import annotations

import copy
import itertools
import json
import random
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
API = {
    "jobs": ("batch/v1", "Job"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "nodes": ("v1", "Node"),
    "namespaces": ("v1", "Namespace"),
    "resourcequotas": ("v1", "ResourceQuota"),
}
CLUSTER_WIDE = ("nodes", "namespaces")
FOREGROUND = "foregroundDeletion"


def stamp(at: datetime | None = None) -> str:
    """Whole seconds, as Kubernetes writes them."""
    return (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(text: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


class Refused(Exception):  # noqa: N818 - what a server answers
    """An answer that is not 2xx."""

    def __init__(self, status: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after

    def document(self) -> Json:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status,
        }


class Store:
    """All objects, behind one lock. `changed` is notified at every write."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._versions = itertools.count(1)
        self.version = 0

    # --- reading: always copies

    def list(self, kind: str, namespace: str | None = None) -> list[Json]:
        with self.changed:
            found = [o for (k, ns, _), o in self._objects.items() if k == kind and namespace in (None, ns)]
            return copy.deepcopy(found)

    def get(self, kind: str, namespace: str, name: str) -> Json:
        with self.changed:
            return copy.deepcopy(self._held(kind, namespace, name))

    def find(self, kind: str, namespace: str, name: str) -> Json | None:
        with self.changed:
            return copy.deepcopy(self._objects.get(_key(kind, namespace, name)))

    # --- writing

    def create(self, kind: str, namespace: str, given: Json, *, dry_run: bool = False) -> Json:
        with self.changed:
            made = copy.deepcopy(given)
            meta = made.setdefault("metadata", {})
            if "name" not in meta:
                meta["name"] = meta["generateName"] + "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
            name = meta["name"]
            if kind not in CLUSTER_WIDE:
                meta["namespace"] = namespace
                if kind != "events" and _key("namespaces", "", namespace) not in self._objects:
                    raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            if _key(kind, namespace, name) in self._objects:
                raise Refused(409, "AlreadyExists", f'{qualified(kind)} "{name}" already exists')
            made["apiVersion"], made["kind"] = API[kind]
            meta.update(uid=str(uuid.uuid4()), creationTimestamp=stamp(), generation=1)
            if not dry_run:
                self._put(kind, namespace, made)
            return copy.deepcopy(made)

    def update(self, kind: str, namespace: str, name: str, change: Callable[[Json], None]) -> Json:
        """Change an object in place; one that was only waiting for this goes away."""
        with self.changed:
            held = self._held(kind, namespace, name)
            before = json.dumps(held, sort_keys=True)
            change(held)
            if json.dumps(held, sort_keys=True) != before:
                self._put(kind, namespace, held)
            self._settle(kind, namespace, name)
            return copy.deepcopy(held)

    def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        propagation: str = "Background",
        uid: str | None = None,
        grace_s: int | None = None,
    ) -> Json:
        with self.changed:
            held = self._held(kind, namespace, name)
            if uid is not None and held["metadata"]["uid"] != uid:
                message = f"the UID in the precondition ({uid}) does not match the UID in record"
                raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {qualified(kind)} "{name}": {message}')
            if kind == "jobs":
                self._delete_job(held, propagation)
            elif kind == "pods":
                self._delete_pod(held, grace_s)
            elif kind == "nodes":
                del self._objects[_key(kind, namespace, name)]
                self._wrote()
            else:
                self._mark(kind, held, 0)
            self._settle(kind, namespace, name)
            return copy.deepcopy(held)

    def event(self, about: Json, reason: str, message: str, *, source: str, warning: bool = True) -> None:
        """An Event; the same one again counts up."""
        meta, now = about["metadata"], stamp()
        with self.changed:
            for held in self._objects.values():
                same = held["kind"] == "Event" and held["involvedObject"]["uid"] == meta["uid"]
                if same and (held["reason"], held["message"]) == (reason, message):
                    held.update(count=held["count"] + 1, lastTimestamp=now)
                    return
            involved = {"kind": about["kind"], "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
            self.create(
                "events",
                meta["namespace"],
                {
                    "metadata": {"generateName": f"{meta['name']}."},
                    "involvedObject": involved,
                    "reason": reason,
                    "message": message,
                    "type": "Warning" if warning else "Normal",
                    "source": {"component": source},
                    "count": 1,
                    "firstTimestamp": now,
                    "lastTimestamp": now,
                },
            )

    # --- inside

    def _held(self, kind: str, namespace: str, name: str) -> Json:
        try:
            return self._objects[_key(kind, namespace, name)]
        except KeyError:
            raise Refused(404, "NotFound", f'{qualified(kind)} "{name}" not found') from None

    def _put(self, kind: str, namespace: str, held: Json) -> None:
        self._objects[_key(kind, namespace, held["metadata"]["name"])] = held
        self._wrote()
        held["metadata"]["resourceVersion"] = str(self.version)

    def _wrote(self) -> None:
        self.version = next(self._versions)
        self.changed.notify_all()

    def _mark(self, kind: str, held: Json, grace_s: int) -> None:
        meta = held["metadata"]
        if "deletionTimestamp" not in meta:
            meta.update(deletionTimestamp=stamp(), deletionGracePeriodSeconds=grace_s)
            self._put(kind, meta.get("namespace", ""), held)

    def _delete_job(self, job: Json, propagation: str) -> None:
        meta = job["metadata"]
        if propagation == "Orphan":
            for pod in self._owned(job):
                pod["metadata"]["ownerReferences"] = []
                self._put("pods", meta["namespace"], pod)
        if propagation == "Foreground":
            meta["finalizers"] = [*meta.get("finalizers", []), FOREGROUND]
        self._mark("jobs", job, 0)
        # The garbage collector, at once: Background and Foreground both take the pods along.
        if propagation != "Orphan":
            for pod in self._owned(job):
                self._delete_pod(pod, None)
                self._settle("pods", meta["namespace"], pod["metadata"]["name"])

    def _delete_pod(self, pod: Json, grace_s: int | None) -> None:
        over = pod["status"]["phase"] in ("Succeeded", "Failed") or not pod["spec"].get("nodeName")
        grace_s = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
        self._mark("pods", pod, 0 if over else grace_s)

    def _owned(self, job: Json) -> list[Json]:
        uid = job["metadata"]["uid"]
        pods = [o for (kind, _, _), o in self._objects.items() if kind == "pods"]
        return [p for p in pods if uid in [ref["uid"] for ref in p["metadata"].get("ownerReferences", [])]]

    def _settle(self, kind: str, namespace: str, name: str) -> None:
        """Remove what is deleted and held by nothing any more; then what waited for it."""
        held = self._objects.get(_key(kind, namespace, name))
        if held is None or "deletionTimestamp" not in held["metadata"]:
            return
        if kind == "jobs" and FOREGROUND in held["metadata"].get("finalizers", []) and not self._owned(held):
            held["metadata"]["finalizers"].remove(FOREGROUND)
        if held["metadata"].get("finalizers") or (kind == "pods" and _runs(held)):
            return
        del self._objects[_key(kind, namespace, name)]
        self._wrote()
        for owner in held["metadata"].get("ownerReferences", []):
            self._settle("jobs", namespace, owner["name"])


def _runs(pod: Json) -> bool:
    """Whether a kubelet must first say that it is over."""
    return bool(pod["spec"].get("nodeName")) and pod["status"]["phase"] in ("Pending", "Running")


def _key(kind: str, namespace: str, name: str) -> tuple[str, str, str]:
    return (kind, "" if kind in CLUSTER_WIDE else namespace, name)


def qualified(kind: str) -> str:
    return "jobs.batch" if kind == "jobs" else kind


def set_condition(status: Json, kind: str, value: str, reason: str = "", message: str = "") -> None:
    """Add or change a condition; its time moves only when its value does."""
    conditions = status.setdefault("conditions", [])
    new = {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": stamp()}
    for place, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == value:
                new["lastTransitionTime"] = old["lastTransitionTime"]
            conditions[place] = {k: v for k, v in new.items() if v}
            return
    conditions.append({k: v for k, v in new.items() if v})


def condition(status: Json, kind: str) -> Json | None:
    return next((c for c in status.get("conditions", []) if c["type"] == kind and c["status"] == "True"), None)
