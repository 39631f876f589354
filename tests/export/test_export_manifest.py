"""The plain manifest is the chart's twin: same values, same objects."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from tuner.errors import UsageError
from tuner.export.helm import helm_values
from tuner.export.manifest import manifest_objects, to_manifest
from tuner.export.target import SecretKey, Target, Volume

HELMS_OWN_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def substance(thing):
    """An object without who manages it, with JSON annotations as what they say."""
    thing = copy.deepcopy(thing)
    for label in HELMS_OWN_LABELS:
        thing["metadata"]["labels"].pop(label, None)
    annotations = thing["metadata"].get("annotations", {})
    for key, text in annotations.items():
        if text[:1] in "[{":
            annotations[key] = json.loads(text)
    return thing


CASES = [
    ({}, {}, {}),
    ({"env": {}, "alternatives": ()}, {"model_cache": None, "compile_cache": None, "secret_env": {}}, {}),
    (
        {"args": ("--a", "$(HOME)", "$$", "1e3", '{"k": "v"}', "é\n"), "env": {"A": "$(B)", "HF_HOME": "/own"}},
        {"compile_cache": Volume(pvc="kernels", mount_path="/k"), "port": 8000, "served_name": ""},
        {},
    ),
    ({"simulated": True, "confirmed": False, "image_digest": ""}, {"vendor": "nvidia"}, {}),
    (
        {"gpus": 4},
        {"replicas": 3, "priority_class": "serving", "memory_limit": "1Ti", "cpu_request": "32", "tolerations": ()},
        {
            "podLabels": {"team": "x"},
            "podAnnotations": {"sidecar.istio.io/inject": "false"},
            "service": {"type": "NodePort", "annotations": {"a": "b"}},
            "serviceAccountName": "engine",
            "affinity": {"podAntiAffinity": {}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "drainSeconds": 0,
            "probes": {"startup": {"periodSeconds": 20}},
            "resources": {"memoryRequest": ""},
            "compileCache": {"env": {"XDG_CACHE_HOME": None, "MINE": "m"}},
        },
    ),
    ({"env": {"HF_TOKEN": "x"}}, {"secret_env": {"HF_TOKEN": SecretKey("s", "k"), "HF_HOME": SecretKey("t", "l")}}, {}),
]


@pytest.mark.parametrize(("winner", "target", "more"), CASES)
def test_manifest_and_chart_are_the_same_objects(helm, a_winner, a_target, winner, target, more):
    values = helm_values(a_winner(**winner), a_target(**target)) | more
    written = list(yaml.safe_load_all(to_manifest(values, name="demo", namespace="prod")))
    rendered = helm.objects(values)
    assert [substance(o) for o in written] == [substance(rendered[kind]) for kind in ("Deployment", "Service")]


def test_manifest_passes_the_strict_models(a_winner, a_target):
    from kubernetes import client

    deployment, service = manifest_objects(helm_values(a_winner(), a_target()), name="glm52")
    client.V1Deployment.model_validate(deployment)
    client.V1Service.model_validate(service)
    assert "namespace" not in deployment["metadata"]


def test_manifest_says_on_top_how_it_was_made(a_winner, a_target):
    text = to_manifest(helm_values(a_winner(simulated=True), a_target()), name="glm52")
    assert text.startswith("# Kubernetes objects")
    assert "# SIMULATED" in text.split("---")[0]


@pytest.mark.parametrize("name", ["", "Glm", "5glm", "a_b", "a" * 64, "a-", "a\n"])
def test_name_that_no_service_may_have_is_refused(a_winner, a_target, name):
    values = helm_values(a_winner(), a_target())
    with pytest.raises(UsageError, match="cannot name a Service"):
        manifest_objects(values, name=name)


def test_minimal_target_is_enough(a_winner):
    values = helm_values(a_winner(), Target(vendor="nvidia", gpu_resource="nvidia.com/gpu"))
    deployment, _ = manifest_objects(values, name="demo")
    assert [v["name"] for v in deployment["spec"]["template"]["spec"]["volumes"]] == ["shm"]
