"""From a space file's pools to the places their trials run, and whether those can run any, before anything is created.

Knows no study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tuner.errors import RuntimeUnusable
from tuner.runtime.kubernetes.client import ApiError, Cluster, connect
from tuner.runtime.kubernetes.inventory import Needs, survey
from tuner.runtime.kubernetes.job import job_manifest
from tuner.runtime.kubernetes.place import Place, expectation
from tuner.runtime.kubernetes.refusals import call_refused
from tuner.runtime.kubernetes.rights import HELPFUL, NEEDED, Right
from tuner.runtime.kubernetes.site import POLL_S, Site
from tuner.runtime.kubernetes.target import PoolTarget, target_of
from tuner.runtime.kubernetes.unplaced import never_fits
from tuner.space.schema import Pool
from tuner.trial.spec import TrialSpec


def places_of(
    pools: Mapping[str, Pool],
    layout_gpus: Sequence[int],
    *,
    namespace: str | None,
    context: str | None,
    tuner_image: str,
    on_call: Callable[[str], None] | None = None,
    every_s: float = POLL_S,
) -> dict[str, Place]:
    """The place of every pool; pools of one namespace and context share a site. Sends nothing.

    Raises:
        UsageError: no kubeconfig, no such context, no tuner image, or a pool that cannot be right.
    """
    places: dict[str, Place] = {}
    sites: dict[tuple[str, str], Site] = {}
    smallest = min(layout_gpus)
    for name, pool in pools.items():
        target = target_of(name, pool, namespace=namespace, context=context, tuner_image=tuner_image)
        cluster = connect(target.context, target.namespace, on_call)
        site = sites.setdefault((cluster.server, cluster.namespace), Site(cluster, every_s=every_s))
        beside = 1 if pool.exclusive else max(1, pool.gpus_per_node // smallest)
        places[name] = Place(target, site, pool.max_nodes * beside, smallest)
    return places


def check_sites(places: Mapping[str, Place], samples: Mapping[str, TrialSpec]) -> list[str]:
    """Ask every cluster whether the search may do what it has to, and whether nodes can hold it.

    A sample trial of every pool is created by way of trial: the server checks it all and keeps nothing. Returns what
    could not be found out.

    Raises:
        UsageError: a sample must not be written into a cluster.
        RuntimeUnusable: it cannot work; nothing was created.
    """
    manifests = {name: job_manifest(spec, places[name].target, "may-i") for name, spec in samples.items()}
    remarks: list[str] = []
    for site in {id(place.site): place.site for place in places.values()}.values():
        here = {name: place for name, place in places.items() if place.site is site}
        try:
            _check_rights(site.cluster)
            remarks += _check_nodes(site.cluster, list(here.values()))
        except ApiError as error:
            raise RuntimeUnusable(_refused(error, next(iter(here.values())), "asking for leave")) from error
        remarks += [_tried(here[name], manifest) for name, manifest in manifests.items() if name in here]
    return [remark for remark in remarks if remark]


def _tried(place: Place, manifest: Mapping[str, Any]) -> str:
    """Why a trial would have to wait now, "" if it would not."""
    try:
        place.site.cluster.create_job(manifest, dry_run=True)
    except ApiError as error:
        said = _refused(error, place, f"a trial of pool {place.target.pool}")
        if error.status == 403 and "used up" in said:
            return said
        raise RuntimeUnusable(said) from error
    return ""


def _refused(error: ApiError, place: Place, doing: str) -> str:
    verdict = call_refused(error.status, error.reason, error.message, expectation(place, 0), doing)
    return verdict.message or verdict.stage


def _check_rights(cluster: Cluster) -> None:
    missing = [right for right in NEEDED if not _may(cluster, right)]
    if missing:
        listed = ", ".join(str(right) for right in missing)
        raise RuntimeUnusable(
            f"namespace {cluster.namespace}: no permission to {listed} (first: to {missing[0].why}) - "
            "apply k8s/rbac.yaml, or name another namespace with --namespace"
        )


def _may(cluster: Cluster, right: Right) -> bool:
    return cluster.can_i(
        right.verb, right.resource, right.group, subresource=right.subresource, everywhere=right.everywhere
    )


def _check_nodes(cluster: Cluster, places: Sequence[Place]) -> Iterator[str]:
    """Pools that no node could ever serve are refused; those that an autoscaler fills are not looked at."""
    if not all(_may(cluster, right) for right in HELPFUL):
        yield f"{cluster.server}: nodes may not be listed; that no node fits a trial will be found out late"
        return
    nodes = cluster.nodes()
    for place in places:
        target = place.target
        if target.autoscale_wait_s is not None:
            continue
        needs = _needs(target, place.smallest_gpus)
        found = survey(nodes, needs, target.gpu_resource)
        if not found.could:
            raise RuntimeUnusable(
                never_fits(found, needs, expectation(place, int(needs.requests[target.gpu_resource])))
            )


def _needs(target: PoolTarget, smallest_gpus: int) -> Needs:
    gpus = max(smallest_gpus, target.gpus_per_node) if target.exclusive else smallest_gpus
    return Needs({target.gpu_resource: float(gpus)}, target.node_selector, (), target.tolerations)
