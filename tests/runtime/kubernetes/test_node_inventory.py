"""Which nodes could hold a pod: the scheduler's own rules of resources, labels, affinity and taints."""

from __future__ import annotations

import pytest
from support.cluster_objects import a_node, a_pod_spec

from tuner.runtime.kubernetes.inventory import counted, gpus_of, needs_of, readiness, survey
from tuner.runtime.kubernetes.objects import event_time, moment, quantity

GPU = "amd.com/gpu"
TAINT = {"key": "gpu", "value": "amd", "effect": "NoSchedule"}


def could(node, **spec) -> bool:
    return bool(survey([node], needs_of(a_pod_spec(**spec)), GPU).could)


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "amd"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "nvidia"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_a_taint_needs_its_toleration(toleration, fits):
    assert could(a_node(taints=[TAINT]), tolerations=[toleration]) is fits


def test_a_taint_that_only_prefers_does_not_count():
    assert could(a_node(taints=[{**TAINT, "effect": "PreferNoSchedule"}]))


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["mi355x", "b200"], True),
        ("In", ["b200"], False),
        ("NotIn", ["b200"], True),
        ("NotIn", ["mi355x"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
        ("Gt", ["1"], False),
        ("Unheard", ["mi355x"], False),
    ],
)
def test_node_affinity(operator, values, fits):
    expression = {"key": "gpu", "operator": operator, "values": values}
    assert could(a_node(labels={"gpu": "mi355x"}), affinity=required([expression])) is fits


@pytest.mark.parametrize(("operator", "fits"), [("Gt", True), ("Lt", False)])
def test_node_affinity_compares_numbers(operator, fits):
    expression = {"key": "generation", "operator": operator, "values": ["9"]}
    assert could(a_node(labels={"generation": "10"}), affinity=required([expression])) is fits


def required(*alternatives):
    terms = [{"matchExpressions": expressions} for expressions in alternatives]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def test_one_of_the_alternatives_of_an_affinity_suffices():
    no, yes = {"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}

    assert could(a_node(labels={"b": ""}), affinity=required([no], [yes]))
    assert not could(a_node(labels={"b": ""}), affinity=required([no, yes]))


def test_a_node_selected_by_name():
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}

    assert could(a_node("gpu-1"), affinity=affinity)
    assert not could(a_node("gpu-2"), affinity=affinity)


@pytest.mark.parametrize(("selector", "fits"), [({"pool": "gpu"}, True), ({"pool": "cpu"}, False), ({}, True)])
def test_a_node_selector(selector, fits):
    assert could(a_node(labels={"pool": "gpu"}), nodeSelector=selector) is fits


@pytest.mark.parametrize(
    ("requests", "fits"),
    [({"memory": "1900Gi"}, True), ({"memory": "3Ti"}, False), ({"cpu": "128"}, True), ({"cpu": "129000m"}, False)],
)
def test_memory_and_cpu_count_too(requests, fits):
    container = {"name": "trial", "resources": {"requests": requests}}
    assert could(a_node(), containers=[container]) is fits


def test_requests_add_up_as_the_scheduler_does_it():
    def asking(cpu, **more):
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [asking("2"), asking("1")],
        "initContainers": [asking("9"), asking("500m", restartPolicy="Always")],
        "overhead": {"cpu": "250m"},
    }

    assert needs_of(spec).requests == {"cpu": 9.25}


def test_a_gpu_that_is_out_of_order_is_waited_for():
    found = survey([a_node(healthy=7)], needs_of(a_pod_spec()), GPU)

    assert (found.could, found.ready, counted(found.passing)) == (
        ("gpu-0",),
        (),
        "1 with 7 healthy of the 8 amd.com/gpu asked for",
    )
    assert gpus_of(a_node(healthy=7), GPU) == (8, 7)


def test_a_survey_counts_what_rules_nodes_out():
    nodes = [a_node("a", gpus=4), a_node("b", gpus=4), a_node("c", taints=[TAINT]), a_node("d", gpus=0)]
    found = survey(nodes, needs_of(a_pod_spec()), GPU)

    assert counted(found.never) == (
        "2 with 4 of the 8 amd.com/gpu asked for, 1 with 0 of the 8 amd.com/gpu asked for, "
        "1 with taint gpu=amd:NoSchedule that the pool does not tolerate"
    )
    assert (found.gpus, found.advertised) == (4, True)


def test_readiness_of_a_node():
    assert readiness([a_node("a")], "a")["status"] == "True"
    assert readiness([{"metadata": {"name": "a"}}], "a") == {}
    assert readiness([a_node("a")], "b") is None


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("8", 8),
        ("500m", 0.5),
        ("24580016Ki", 24580016 * 1024),
        ("1.5Gi", 1.5 * 2**30),
        ("1e3", 1000),
        ("2k", 2000),
        (4, 4),
        ("", 0),
        ("x", 0),
        (None, 0),
        ("1X", 0),
    ],
)
def test_quantities(written, value):
    assert quantity(written) == value


def test_times_of_events_are_taken_from_whichever_field_is_set():
    assert event_time({"lastTimestamp": None, "eventTime": "2026-01-01T00:00:00.5Z"}) == moment(
        {"t": "2026-01-01T00:00:00.5Z"}, "t"
    )
    assert event_time({}) is None
    assert moment({"t": "yesterday"}, "t") is None
