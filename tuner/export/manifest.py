"""Values -> plain Kubernetes objects (Deployment and Service) for whoever runs no Helm.

Renders in Python what the chart renders, from the same values over the chart's own defaults; a test holds the two
together. Talks to no cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tuner.errors import UsageError
from tuner.export.chart import chart_defaults, merged
from tuner.export.document import dump, header
from tuner.launch.pod import SHM_PATH, literal

Object = dict[str, Any]

_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1035, what a Service's name must be


def manifest_objects(values: Mapping[str, Any], *, name: str, namespace: str = "") -> list[Object]:
    """The Deployment and the Service. Without a namespace it is `kubectl apply -n` that decides.

    Raises:
        UsageError: the name is no DNS label.
    """
    if not _DNS_LABEL.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a Service; use up to 63 of a-z, 0-9 and -, beginning with a letter")
    full = merged(chart_defaults(), values)
    return [_deployment(full, name, namespace), _service(full, name, namespace)]


def to_manifest(values: Mapping[str, Any], *, name: str, namespace: str = "") -> str:
    """The objects as YAML, under the same comment as the values file."""
    objects = manifest_objects(values, name=name, namespace=namespace)
    return header(values, "Kubernetes objects: kubectl apply -f THIS_FILE") + dump(*objects)


def _selector(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "sglang", "app.kubernetes.io/instance": name}


def _metadata(name: str, namespace: str, annotations: Mapping[str, str]) -> Object:
    labels = {**_selector(name), "app.kubernetes.io/managed-by": "sglang-tuner"}
    return _given(name=name, namespace=namespace, labels=labels, annotations=dict(annotations))


def _given(**fields: Any) -> Object:
    """The fields that are set: Kubernetes' way of leaving the rest to its defaults."""
    return {key: value for key, value in fields.items() if value not in ("", None, [], {})}


def _service(values: Mapping[str, Any], name: str, namespace: str) -> Object:
    port = {"name": "http", "port": values["port"], "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, namespace, values["service"].get("annotations", {})),
        "spec": {"type": values["service"]["type"], "selector": _selector(name), "ports": [port]},
    }


def _deployment(values: Mapping[str, Any], name: str, namespace: str) -> Object:
    startup = values["probes"]["startup"]
    annotations = {f"sglang-tuner/{key}": _as_text(value) for key, value in values["provenance"].items()}
    pod_metadata = _given(labels={**_selector(name), **values["podLabels"]}, annotations=dict(values["podAnnotations"]))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name, namespace, annotations),
        "spec": {
            "replicas": values["replicas"],
            "strategy": values["strategy"],
            # Loading may take as long as the startup probe allows; only then is a roll-out late.
            "progressDeadlineSeconds": 600 + startup["periodSeconds"] * startup["failureThreshold"],
            "selector": {"matchLabels": _selector(name)},
            "template": {"metadata": pod_metadata, "spec": _pod(values)},
        },
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _pod(values: Mapping[str, Any]) -> Object:
    """The pod; the reasons of its fixed fields stand in the chart's template."""
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": values["shmSize"]}}]
    volumes += _cache_volume("model-cache", values["modelCache"], "Directory")
    volumes += _cache_volume("compile-cache", values["compileCache"], "DirectoryOrCreate")
    return _given(
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        shareProcessNamespace=True,
        terminationGracePeriodSeconds=values["terminationGracePeriodSeconds"],
        serviceAccountName=values["serviceAccountName"],
        priorityClassName=values["priorityClassName"],
        imagePullSecrets=[{"name": secret} for secret in values["imagePullSecrets"]],
        nodeSelector=values["nodeSelector"],
        tolerations=values["tolerations"],
        affinity=values["affinity"],
        securityContext=values["securityContext"]["pod"],
        containers=[_container(values)],
        volumes=volumes,
    )


def _cache_volume(name: str, cache: Mapping[str, str], host_path_type: str) -> list[Object]:
    if cache.get("pvc"):
        return [{"name": name, "persistentVolumeClaim": {"claimName": cache["pvc"]}}]
    if cache.get("hostPath"):
        return [{"name": name, "hostPath": {"path": cache["hostPath"], "type": host_path_type}}]
    return []


def _container(values: Mapping[str, Any]) -> Object:
    launch, probes = values["launch"], values["probes"]
    get = {"httpGet": {"path": probes["path"], "port": "http"}}
    return _given(
        name="engine",
        image=values["image"],
        imagePullPolicy=values["imagePullPolicy"],
        command=[literal(text) for text in launch["program"]],
        args=[literal(text) for text in (*launch["args"], *launch["plumbing"])],
        env=_env(values),
        ports=[{"name": "http", "containerPort": values["port"], "protocol": "TCP"}],
        resources=_resources(values["gpu"], values["resources"]),
        securityContext=values["securityContext"]["container"],
        startupProbe={**get, **probes["startup"]},
        readinessProbe={**get, **probes["readiness"]},
        livenessProbe={**get, **probes["liveness"]},
        lifecycle={"preStop": {"exec": {"command": ["sleep", str(values["drainSeconds"])]}}},
        volumeMounts=_mounts(values),
    )


def _env(values: Mapping[str, Any]) -> list[Object]:
    """What the caches need, the measured variables over it, then references to Secrets."""
    model, kernels, secrets = values["modelCache"], values["compileCache"], values["secretEnv"]
    env: dict[str, str] = {}
    if _is_given(model):
        env |= {"HF_HOME": model["mountPath"], "HF_HUB_OFFLINE": "1"}
    if _is_given(kernels):
        env |= {name: f"{kernels['mountPath']}/{folder}" for name, folder in kernels["env"].items()}
    env |= values["env"]
    plain = [{"name": name, "value": literal(env[name])} for name in sorted(env) if name not in secrets]
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": ref["secret"], "key": ref["key"]}}}
        for name, ref in sorted(secrets.items())
    ]


def _is_given(cache: Mapping[str, Any]) -> bool:
    return bool(cache.get("pvc") or cache.get("hostPath"))


def _resources(gpu: Mapping[str, Any], resources: Mapping[str, str]) -> Object:
    count = {gpu["resource"]: str(gpu["count"])}
    requests = _given(cpu=resources.get("cpuRequest"), memory=resources.get("memoryRequest"))
    return {"requests": count | requests, "limits": count | _given(memory=resources.get("memoryLimit"))}


def _mounts(values: Mapping[str, Any]) -> list[Object]:
    model, kernels = values["modelCache"], values["compileCache"]
    mounts: list[Object] = [{"name": "shm", "mountPath": SHM_PATH}]
    if _is_given(model):
        mounts.append({"name": "model-cache", "mountPath": model["mountPath"], "readOnly": True})
    if _is_given(kernels):
        cache = _given(name="compile-cache", mountPath=kernels["mountPath"], subPath=kernels.get("subPath"))
        mounts.append(cache)
    return mounts
