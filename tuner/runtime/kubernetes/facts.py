"""What `tuner doctor` looks at: a cluster's own state, and what one pool's trials refer to. Gathers, judges nothing.

Everything is read with what the user may read; a refusal is a fact too. Of Secrets only the metadata is asked for, and
the Job is created as a dry run: nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from tuner.runtime.kubernetes.client import ApiError
from tuner.runtime.kubernetes.objects import at, many, text
from tuner.runtime.kubernetes.rights import HELPFUL, NEEDED, Right
from tuner.runtime.kubernetes.target import PoolTarget

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A question that was not answered: 403 is not allowed to ask, 404 is not there, None is nobody there."""

    status: int | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Something a trial's pod needs to find: `kind` as people write it."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """One namespace of one cluster. Only `version` is asked if nobody answers."""

    server: str
    namespace: str
    version: Json | Refusal
    rights: Mapping[Right, bool] | Refusal = Refusal(None, "", "")
    namespace_object: Json | Refusal = Refusal(None, "", "")
    quotas: Sequence[Mapping[str, Any]] | Refusal = Refusal(None, "", "")
    nodes: Sequence[Json] | Refusal = Refusal(None, "", "")


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """One pool: its largest trial as it would be created, and whether what it refers to is there."""

    target: PoolTarget
    pod: Json
    smallest_gpus: int
    found: Mapping[Reference, Json | Refusal]
    dry_run: Json | Refusal


class Reads(Protocol):
    """The part of the client that is needed here."""

    @property
    def server(self) -> str: ...

    namespace: str

    def get(self, path: str, *, metadata_only: bool = False) -> Json: ...
    def nodes(self) -> list[Json]: ...
    def can_i(
        self, verb: str, resource: str, group: str = "", *, subresource: str = "", everywhere: bool = False
    ) -> bool: ...
    def create_job(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Json: ...


def site_facts(cluster: Reads) -> SiteFacts:
    """Ask for what concerns every pool there."""
    version = _asked(lambda: cluster.get("/version"))
    if isinstance(version, Refusal):
        return SiteFacts(cluster.server, cluster.namespace, version)
    home = f"/api/v1/namespaces/{cluster.namespace}"
    return SiteFacts(
        server=cluster.server,
        namespace=cluster.namespace,
        version=version,
        rights=_asked(lambda: {right: _granted(cluster, right) for right in (*NEEDED, *HELPFUL)}),
        namespace_object=_asked(lambda: cluster.get(home)),
        quotas=_asked(lambda: many(cluster.get(f"{home}/resourcequotas"), "items")),
        nodes=_asked(cluster.nodes),
    )


def pool_facts(cluster: Reads, target: PoolTarget, manifest: Mapping[str, Any], smallest_gpus: int) -> PoolFacts:
    """Ask for what one pool's trials refer to. `manifest` is the Job of its largest configuration."""
    pod = at(manifest, "spec", "template", "spec")
    wanted = [*references(pod), *([Reference("LocalQueue", target.queue)] if target.queue else [])]
    found = {reference: _asked(partial(_look_up, cluster, reference)) for reference in wanted}
    dry_run = _asked(lambda: cluster.create_job(manifest, dry_run=True))
    return PoolFacts(target, pod, smallest_gpus, found, dry_run)


def references(pod: Any) -> list[Reference]:
    """What a pod's spec names that must be there before it: each once, in order."""
    return list(dict.fromkeys(reference for reference in _references(pod) if reference.name))


def _references(pod: Any) -> Iterator[Reference]:
    for secret in many(pod, "imagePullSecrets"):
        yield Reference("image pull secret", text(secret, "name"))
    for volume in many(pod, "volumes"):
        yield Reference("PersistentVolumeClaim", text(volume, "persistentVolumeClaim", "claimName"))
        yield Reference("Secret", text(volume, "secret", "secretName"))
        yield Reference("ConfigMap", text(volume, "configMap", "name"))
    for container in many(pod, "initContainers") + many(pod, "containers"):
        for variable in many(container, "env"):
            yield Reference("Secret", text(variable, "valueFrom", "secretKeyRef", "name"))
            yield Reference("ConfigMap", text(variable, "valueFrom", "configMapKeyRef", "name"))
        for source in many(container, "envFrom"):
            yield Reference("Secret", text(source, "secretRef", "name"))
            yield Reference("ConfigMap", text(source, "configMapRef", "name"))
    yield Reference("PriorityClass", text(pod, "priorityClassName"))


def _look_up(cluster: Reads, reference: Reference) -> Json:
    home = f"/api/v1/namespaces/{cluster.namespace}"
    name = reference.name
    match reference.kind:
        case "PersistentVolumeClaim":
            return cluster.get(f"{home}/persistentvolumeclaims/{name}")
        case "ConfigMap":
            return cluster.get(f"{home}/configmaps/{name}", metadata_only=True)
        case "PriorityClass":
            return cluster.get(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")
        case "LocalQueue":
            return cluster.get(f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{cluster.namespace}/localqueues/{name}")
    return cluster.get(f"{home}/secrets/{name}", metadata_only=True)


def _granted(cluster: Reads, right: Right) -> bool:
    return cluster.can_i(
        right.verb, right.resource, right.group, subresource=right.subresource, everywhere=right.everywhere
    )


def _asked(question: Callable[[], T]) -> T | Refusal:
    try:
        return question()
    except ApiError as error:
        return Refusal(error.status, error.reason, error.message)
