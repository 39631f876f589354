"""Which nodes could ever hold a pod, and which of those could now: resources, labels, affinity, taints, readiness.

Pure, over nodes and a pod's spec. Knows nothing of other pods: a node that could hold this one may be taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.runtime.kubernetes.objects import at, holds, many, named, quantity, text

# Taints that come and go with a node's state; whoever tolerates none of them only has to wait.
_PASSING = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node.cilium.io/",
    "karpenter.sh/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pod asks of a node. `selectors` are alternatives, each a list of expressions that must all hold."""

    requests: Mapping[str, float]
    node_selector: Mapping[str, str]
    selectors: Sequence[Mapping[str, Any]] = ()
    tolerations: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """All nodes against one pod. `never` counts what rules nodes out for good, `passing` what does for now.

    `gpus` is the most that a node with the right labels and taints has, `advertised` whether any node has some.
    """

    nodes: int
    could: tuple[str, ...]
    ready: tuple[str, ...]
    never: Mapping[str, int]
    passing: Mapping[str, int]
    gpus: float
    advertised: bool


def needs_of(spec: Any) -> Needs:
    """What a pod's spec asks for, as the scheduler adds it up."""
    affinity = at(spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    return Needs(
        _requests(spec), named(spec, "nodeSelector"), many(affinity, "nodeSelectorTerms"), many(spec, "tolerations")
    )


def survey(nodes: Sequence[Mapping[str, Any]], needs: Needs, gpu_resource: str) -> Survey:
    """Hold every node against what the pod needs."""
    could: list[str] = []
    ready: list[str] = []
    never: Counter[str] = Counter()
    passing: Counter[str] = Counter()
    gpus = 0.0
    for node in nodes:
        misplaced = _misplaced(node, needs)
        if not misplaced:
            gpus = max(gpus, _capacity(node, gpu_resource))
        if reason := misplaced or _too_small(node, needs, gpu_resource):
            never[reason] += 1
            continue
        could.append(text(node, "metadata", "name"))
        if reason := _not_now(node, needs, gpu_resource):
            passing[reason] += 1
        else:
            ready.append(could[-1])
    advertised = any(_capacity(node, gpu_resource) > 0 for node in nodes)
    return Survey(len(nodes), tuple(could), tuple(ready), never, passing, gpus, advertised)


def counted(reasons: Mapping[str, int]) -> str:
    """`2 have taint a=b, 1 does not carry label c=d`, most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)


def _misplaced(node: Mapping[str, Any], needs: Needs) -> str:
    """Why labels or taints keep the pod off this node for good; "" if they do not."""
    labels = named(node, "metadata", "labels")
    for name, value in needs.node_selector.items():
        if labels.get(name) != value:
            return f"without label {name}={value}"
    if needs.selectors and not any(_selects(term, node, labels) for term in needs.selectors):
        return "outside the node affinity"
    taint = next((t for t in _repelling(node, needs) if not text(t, "key").startswith(_PASSING)), None)
    return f"with taint {_written(taint)} that the pool does not tolerate" if taint else ""


def _too_small(node: Mapping[str, Any], needs: Needs, gpu_resource: str) -> str:
    """Of which resource the node can never have enough. A GPU that is out of order still counts."""
    for name, wanted in needs.requests.items():
        have = _capacity(node, name) if name == gpu_resource else quantity(at(node, "status", "allocatable", name))
        if have < wanted:
            return f"with {_amount(name, have)} of the {_amount(name, wanted)} {name} asked for"
    return ""


def _not_now(node: Mapping[str, Any], needs: Needs, gpu_resource: str) -> str:
    """What keeps the pod off a node that could hold it; "" if nothing but other pods can."""
    if at(node, "spec", "unschedulable") is True:
        return "cordoned"
    if not holds(node, "Ready"):
        return "not ready"
    taint = next(iter(_repelling(node, needs)), None)
    if taint:
        return f"with taint {_written(taint)}"
    healthy = quantity(at(node, "status", "allocatable", gpu_resource))
    wanted = needs.requests.get(gpu_resource, 0.0)
    return f"with {healthy:g} healthy of the {wanted:g} {gpu_resource} asked for" if healthy < wanted else ""


def _capacity(node: Mapping[str, Any], name: str) -> float:
    return quantity(at(node, "status", "capacity", name))


def _amount(name: str, value: float) -> str:
    bytes_like = name in ("memory", "ephemeral-storage") or name.startswith("hugepages-")
    return f"{value / 2**30:.1f} GiB" if bytes_like else f"{value:g}"


def _repelling(node: Mapping[str, Any], needs: Needs) -> list[Mapping[str, Any]]:
    taints = [t for t in many(node, "spec", "taints") if text(t, "effect") in ("NoSchedule", "NoExecute")]
    return [taint for taint in taints if not any(_tolerates(t, taint) for t in needs.tolerations)]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if text(toleration, "effect") not in ("", text(taint, "effect")):
        return False
    exists = text(toleration, "operator") == "Exists"
    if not text(toleration, "key"):
        return exists
    same = text(toleration, "key") == text(taint, "key")
    return same and (exists or text(toleration, "value") == text(taint, "value"))


def _written(taint: Mapping[str, Any]) -> str:
    value = text(taint, "value")
    return f"{text(taint, 'key')}{'=' if value else ''}{value}:{text(taint, 'effect')}"


def _selects(term: Mapping[str, Any], node: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    fields = {"metadata.name": text(node, "metadata", "name")}
    by_label = [_matches(e, labels) for e in many(term, "matchExpressions")]
    by_field = [_matches(e, fields) for e in many(term, "matchFields")]
    checks = by_label + by_field
    return bool(checks) and all(checks)


def _matches(expression: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    have = labels.get(text(expression, "key"))
    values = at(expression, "values")
    wanted = [v for v in values if isinstance(v, str)] if isinstance(values, list) else []
    match text(expression, "operator"):
        case "In":
            return have in wanted
        case "NotIn":
            return have not in wanted
        case "Exists":
            return have is not None
        case "DoesNotExist":
            return have is None
        case "Gt":
            return have is not None and bool(wanted) and quantity(have) > quantity(wanted[0])
        case "Lt":
            return have is not None and bool(wanted) and quantity(have) < quantity(wanted[0])
    return False


def _requests(spec: Any) -> dict[str, float]:
    """Containers side by side, init containers one after the other, side-car init containers all along."""
    total = _sum(many(spec, "containers"))
    first = many(spec, "initContainers")
    for container in first:
        if text(container, "restartPolicy") == "Always":
            total = _added(total, _asked(container))
    for container in first:
        for name, value in _asked(container).items():
            total[name] = max(total.get(name, 0.0), value)
    return _added(total, {name: quantity(value) for name, value in named(spec, "overhead").items()})


def _sum(containers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for container in containers:
        total = _added(total, _asked(container))
    return total


def _asked(container: Mapping[str, Any]) -> dict[str, float]:
    asked = {**named(container, "resources", "limits"), **named(container, "resources", "requests")}
    return {name: quantity(value) for name, value in asked.items()}


def _added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def readiness(nodes: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The Ready condition of a node; an empty one if it has none, None if there is no such node."""
    for node in nodes:
        if text(node, "metadata", "name") == name:
            return next((c for c in many(node, "status", "conditions") if c.get("type") == "Ready"), {})
    return None


def gpus_of(node: Mapping[str, Any], gpu_resource: str) -> tuple[float, float]:
    """How many GPUs a node has, and how many of them its device plugin calls healthy."""
    return _capacity(node, gpu_resource), quantity(at(node, "status", "allocatable", gpu_resource))
