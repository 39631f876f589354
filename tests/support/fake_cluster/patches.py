"""The three kinds of patch a server takes."""

from __future__ import annotations

import copy
from typing import Any

from support.fake_cluster.store import Refused

Json = dict[str, Any]
_DROP = "$deleteFromPrimitiveList/"


def apply(held: Json, patch: Any, content_type: str) -> None:
    """Patch an object in place, or refuse and leave it alone."""
    if content_type == "application/json-patch+json":
        draft = copy.deepcopy(held)
        for step in patch:
            _step(draft, step)
        held.clear()
        held.update(draft)
        return
    if content_type not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
        raise Refused(415, "UnsupportedMediaType", f"the body of the request was in an unknown format - {content_type}")
    wanted = (patch.get("metadata") or {}).get("uid")
    if wanted is not None and wanted != held["metadata"]["uid"]:
        message = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {held['metadata']['uid']}"
        raise Refused(409, "Conflict", message)
    _merge(held, patch, strategic="strategic" in content_type)


def _merge(held: Json, patch: Json, *, strategic: bool) -> None:
    for key, value in patch.items():
        if strategic and key.startswith(_DROP):
            name = key.removeprefix(_DROP)
            held[name] = [item for item in held.get(name, []) if item not in value]
        elif value is None:
            held.pop(key, None)
        elif strategic and key == "finalizers":
            held[key] = [*held.get(key, []), *(item for item in value if item not in held.get(key, []))]
        elif isinstance(value, dict):
            _merge(held.setdefault(key, {}), value, strategic=strategic)
        else:
            held[key] = value


def _step(document: Json, step: Json) -> None:
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    try:
        target: Any = document
        for part in path:
            target = target[int(part) if isinstance(target, list) else part]
        place: Any = int(last) if isinstance(target, list) and last != "-" else last
        if step["op"] == "add" and isinstance(target, list):
            target.insert(len(target) if place == "-" else place, step["value"])
        elif step["op"] in ("add", "replace"):
            target[place] = step["value"]
        elif step["op"] == "remove":
            del target[place]
        elif step["op"] == "test" and target[place] != step["value"]:
            raise Refused(422, "Invalid", "the server rejected our request due to an error in our request")
    except (KeyError, IndexError, ValueError):
        raise Refused(422, "Invalid", "the server rejected our request due to an error in our request") from None
