"""Where the Helm chart lies that exported values fit, and its defaults.

A wheel carries it inside the package, a checkout has it at the top level. Knows nothing of winners or targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import UsageError

_PACKAGE = Path(__file__).resolve().parents[1]


def chart_path(package: Path = _PACKAGE) -> Path:
    """The chart's folder.

    Raises:
        UsageError: the installation has no chart.
    """
    candidates = (package / "_shipped" / "chart", package.parent / "k8s" / "chart")
    for folder in candidates:
        if (folder / "Chart.yaml").is_file():
            return folder
    raise UsageError(f"the Helm chart is missing at {' and '.join(map(str, candidates))}; install the package again")


def chart_defaults() -> dict[str, Any]:
    """The chart's own values.yaml."""
    defaults: dict[str, Any] = yaml.safe_load((chart_path() / "values.yaml").read_text(encoding="utf-8"))
    return defaults


def merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over defaults as Helm lays them: maps merge, lists and scalars replace, a null removes the key."""
    result = dict(defaults)
    for key, value in values.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
