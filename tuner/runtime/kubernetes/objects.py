"""Reading cluster objects as plain JSON, where any field may be missing, null or of a newer kind.

Knows no rule of what a field means; never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_UNITS = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
    "Ei": 2.0**60,
}


def at(value: Any, *path: str) -> Any:
    """What lies under the path, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text(value: Any, *path: str) -> str:
    """The text under the path, or ""."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def number(value: Any, *path: str) -> int:
    """The whole number under the path, or 0."""
    found = at(value, *path)
    return found if isinstance(found, int) else 0


def many(value: Any, *path: str) -> list[Mapping[str, Any]]:
    """The objects of a list; anything else in it is left out."""
    found = at(value, *path)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, (list, tuple)) else []


def named(value: Any, *path: str) -> dict[str, Any]:
    """A mapping by name, as labels and resources are."""
    found = at(value, *path)
    return dict(found) if isinstance(found, Mapping) else {}


def moment(value: Any, *path: str) -> datetime | None:
    """A time with its zone, or None."""
    try:
        found = datetime.fromisoformat(text(value, *path))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def quantity(value: Any) -> float:
    """`8`, `500m`, `24580016Ki`, `1e3`; what cannot be read is 0."""
    written = str(value).strip() if isinstance(value, (str, int, float)) else ""
    digits = written.rstrip("".join(_UNITS)) if not written.replace(".", "").isdigit() else written
    unit = written[len(digits) :]
    try:
        return float(digits) * (_UNITS[unit] if unit else 1.0)
    except (KeyError, ValueError):
        return 0.0


def condition(value: Any, kind: str) -> Mapping[str, Any]:
    """The condition of this type, or an empty one."""
    return next((c for c in many(value, "status", "conditions") if c.get("type") == kind), {})


def holds(value: Any, kind: str) -> bool:
    """Whether the condition is there and true."""
    return condition(value, kind).get("status") == "True"


def event_time(event: Mapping[str, Any]) -> datetime | None:
    """When an event happened last: who wrote it decides which of the fields is set."""
    paths = (("series", "lastObservedTime"), ("lastTimestamp",), ("eventTime",), ("metadata", "creationTimestamp"))
    return next((when for path in paths if (when := moment(event, *path))), None)
