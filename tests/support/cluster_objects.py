"""Cluster objects for tests: small builders with the fields a diagnosis reads, as the API server writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

T0 = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
"""When the Jobs of these tests were created."""


def at_s(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def a_pod_spec(gpus: int = 8, node: str = "", **fields: Any) -> dict[str, Any]:
    resources = {"limits": {"amd.com/gpu": str(gpus)}, "requests": {"amd.com/gpu": str(gpus), "cpu": "8"}}
    container = {"name": "trial", "image": "engine:1", "resources": resources}
    placed = {"nodeName": node} if node else {}
    return {"restartPolicy": "Never", "containers": [container], **placed, **fields}


def a_job(conditions: Sequence[Mapping[str, Any]] = (), **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "s-7-abc-1", "creationTimestamp": at_s(0)},
        "spec": {"template": {"spec": a_pod_spec()}, **spec},
        "status": {"conditions": list(conditions)},
    }


def a_condition(kind: str, status: str, reason: str = "", message: str = "", since_s: float = 0) -> dict[str, Any]:
    said = {"reason": reason, "message": message}
    return {"type": kind, "status": status, "lastTransitionTime": at_s(since_s), **{k: v for k, v in said.items() if v}}


def a_pod(
    state: Mapping[str, Any] | None = None,
    *,
    phase: str = "Pending",
    node: str = "gpu-0",
    conditions: Sequence[Mapping[str, Any]] = (),
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    container: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A pod whose trial container is in `state`; without a node it is unscheduled and has no containers."""
    own = {"name": "trial", "image": "engine:1", "restartCount": 0, "state": dict(state or {}), **(container or {})}
    placed = {"startTime": at_s(1), "containerStatuses": [own]} if node else {}
    return {
        "metadata": {"name": "s-7-abc-1-x2v5k", "creationTimestamp": at_s(0), **(metadata or {})},
        "spec": a_pod_spec(node=node, **spec),
        "status": {"phase": phase, "conditions": list(conditions), **placed, **(status or {})},
    }


def unschedulable(message: str, since_s: float = 0) -> dict[str, Any]:
    return a_condition("PodScheduled", "False", "Unschedulable", message, since_s)


def terminated(code: int, reason: str = "Error", *, message: str = "", ran_s: float = 600) -> dict[str, Any]:
    times = {"startedAt": at_s(60), "finishedAt": at_s(60 + ran_s)}
    return {"terminated": {"exitCode": code, "reason": reason, **times, **({"message": message} if message else {})}}


def an_event(reason: str, message: str = "", when_s: float = 5) -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at_s(when_s)}


def a_node(
    name: str = "gpu-0",
    *,
    gpus: int = 8,
    healthy: int | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    ready: str = "True",
    cordoned: bool = False,
    since_s: float = 0,
) -> dict[str, Any]:
    room = {"cpu": "128", "memory": "2Ti"}
    return {
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {"taints": list(taints), **({"unschedulable": True} if cordoned else {})},
        "status": {
            "capacity": {**room, **({"amd.com/gpu": str(gpus)} if gpus else {})},
            "allocatable": {**room, **({"amd.com/gpu": str(gpus if healthy is None else healthy)} if gpus else {})},
            "conditions": [a_condition("Ready", ready, since_s=since_s)],
        },
    }
