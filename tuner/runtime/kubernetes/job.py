"""One trial as a Job: TrialSpec + PoolTarget -> a plain camelCase document. Pure; talks to no cluster.

An init container copies the bundle of the tuner image to a volume; the unmodified serving image's own python3 runs it
as PID 1. The specification travels in an annotation, the result in the termination message and the log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import UsageError
from tuner.launch import pod as engine_pod
from tuner.launch.pod import COMPILE_CACHE_PATH, MODEL_CACHE_PATH, SHM_PATH
from tuner.runtime.deadlines import longest_s
from tuner.runtime.kubernetes import names
from tuner.runtime.kubernetes.patch import merged
from tuner.runtime.kubernetes.target import PoolTarget, Source
from tuner.space.secrets import looks_secret
from tuner.trial.spec import TrialSpec

Object = dict[str, Any]

# Where things are in the trial's container. Nothing of the serving image lives there.
_ROOT = "/opt/sglang-tuner"
BUNDLE_PATH = f"{_ROOT}/bundle"
SPEC_PATH = f"{_ROOT}/spec"
WORK_PATH = f"{_ROOT}/work"
FILES_PATH = f"{_ROOT}/files"
MESSAGE_PATH = "/dev/termination-log"
# In the tuner image the bundle lies where trials see it; the init container sees the volume elsewhere.
_COPY_TO = "/bundle"
_SPEC_FILE = "trial.json"

TTL_S = 7 * 24 * 3600
"""How long a finished Job stays if nobody harvests it: longer than any outage of the controller we would wait out."""

BEFORE_RUN_S = 3600.0
"""The pod's own deadline counts from its arrival on a node, so it grants this much for pulling and mounting. What
comes before a run is for the controller to time; it must give up earlier than this."""

# The runner ends its engine within 25 s of SIGTERM and writes what it has; a kubelet in need grants less than this.
_GRACE_S = 60
# Dynamo's recipe limits an engine of 4 GPUs to 1 TiB. Above a node's memory it does no harm, and no limit at all lets
# one trial take the node down.
_MEMORY_GIB_PER_GPU = 256
# UID of nobody: the copy needs no rights at all.
_NOBODY = 65534


def job_manifest(spec: TrialSpec, target: PoolTarget, study_uid: str) -> Object:
    """The Job of one attempt of a trial.

    Raises:
        UsageError: a secret would be written into it, or the pool's `pod_patch` changes what a trial depends on.
    """
    _refuse_secrets(spec)
    labels = _labels(spec, study_uid)
    template = _template(spec, target, labels)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job_name(spec),
            **({"namespace": target.namespace} if target.namespace else {}),
            "labels": {**labels, **({names.LABEL_QUEUE: target.queue} if target.queue else {})},
            "annotations": {names.ANNOTATION_SPEC_SHA256: names.spec_sha256(spec)},
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            **({"suspend": True} if target.queue else {}),  # Kueue lets it go once the quota has room
            "podReplacementPolicy": "Failed",
            # With Ignore a second pod would start seconds after an eviction, and the trial would run twice.
            "podFailurePolicy": {
                "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "ttlSecondsAfterFinished": TTL_S,
            "template": _patched(template, target),
        },
    }


def deadline_s(spec: TrialSpec) -> int:
    """The pod's own deadline in seconds, from its arrival on a node."""
    return math.ceil(BEFORE_RUN_S + longest_s(spec))


def gpus_requested(spec: TrialSpec, target: PoolTarget) -> int:
    """GPUs the pod holds: all of the node for an exclusive trial, so that nobody else's engine runs beside it."""
    return max(spec.gpus, target.gpus_per_node) if target.exclusive else spec.gpus


def _labels(spec: TrialSpec, study_uid: str) -> dict[str, str]:
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_STUDY: study_uid,
        names.LABEL_STUDY_NAME: names.label_value(spec.study),
        names.LABEL_TRIAL: spec.id,
        names.LABEL_ATTEMPT: str(spec.attempt),
        names.LABEL_POOL: names.label_value(spec.pool),
    }


# --- the pod


def _template(spec: TrialSpec, target: PoolTarget, labels: Mapping[str, str]) -> Object:
    return {
        "metadata": {
            "labels": dict(labels),
            "annotations": {
                names.ANNOTATION_SPEC: names.spec_text(spec),
                names.ANNOTATION_SPEC_SHA256: names.spec_sha256(spec),
                # A node with a running trial is not idle, however little CPU it uses.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
            "finalizers": [names.FINALIZER],
        },
        "spec": _pod(spec, target),
    }


def _pod(spec: TrialSpec, target: PoolTarget) -> Object:
    return _given(
        restartPolicy="Never",
        automountServiceAccountToken=False,
        enableServiceLinks=False,  # a Service called "sglang" would put SGLANG_PORT=tcp://... into the environment
        terminationGracePeriodSeconds=_GRACE_S,
        activeDeadlineSeconds=deadline_s(spec),
        priorityClassName=target.priority_class,
        imagePullSecrets=[{"name": name} for name in target.image_pull_secrets],
        nodeSelector=dict(target.node_selector),
        tolerations=[dict(toleration) for toleration in target.tolerations],
        affinity=_affinity(spec, target),
        securityContext=_security(target, "pod"),
        initContainers=[_init_container(target)],
        containers=[_container(spec, target)],
        volumes=_volumes(target),
    )


def _given(**fields: Any) -> Object:
    """The fields that are set: Kubernetes' way of leaving the rest to its defaults."""
    return {key: value for key, value in fields.items() if value not in ("", None, [], {})}


def _security(target: PoolTarget, part: str) -> Object:
    return dict(engine_pod.SECURITY_CONTEXT[target.vendor][part])


def _affinity(spec: TrialSpec, target: PoolTarget) -> Object:
    """Away from other trials if the node is to be its own, rather not where earlier attempts were lost, on one if told.

    A node that is asked for is preferred, not required: it may be gone, and the trial says where it ran.
    """
    affinity: Object = {}
    wished = [("NotIn", spec.context.get("avoid_nodes") or ()), ("In", [n for n in [spec.context.get("node")] if n])]
    terms = [
        {"weight": 100, "preference": {"matchFields": [_node_is(how, node) for node in nodes]}}
        for how, nodes in wished
        if nodes
    ]
    if terms:
        affinity["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": terms}
    if target.exclusive:
        others = {"labelSelector": {"matchExpressions": [{"key": names.LABEL_STUDY, "operator": "Exists"}]}}
        apart = {**others, "topologyKey": "kubernetes.io/hostname"}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    return affinity


def _node_is(operator: str, node: str) -> Object:
    return {"key": "metadata.name", "operator": operator, "values": [node]}


def _init_container(target: PoolTarget) -> Object:
    return {
        "name": names.INIT_CONTAINER,
        "image": target.tuner_image,
        "imagePullPolicy": "IfNotPresent",
        # The entries below the folder: a user without rights may not set the times of the mount point itself.
        "command": ["cp", "-R", f"{BUNDLE_PATH}/.", _COPY_TO],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "bundle", "mountPath": _COPY_TO}],
    }


def _container(spec: TrialSpec, target: PoolTarget) -> Object:
    return _given(
        name=names.CONTAINER,
        image=spec.image or target.image,
        imagePullPolicy="IfNotPresent",
        # -I -S: neither PYTHON* variables nor the image's own packages reach the runner; the engine gets all of them.
        command=["python3", "-I", "-S", "-B", f"{BUNDLE_PATH}/launch.py"],
        args=[
            *("--spec", f"{SPEC_PATH}/{_SPEC_FILE}"),
            *("--workdir", WORK_PATH),
            *("--termination-message", MESSAGE_PATH),
            "--records",
            *(("--files", FILES_PATH) if target.files else ()),
        ],
        env=_env(target),
        resources=_resources(spec, target),
        securityContext=_security(target, "container"),
        terminationMessagePath=MESSAGE_PATH,
        # Where nothing of ours could start (no python3, an old libc) the log is all there is.
        terminationMessagePolicy="FallbackToLogsOnError",
        volumeMounts=_mounts(spec, target),
    )


def _env(target: PoolTarget) -> list[Object]:
    """Where the caches are. The measured variables travel in the specification: they are for the engine alone."""
    env = engine_pod.cache_env(
        model_cache=target.model_cache is not None, compile_cache=target.compile_cache is not None
    )
    return [{"name": name, "value": engine_pod.literal(env[name])} for name in sorted(env)]


def _resources(spec: TrialSpec, target: PoolTarget) -> Object:
    gpus = gpus_requested(spec, target)
    held = {target.gpu_resource: str(gpus)}
    return {
        # No CPU limit: throttled ranks wait for each other.
        "requests": {**held, "cpu": engine_pod.CPU_REQUEST, "memory": engine_pod.MEMORY_REQUEST},
        "limits": {**held, "memory": f"{_MEMORY_GIB_PER_GPU * gpus}Gi"},
    }


def _mounts(spec: TrialSpec, target: PoolTarget) -> list[Object]:
    mounts: list[Object] = [
        {"name": "bundle", "mountPath": BUNDLE_PATH, "readOnly": True},
        {"name": "spec", "mountPath": SPEC_PATH, "readOnly": True},
        {"name": "work", "mountPath": WORK_PATH},
        {"name": "shm", "mountPath": SHM_PATH},
    ]
    if target.model_cache:
        mounts.append({"name": "model-cache", "mountPath": MODEL_CACHE_PATH, "readOnly": True})
    if target.compile_cache:
        folder = f"{engine_pod.image_key(spec.image or target.image)}-{target.accelerator}"
        mounts.append({"name": "compile-cache", "mountPath": COMPILE_CACHE_PATH, "subPath": folder})
    if target.files:
        mounts.append({"name": "files", "mountPath": FILES_PATH, "readOnly": True})
    return mounts


def _volumes(target: PoolTarget) -> list[Object]:
    spec_item = {"path": _SPEC_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_SPEC}']"}}
    shm = {"medium": "Memory", "sizeLimit": f"{engine_pod.SHM_GIB}Gi"}
    volumes: list[Object] = [
        {"name": "bundle", "emptyDir": {}},
        {"name": "spec", "downwardAPI": {"items": [spec_item]}},
        {"name": "work", "emptyDir": {}},
        {"name": "shm", "emptyDir": shm},
    ]
    if target.model_cache:
        volumes.append({"name": "model-cache", **_volume(target.model_cache, read_only=True)})
    if target.compile_cache:
        volumes.append({"name": "compile-cache", **_volume(target.compile_cache, read_only=False)})
    if target.files:
        volumes.append({"name": "files", **_volume(target.files, read_only=True)})
    return volumes


def _volume(source: Source, *, read_only: bool) -> Object:
    if source.pvc:
        return {"persistentVolumeClaim": {"claimName": source.pvc}}
    if source.secret:
        return {"secret": {"secretName": source.secret}}
    if source.config_map:
        return {"configMap": {"name": source.config_map}}
    return {"hostPath": {"path": source.host_path, "type": "Directory" if read_only else "DirectoryOrCreate"}}


# --- what must not be


def _refuse_secrets(spec: TrialSpec) -> None:
    for name in sorted(spec.env):
        if looks_secret(name):
            raise UsageError(
                f"trial {spec.id}: environment variable {name} looks like a secret, and every reader of the namespace "
                "would see it; take it out of the space file's env and refer to a Kubernetes Secret in pod_patch"
            )
    for argument in spec.argv:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and looks_secret(flag):
            raise UsageError(f"trial {spec.id}: flag {flag} looks like a secret; take it out of the space file")


def _patched(template: Object, target: PoolTarget) -> Object:
    patched = merged(template, target.pod_patch)
    for what, before, after in _depended_on(template, patched):
        if before != after:
            raise UsageError(f"pools.{target.pool}.pod_patch changes {what}, which the trial depends on; leave it out")
    return patched


_OF_CONTAINER = ("image", "command", "args", "terminationMessagePath", "terminationMessagePolicy")
_OUR_VOLUMES = ("bundle", "spec", "work")


def _depended_on(template: Object, patched: Object) -> list[tuple[str, Any, Any]]:
    """What a patch must leave alone: its name, its value before and after."""
    before, after = template["spec"], patched.get("spec", {})
    found = [("spec.restartPolicy", before["restartPolicy"], after.get("restartPolicy"))]
    for role in ("initContainers", "containers"):
        (ours,) = before[role]
        theirs = _named(after.get(role), ours["name"])
        found += [(f"{key} of container {ours['name']}", ours.get(key), theirs.get(key)) for key in _OF_CONTAINER]
        for name in _OUR_VOLUMES:
            mount = _named(ours["volumeMounts"], name), _named(theirs.get("volumeMounts"), name)
            found.append((f"mount {name} of container {ours['name']}", *mount))
    found += [
        (f"volume {name}", _named(before["volumes"], name), _named(after.get("volumes"), name)) for name in _OUR_VOLUMES
    ]
    metadata = patched.get("metadata", {})
    for part in ("labels", "annotations"):
        found += [
            (f"{part} {key}", value, metadata.get(part, {}).get(key))
            for key, value in template["metadata"][part].items()
        ]
    return [*found, ("the finalizer", True, names.FINALIZER in metadata.get("finalizers", []))]


def _named(items: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    return next((item for item in items or () if item.get("name") == name), {})
