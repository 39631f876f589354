"""Strategic merge of a pool's `pod_patch` into the pod template, by the API's own rules for the lists of a pod.

Pure. Lists with a merge key (containers and environment variables by name, mounts by path ...) merge item by item;
other lists are replaced; null removes a key; `$patch: delete` removes an item and `$patch: replace` its neighbours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import UsageError
from tuner.space.secrets import looks_secret

# `patchMergeKey` of the API's types, by the list's name: below a pod none of these names stands for two lists.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "ownerReferences": "uid",
}
_SETS = frozenset({"finalizers"})
_DIRECTIVE = "$patch"
_VERBS = ("delete", "replace")
# A volume has one source: giving it another one replaces the volume.
_ONE_SOURCE = "volumes"


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the patch applied; neither is changed."""
    if patch.get(_DIRECTIVE) == "replace":
        return _bare(patch)
    result = copy.deepcopy(dict(base))
    for key, value in patch.items():
        if value is None or (isinstance(value, Mapping) and value.get(_DIRECTIVE) == "delete"):
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list):
            result[key] = _merged_list(key, result.get(key) or [], value)
        else:
            result[key] = value
    return result


def _merged_list(name: str, base: Sequence[Any], patch: Sequence[Any]) -> list[Any]:
    if name in _SETS:
        return [*base, *(item for item in patch if item not in base)]
    key = _MERGE_KEYS.get(name)
    if key is None:
        return copy.deepcopy(list(patch))
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [_bare(item) for item in patch if item.get(_DIRECTIVE) != "replace" or len(item) > 1]
    result = [copy.deepcopy(item) for item in base]
    for item in patch:
        at = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            result = [old for old in result if old.get(key) != item[key]]
        elif at is None:
            result.append(merged({}, item))
        elif name == _ONE_SOURCE and not (item.keys() & result[at].keys()) - {key}:
            result[at] = merged({}, item)
        else:
            result[at] = merged(result[at], item)
    return result


def _bare(patch: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in patch.items() if key != _DIRECTIVE}


def check_patch(patch: Mapping[str, Any], where: str) -> None:
    """Refuse what cannot be merged, and values that look like secrets.

    Raises:
        UsageError: with the place of the first problem.
    """
    if unknown := sorted(set(patch) - {"metadata", "spec"}):
        raise UsageError(f"{where}.{unknown[0]}: a pod template has metadata and spec; put it under one of them")
    _check(patch, where)


def _check(patch: Mapping[str, Any], where: str) -> None:
    for key, value in patch.items():
        place = f"{where}.{key}"
        if key == _DIRECTIVE:
            if value not in _VERBS:
                raise UsageError(f"{place}: is one of {', '.join(_VERBS)}, not {value!r}")
        elif str(key).startswith("$"):
            raise UsageError(f"{place}: this directive is not supported; null removes a key, $patch: delete an item")
        elif isinstance(value, Mapping):
            _check(value, place)
        elif isinstance(value, list):
            _check_list(str(key), value, place)


def _check_list(name: str, items: Sequence[Any], where: str) -> None:
    key = _MERGE_KEYS.get(name)
    for index, item in enumerate(items):
        place = f"{where}.{index}"
        if isinstance(item, Mapping):
            if key and key not in item and item.get(_DIRECTIVE) != "replace":
                raise UsageError(f"{place}: says no {key}; items of {name} are merged by it")
            if name == "env" and "value" in item and looks_secret(str(item.get("name", ""))):
                raise UsageError(
                    f"{place}: {item['name']} looks like a secret; refer to a Secret instead (valueFrom.secretKeyRef)"
                )
            _check(item, place)
        elif key:
            raise UsageError(f"{place}: must be a mapping with {key}")
