"""Nodes -> the GPU pools they make: one per kind of GPU. Pure; for `tuner init`. Knows no trial and asks no cluster."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]

_PRODUCT = {
    "amd.com/gpu": ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
    "nvidia.com/gpu": ("nvidia.com/gpu.product",),
}
"""Where the vendors' labellers write what a node's GPU is called."""
_OF_KUBERNETES = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")


@dataclass(frozen=True, slots=True)
class FoundPool:
    """Nodes with the same kind of GPU. `gpus_per_node` is the least of them; `cordoned` ones are counted apart."""

    resource: str
    product: str
    label: str
    gpus_per_node: int
    nodes: int
    cordoned: int
    tolerations: tuple[Mapping[str, str], ...]

    def accelerator(self, known: Iterable[str]) -> str | None:
        """The catalogue's name of the GPU: the longest one that the product's name contains as a word."""
        words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", self.product)}
        return max((name for name in known if name in words), key=len, default=None)


def pools_of(nodes: Sequence[Node]) -> list[FoundPool]:
    """The pools, those with the most nodes first."""
    groups: dict[tuple[str, str, str], list[Node]] = {}
    for node in nodes:
        for resource in _PRODUCT:
            if _gpus(node, resource) > 0:
                groups.setdefault((resource, *_product(node, resource)), []).append(node)
    found = [_pool(*key, group) for key, group in groups.items()]
    return sorted(found, key=lambda pool: (-pool.nodes, pool.product))


def _pool(resource: str, label: str, product: str, group: Sequence[Node]) -> FoundPool:
    usable = [node for node in group if not (node.get("spec") or {}).get("unschedulable")]
    return FoundPool(
        resource=resource,
        product=product,
        label=label,
        gpus_per_node=min(_gpus(node, resource) for node in group),
        nodes=len(usable),
        cordoned=len(group) - len(usable),
        tolerations=_tolerations(usable or group),
    )


def _gpus(node: Node, resource: str) -> int:
    amounts = (node.get("status") or {}).get("allocatable") or {}
    text = str(amounts.get(resource, "0"))
    return int(text) if text.isdigit() else 0


def _product(node: Node, resource: str) -> tuple[str, str]:
    labels = (node.get("metadata") or {}).get("labels") or {}
    return next(((label, str(labels[label])) for label in _PRODUCT[resource] if label in labels), ("", ""))


def _tolerations(nodes: Sequence[Node]) -> tuple[Mapping[str, str], ...]:
    """What a pod needs to be let onto every one of the nodes; Kubernetes' own taints come and go by themselves."""
    wanted: dict[tuple[str, str, str], Mapping[str, str]] = {}
    for node in nodes:
        for taint in (node.get("spec") or {}).get("taints") or []:
            key, value, effect = (str(taint.get(part) or "") for part in ("key", "value", "effect"))
            if effect == "PreferNoSchedule" or key.startswith(_OF_KUBERNETES):
                continue
            how = {"operator": "Equal", "value": value} if value else {"operator": "Exists"}
            wanted[key, value, effect] = {"key": key, **how, "effect": effect}
    return tuple(wanted[key] for key in sorted(wanted))
