"""`PoolTarget`: everything a pool of the space file says about where its trials run. Knows no trial and no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.errors import UsageError
from tuner.launch.pod import Vendor
from tuner.model.catalogue import accelerator
from tuner.runtime.kubernetes.patch import check_patch
from tuner.space.schema import Pool


@dataclass(frozen=True, slots=True)
class Source:
    """Where files lie, exactly one of: a claim, a folder of the node, a Secret, a ConfigMap."""

    pvc: str | None = None
    host_path: str | None = None
    secret: str | None = None
    config_map: str | None = None


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """One pool's side of every Job on it.

    `namespace` is None where neither the pool nor the command line says it: the kubeconfig context decides.
    `gpus_per_node` is what an `exclusive` trial asks for whatever its layout uses. `autoscale_wait_s` is how long an
    unschedulable trial waits for a node to be made; None: the pool does not grow. `pod_patch` is a strategic merge.
    """

    pool: str
    namespace: str | None
    context: str | None
    image: str
    tuner_image: str
    accelerator: str
    vendor: Vendor
    gpu_resource: str
    gpus_per_node: int
    max_nodes: int
    exclusive: bool
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    image_pull_secrets: tuple[str, ...]
    priority_class: str | None
    model_cache: Source | None
    compile_cache: Source | None
    files: Source | None
    queue: str | None
    autoscale_wait_s: float | None
    pod_patch: Mapping[str, Any]


def target_of(name: str, pool: Pool, *, namespace: str | None, context: str | None, tuner_image: str) -> PoolTarget:
    """The target of a pool. `namespace` and `context` are the command line's and stand in where the pool says nothing.

    Raises:
        UsageError: the pool's `pod_patch` cannot be applied, or an accelerator nobody knows.
    """
    if not tuner_image:
        raise UsageError("no tuner image: say with --tuner-image which image carries the runner (see k8s/Dockerfile)")
    check_patch(pool.pod_patch, f"pools.{name}.pod_patch")
    gpu = accelerator(pool.accelerator)
    return PoolTarget(
        pool=name,
        namespace=pool.namespace or namespace,
        context=pool.context or context,
        image=pool.image,
        tuner_image=tuner_image,
        accelerator=pool.accelerator,
        vendor=gpu.vendor,
        gpu_resource=gpu.resource_name,
        gpus_per_node=pool.gpus_per_node,
        max_nodes=pool.max_nodes,
        exclusive=pool.exclusive,
        node_selector=dict(pool.node_selector),
        tolerations=tuple(pool.tolerations),
        image_pull_secrets=tuple(pool.image_pull_secrets),
        priority_class=pool.priority_class,
        model_cache=_source(pool.model_cache),
        compile_cache=_source(pool.compile_cache),
        files=_source(pool.files),
        queue=pool.queue,
        autoscale_wait_s=pool.autoscale.wait if pool.autoscale else None,
        pod_patch=pool.pod_patch,
    )


def _source(spec: Any) -> Source | None:
    return Source(**spec.model_dump()) if spec is not None else None
