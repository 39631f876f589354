"""Nodes as a cluster lists them -> the pools of a space file."""

from __future__ import annotations

import pytest

from tuner.model.catalogue import accelerators
from tuner.runtime.kubernetes.pools import FoundPool, pools_of

AMD = ("amd.com/gpu", "amd.com/gpu.product-name", "AMD_Instinct_MI355X")
NVIDIA = ("nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-B200")


def node(kind=AMD, gpus="8", taints=(), cordoned=False, labels=None):
    resource, label, product = kind
    spec = {"taints": [dict(zip(("key", "value", "effect"), t, strict=True)) for t in taints]}
    return {
        "metadata": {"name": "n", "labels": {label: product} if labels is None else labels},
        "spec": spec | ({"unschedulable": True} if cordoned else {}),
        "status": {"allocatable": {resource: gpus, "cpu": "128"}},
    }


def test_nodes_of_one_kind_make_a_pool_and_cpu_nodes_none():
    plain = {"metadata": {}, "spec": {}, "status": {"allocatable": {"cpu": "4"}}}
    (pool,) = pools_of([node(), node(), plain])
    assert pool == FoundPool(*AMD[:1], AMD[2], AMD[1], 8, 2, 0, ())


def test_the_larger_pool_comes_first_and_cordoned_nodes_are_counted_apart():
    pools = pools_of([node(), node(NVIDIA), node(NVIDIA, cordoned=True), node(NVIDIA)])
    assert [("NVIDIA-B200", 2, 1), ("AMD_Instinct_MI355X", 1, 0)] == [(p.product, p.nodes, p.cordoned) for p in pools]


def test_a_node_with_a_lost_gpu_lowers_what_all_are_counted_with():
    (pool,) = pools_of([node(), node(gpus="7")])
    assert 7 == pool.gpus_per_node


def test_taints_become_tolerations_but_not_those_kubernetes_sets_itself():
    taints = [
        ("nvidia.com/gpu", "", "NoSchedule"),
        ("team", "ml", "NoExecute"),
        ("soft", "", "PreferNoSchedule"),
        ("node.kubernetes.io/unschedulable", "", "NoSchedule"),
    ]
    (pool,) = pools_of([node(taints=taints), node(taints=taints[:1])])
    assert pool.tolerations == (
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoExecute"},
    )


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("AMD_Instinct_MI355X", "mi355x"),
        ("AMD_Instinct_MI300X_OAM", "mi300x"),
        ("NVIDIA-B200", "b200"),
        ("NVIDIA-H200-SXM", "h200"),
        ("NVIDIA-GB200", None),
        ("NVIDIA-A100-SXM4-80GB", None),
        ("", None),
    ],
)
def test_the_catalogues_name_is_a_word_of_the_product(product, name):
    (pool,) = pools_of([node((*NVIDIA[:2], product))])
    assert name == pool.accelerator(accelerators())


def test_a_node_without_the_label_is_a_pool_without_a_name():
    (pool,) = pools_of([node(labels={})])
    assert ("", "") == (pool.product, pool.label)
