"""Whether a search could run on a cluster: one line for each thing it needs, and what to do about those that lack.

Pure, over the facts gathered by `facts`. Knows no client, no storage and no terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuner.runtime.kubernetes.facts import Json, PoolFacts, Reference, Refusal, SiteFacts
from tuner.runtime.kubernetes.inventory import Needs, Survey, counted, gpus_of, needs_of, survey
from tuner.runtime.kubernetes.objects import at, many, named, quantity, text
from tuner.runtime.kubernetes.refusals import call_refused
from tuner.runtime.kubernetes.rights import HELPFUL, NEEDED
from tuner.runtime.kubernetes.unplaced import never_fits
from tuner.runtime.kubernetes.verdict import Expectation

Level = Literal["ok", "unknown", "problem"]

OLDEST_SERVER = (1, 29)
"""podFailurePolicy and podReplacementPolicy do what they say from here on."""
# [registry[:port]/]name[:tag][@digest], as the container runtimes read it.
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?P<tag>:[\w][\w.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)
_ONE_NODE_MODES = {"ReadWriteOnce", "ReadWriteOncePod"}


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. `unknown`: it may not be looked at, or only a trial can show."""

    subject: str
    level: Level
    text: str


def examine_site(site: SiteFacts) -> list[Line]:
    """What concerns every pool of a namespace."""
    if isinstance(site.version, Refusal):
        step = "check the kubeconfig context, the VPN and your login"
        return [Line("server", "problem", f"{site.server} does not answer - {_said(site.version)} - {step}")]
    return [_version(site, site.version), _namespace(site), *_rights(site)]


def examine_pool(site: SiteFacts, pool: PoolFacts) -> list[Line]:
    """What concerns one pool's trials."""
    if isinstance(site.version, Refusal):
        return []
    references = [_reference(reference, found, pool) for reference, found in pool.found.items()]
    return [
        _nodes(site, pool),
        *_quotas(site, pool),
        *_images(site, pool),
        *references,
        *_folders(pool),
        _dry_run(pool),
    ]


def expectation(pool: PoolFacts) -> Expectation:
    """The pool's largest trial, before any has run."""
    target = pool.target
    gpus = needs_of(pool.pod).requests.get(target.gpu_resource, 0.0)
    return Expectation(target.pool, target.gpu_resource, int(gpus), smallest_gpus=pool.smallest_gpus)


# --- the namespace


def _version(site: SiteFacts, version: Mapping[str, Any]) -> Line:
    written = text(version, "gitVersion") or f"{text(version, 'major')}.{text(version, 'minor')}"
    found = re.match(r"v?(\d+)\.(\d+)", written)
    if found is None:
        return Line("server", "unknown", f"{site.server} does not say which version it is")
    if (int(found[1]), int(found[2])) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        return Line("server", "problem", f"{site.server} is {written} - trials need {oldest} or newer - upgrade it")
    return Line("server", "ok", f"{site.server} is {written}")


def _namespace(site: SiteFacts) -> Line:
    found = site.namespace_object
    if not isinstance(found, Refusal):
        if text(found, "status", "phase") == "Terminating":
            step = "use another with --namespace"
            return Line("namespace", "problem", f"namespace {site.namespace} is being deleted - {step}")
        return Line("namespace", "ok", f"{site.namespace} is there{_pod_security(found)}")
    if found.status == 404:
        step = f"kubectl create namespace {site.namespace}, or name another with --namespace"
        return Line("namespace", "problem", f"there is no namespace {site.namespace} - {step}")
    return Line("namespace", "unknown", f"{site.namespace}: {_said(found)}")


def _pod_security(namespace: Mapping[str, Any]) -> str:
    level = named(namespace, "metadata", "labels").get("pod-security.kubernetes.io/enforce")
    return f" (PodSecurity enforces {level})" if level else ""


def _rights(site: SiteFacts) -> Iterator[Line]:
    rights = site.rights
    if isinstance(rights, Refusal):
        yield Line("permissions", "unknown", f"they cannot be asked for: {_said(rights)}")
        return
    missing = [right for right in NEEDED if not rights.get(right)]
    for right in missing:
        step = "apply k8s/rbac.yaml, or ask for that verb"
        yield Line(
            "permissions", "problem", f"{right} in namespace {site.namespace} is not allowed - {right.why} - {step}"
        )
    if not missing:
        yield Line("permissions", "ok", f"all {len(NEEDED)} that a search needs in namespace {site.namespace}")
    for right in HELPFUL:
        if not rights.get(right):
            text_ = (
                f"{right} is not allowed: a search goes on without, but cannot {right.why} - see k8s/rbac-nodes.yaml"
            )
            yield Line("permissions", "unknown", text_)


# --- a pool


def _nodes(site: SiteFacts, pool: PoolFacts) -> Line:
    nodes, target = site.nodes, pool.target
    if isinstance(nodes, Refusal):
        return Line("nodes", "unknown", f"they cannot be counted: {_said(nodes)}")
    needs = needs_of(pool.pod)
    found = survey(nodes, needs, target.gpu_resource)
    if found.could:
        return _some_nodes(nodes, pool, needs, found)
    if target.autoscale_wait_s is not None:
        return Line("nodes", "ok", f"none now; the pool may grow one within {target.autoscale_wait_s:.0f} s")
    if 0 < pool.smallest_gpus <= found.gpus:
        text_ = f"only trials of up to {found.gpus:g} GPUs fit - {counted(found.never)} - correct gpus_per_node"
        return Line("nodes", "problem", f"{text_} or the layouts")
    return Line("nodes", "problem", never_fits(found, needs, expectation(pool)))


def _some_nodes(nodes: Any, pool: PoolFacts, needs: Needs, found: Survey) -> Line:
    target = pool.target
    by_name = {text(node, "metadata", "name"): node for node in nodes}
    said = ", ".join(_node(by_name[name], target.gpu_resource, needs) for name in found.could[:8])
    more = f" and {len(found.could) - 8} more" if len(found.could) > 8 else ""
    text_ = f"{len(found.could)} can hold a trial: {said}{more}"
    if not found.ready:
        return Line("nodes", "problem", f"{text_} - but none now: {counted(found.passing)} - repair or uncordon them")
    if target.exclusive and len(found.could) < target.max_nodes and target.autoscale_wait_s is None:
        return Line("nodes", "unknown", f"{text_} - max_nodes says {target.max_nodes}, the rest would wait")
    return Line("nodes", "ok", text_)


def _node(node: Mapping[str, Any], gpu_resource: str, needs: Needs) -> str:
    have, healthy = gpus_of(node, gpu_resource)
    gpus = f"{healthy:g} {gpu_resource}" if healthy == have else f"{healthy:g} of {have:g} {gpu_resource} healthy"
    labels = named(node, "metadata", "labels")
    selected = "".join(f", {name}={labels.get(name)}" for name in needs.node_selector)
    return f"{text(node, 'metadata', 'name')} ({gpus}{selected})"


def _quotas(site: SiteFacts, pool: PoolFacts) -> Iterator[Line]:
    quotas = site.quotas
    if isinstance(quotas, Refusal):
        yield Line("quota", "unknown", f"quotas of {site.namespace}: {_said(quotas)}")
        return
    asked = _asked_of_quota(pool.pod)
    levels = [_quota(quota, asked) for quota in quotas]
    yield from (line for line in levels if line)
    if not any(levels):
        yield Line("quota", "ok", f"{len(quotas)} in {site.namespace}, one trial fits" if quotas else "none")


def _asked_of_quota(pod: Json) -> dict[str, float]:
    """One trial in a quota's own words."""
    asked = {"pods": 1.0, "count/pods": 1.0, "count/jobs.batch": 1.0}
    for name, value in needs_of(pod).requests.items():
        asked |= {name: value, f"requests.{name}": value}
    for container in many(pod, "containers"):
        for name, value in named(container, "resources", "limits").items():
            key = f"limits.{name}"
            asked[key] = asked.get(key, 0.0) + quantity(value)
    return asked


def _quota(quota: Mapping[str, Any], asked: Mapping[str, float]) -> Line | None:
    """A quota that refuses one trial, for ever or as full as it is now; None: it does not."""
    name = text(quota, "metadata", "name")
    hard, used = named(quota, "status", "hard") or named(quota, "spec", "hard"), named(quota, "status", "used")
    for resource, limit in hard.items():
        wanted = asked.get(resource, 0.0)
        if wanted > quantity(limit):
            step = "have it raised, or use another namespace"
            return Line("quota", "problem", f"{name} allows {limit} {resource}, one trial asks for {wanted:g} - {step}")
        if wanted + quantity(used.get(resource)) > quantity(limit):
            text_ = f"{name} has {used.get(resource)} of {limit} {resource} in use: trials wait until it has room"
            return Line("quota", "unknown", text_)
    return None


def _images(site: SiteFacts, pool: PoolFacts) -> Iterator[Line]:
    containers = many(pool.pod, "initContainers") + many(pool.pod, "containers")
    for image in dict.fromkeys(text(container, "image") for container in containers):
        yield _image(image, site)


def _image(image: str, site: SiteFacts) -> Line:
    found = _IMAGE.fullmatch(image)
    if found is None:
        return Line("image", "problem", f"{image} is no name of an image - NAME:TAG or NAME@sha256:... - correct it")
    holders = _holders(image, site)
    where = f"already on {holders} nodes" if holders else "whether it can be pulled shows with the first trial"
    pinned = "" if found["digest"] else "; its tag is resolved to a digest with the first trial"
    if not found["digest"] and found["tag"] in (None, ":latest"):
        return Line("image", "unknown", f"{image} names no version: another image may come tomorrow - give a tag")
    return Line("image", "ok" if holders else "unknown", f"{image}: {where}{pinned}")


def _holders(image: str, site: SiteFacts) -> int:
    if isinstance(site.nodes, Refusal):
        return 0
    return sum(any(image in (at(i, "names") or ()) for i in many(node, "status", "images")) for node in site.nodes)


def _reference(reference: Reference, found: Json | Refusal, pool: PoolFacts) -> Line:
    subject = "model cache" if _is_model_cache(reference, pool) else "reference"
    thing = f"{reference.kind} {reference.name}"
    if isinstance(found, Refusal):
        if found.status == 404:
            return Line(subject, "problem", f"there is no {thing} - create it, or correct pool {pool.target.pool}")
        return Line(subject, "unknown", f"{thing}: {_said(found)}")
    if reference.kind == "PersistentVolumeClaim":
        return _claim(subject, thing, found, pool)
    return Line(subject, "ok", f"{thing} is there")


def _is_model_cache(reference: Reference, pool: PoolFacts) -> bool:
    cache = pool.target.model_cache
    return reference.kind == "PersistentVolumeClaim" and cache is not None and cache.pvc == reference.name


def _claim(subject: str, thing: str, claim: Json, pool: PoolFacts) -> Line:
    phase, modes = text(claim, "status", "phase"), at(claim, "spec", "accessModes") or []
    if phase == "Lost":
        return Line(subject, "problem", f"{thing} has lost its volume - restore it, or name another claim")
    if set(modes) <= _ONE_NODE_MODES and pool.target.max_nodes > 1:
        said = (
            f"{thing} can be mounted on one node at a time ({', '.join(modes)}), max_nodes is {pool.target.max_nodes}"
        )
        return Line(subject, "problem", f"{said} - use ReadOnlyMany or ReadWriteMany, or max_nodes: 1")
    if phase != "Bound":
        return Line(
            subject, "unknown", f"{thing} is {phase or 'not bound'}: its storage class may wait for a first pod"
        )
    return Line(subject, "ok", f"{thing} is bound ({', '.join(modes)})")


def _folders(pool: PoolFacts) -> Iterator[Line]:
    for volume in many(pool.pod, "volumes"):
        if path := text(volume, "hostPath", "path"):
            subject = "model cache" if text(volume, "name") == "model-cache" else "reference"
            yield Line(subject, "unknown", f"{path} must be there on every node of the pool; only a trial can show")


def _dry_run(pool: PoolFacts) -> Line:
    """The API server's own opinion of the Job: unknown fields, GPUs, names; not of its pod."""
    found = pool.dry_run
    if not isinstance(found, Refusal):
        return Line("job", "ok", "the API server would accept it")
    verdict = call_refused(found.status, found.reason, found.message, expectation(pool), "creating a trial's job")
    level: Level = "unknown" if verdict.kind == "waiting" else "problem"
    return Line("job", level, verdict.message or verdict.stage)


def _said(refusal: Refusal) -> str:
    if refusal.status == 403:
        return "you may not look, and a search need not"
    return " ".join(refusal.message.split()) or refusal.reason or "no answer"
