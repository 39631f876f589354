"""Winner + target -> Helm values for the chart `k8s/chart`, as a dict and as YAML. Pure: no file, no cluster, no Helm.

The values are the one source of every export: the manifest and the launch command are written from them too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tuner.errors import UsageError
from tuner.export.document import dump, header
from tuner.export.secret import refuse_secrets
from tuner.export.target import Target, Volume
from tuner.export.winner import Figures, Winner
from tuner.launch.argv import plumbing
from tuner.launch.dialect import dialect
from tuner.launch.pod import SECURITY_CONTEXT, image_key

_GPUS_PER_NODE = 8  # one replica is one pod on one node; several nodes per replica are out of scope

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def helm_values(winner: Winner, target: Target) -> dict[str, Any]:
    """Values for the chart; what equals the chart's defaults by nature (probes, ...) is left to it.

    Raises:
        UsageError: a secret would be written, or the deployment does not fit one node.
    """
    _check(winner, target)
    values: dict[str, Any] = {
        "image": pinned(winner.image, winner.image_digest),
        "imagePullSecrets": list(target.image_pull_secrets),
        "replicas": target.replicas,
        "launch": {"program": list(winner.program), "args": list(winner.args), "plumbing": _plumbing(winner, target)},
        "port": target.port,
        "env": {k: v for k, v in winner.env.items() if k not in target.secret_env},
        "secretEnv": {k: {"secret": ref.secret, "key": ref.key} for k, ref in target.secret_env.items()},
        "gpu": {"resource": target.gpu_resource, "count": winner.gpus},
        "nodeSelector": dict(target.node_selector),
        "tolerations": [dict(t) for t in target.tolerations],
        "priorityClassName": target.priority_class,
        "shmSize": f"{target.shm_gib}Gi",
        "modelCache": _volume(target.model_cache),
        "compileCache": _compile_cache(target.compile_cache, winner),
        "securityContext": json.loads(json.dumps(SECURITY_CONTEXT[target.vendor])),
        "resources": _resources(target),
        "provenance": _provenance(winner),
    }
    return {key: value for key, value in values.items() if value not in ("", [], {})}


def to_yaml(values: Mapping[str, Any]) -> str:
    """The values file: a comment that says how it was made, then YAML in which every string is quoted."""
    lines = header(values, "Helm values for the chart `sglang` (k8s/chart): helm install NAME CHART -f THIS_FILE")
    return lines + dump(values)


def _plumbing(winner: Winner, target: Target) -> list[str]:
    """The arguments rendered for this target, no part of the trial. Last on the command line, so they win."""
    speaks = dialect(winner.engine_version)
    every_address = "0.0.0.0"  # noqa: S104 - a pod serves its network
    return list(plumbing(speaks, host=every_address, port=target.port, served_model_name=target.served_name or None))


def pinned(image: str, digest: str) -> str:
    """The image with its digest (`sha256:...`, or `repository@sha256:...` as a node reports it), if there is one."""
    bare = digest.rpartition("@")[2]
    return image if not bare or "@" in image else f"{image}@{bare}"


def _check(winner: Winner, target: Target) -> None:
    name = f"trial {winner.trial} of study {winner.study}"
    if not 1 <= winner.gpus <= _GPUS_PER_NODE:
        raise UsageError(f"{name} needs {winner.gpus} GPUs; the chart serves one node per replica, 1 to 8 GPUs")
    if not winner.image or not winner.program or not winner.args:
        raise UsageError(
            f"{name} records no image or no command line; a trial of an external command has none to export"
        )
    if ":" in target.served_name:
        raise UsageError(f"served name {target.served_name!r}: sglang allows no ':' in it; choose another name")
    if not all(_VARIABLE.fullmatch(variable) for variable in (*winner.env, *target.secret_env)):
        raise UsageError(f"{name}: an environment variable's name is not made of letters, digits and _; correct it")
    if not all(_passable(text) for text in (*winner.program, *winner.args, *winner.env.values())):
        raise UsageError(f"{name}: an argument or environment value holds a NUL or is no Unicode text; correct it")
    refuse_secrets(winner.env, winner.args, target.secret_env)


def _passable(text: str) -> bool:
    """Whether a process can be given this text and YAML can carry it: no NUL, no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _volume(volume: Volume | None) -> dict[str, str]:
    if volume is None:
        return {}
    place = {"pvc": volume.pvc} if volume.pvc else {"hostPath": volume.host_path}
    return {**place, "mountPath": volume.mount_path} if volume.mount_path else place


def _compile_cache(volume: Volume | None, winner: Winner) -> dict[str, str]:
    """Kernels compiled by one image must not meet another: a folder per digest (or per tag, where there is none)."""
    if volume is None:
        return {}
    return {**_volume(volume), "subPath": image_key(pinned(winner.image, winner.image_digest))}


def _resources(target: Target) -> dict[str, str]:
    wanted = {"cpuRequest": target.cpu_request, "memoryLimit": target.memory_limit}
    return {key: quantity for key, quantity in wanted.items() if quantity}


def _provenance(winner: Winner) -> dict[str, Any]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(winner.versions.items()))
    known = {"uid": winner.uid, "versions": versions}
    return {
        "study": winner.study,
        **{key: text for key, text in known.items() if text},
        "trial": winner.trial,
        "rank": winner.rank,
        "model": winner.model,
        "engineVersion": winner.engine_version,
        "simulated": winner.simulated,
        "confirmed": winner.confirmed,
        **({"refuted": True} if winner.refuted else {}),
        "config": json.dumps(winner.config, sort_keys=True, separators=(",", ":")),
        "figures": {name: _short(value) for name, value in winner.figures.as_json().items()},
        "limits": _limits(winner.figures),
        "alternatives": [str(alternative) for alternative in winner.alternatives],
    }


def _limits(figures: Figures) -> dict[str, float]:
    return {name: _short(value) for name, value in figures.limits.items()}


def _short(value: float) -> float:
    """Six significant digits, whole numbers as such: what Helm and Python print alike."""
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() else rounded
