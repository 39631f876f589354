"""Runtimes and specs on a fake cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from support.fake_cluster import FakeCluster
from support.targets import TUNER_IMAGE, a_pool
from support.trials import a_spec

from tuner.runtime.kubernetes.client import connect
from tuner.runtime.kubernetes.place import Place
from tuner.runtime.kubernetes.runtime import KubernetesRuntime
from tuner.runtime.kubernetes.site import Site
from tuner.runtime.kubernetes.target import PoolTarget, target_of
from tuner.trial.spec import TrialSpec

UID = "uid-1"
IMAGE = "stock:1"
EVERY_S = 0.1


def target(name: str = "here", **changes: Any) -> PoolTarget:
    pool = a_pool(**{"image": IMAGE, "max_nodes": 2, **changes})
    return target_of(name, pool, namespace="demo", context=None, tuner_image=TUNER_IMAGE)


def site_on(cluster: FakeCluster, on_call: Any = None) -> Site:
    return Site(cluster_of(cluster, on_call), every_s=EVERY_S)


def cluster_of(cluster: FakeCluster, on_call: Any = None):
    """A real client on the fake, as a kubeconfig makes it."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig(cluster.folder / "kubeconfig"))
    try:
        return connect(None, None, on_call)
    finally:
        os.environ.pop("KUBECONFIG")
        if before is not None:
            os.environ["KUBECONFIG"] = before


def runtime_on(cluster: FakeCluster, pools: Mapping[str, Any] | None = None, **options: Any) -> KubernetesRuntime:
    """Pools of two nodes each that look at the cluster ten times a second."""
    on_call = options.pop("on_call", None)
    site = site_on(cluster, on_call)
    places = {name: Place(one, site, 2, 1) for name, one in (pools or {"here": target()}).items()}
    return KubernetesRuntime(places, **options)


def spec_of(trial_id: str, *switches: object, **changes: Any) -> TrialSpec:
    spec = a_spec(*switches, id=trial_id, **{"image": IMAGE, **changes})
    return replace(spec, context={**spec.context, "study_uid": UID})
