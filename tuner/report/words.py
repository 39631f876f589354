"""Numbers and configurations as people read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.space.config import Choice, Scalar, ServingConfig
from tuner.study.events import StoppedBy

STOPPED: Mapping[StoppedBy, str] = {
    "trials": "the number of trials is reached",
    "wall": "the time budget is spent",
    "gpu_hours": "the GPU-hour budget is spent",
    "usd": "the money budget is spent",
    "space_exhausted": "every point of the space has been tried",
    "chosen": "the configurations asked for with --only have been run",
    "converged": "little further gain is expected",
}


def money(usd: float | None) -> str:
    """`$1.23`; four significant digits below one dollar."""
    if usd is None:
        return "-"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4g}"


def seconds(value: float | None) -> str:
    """`0.62 s`, `12.3 s`; a dash where nothing was measured."""
    return "-" if value is None else f"{value:.3g} s"


def duration(value_s: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if value_s < 90:
        return f"{value_s:.0f} s"
    if value_s < 5400:
        return f"{value_s / 60:.0f} min"
    return f"{value_s / 3600:.1f} h"


def rate(req_per_s: float | None) -> str:
    """`2.41 req/s`."""
    return "-" if req_per_s is None else f"{req_per_s:.3g} req/s"


def several(count: int, thing: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def label(value: Scalar | Choice) -> str:
    """A dimension's value: `mtp(steps=3)`, `0.86`."""
    return value.label if isinstance(value, Choice) else str(value)


def shared(configs: Sequence[ServingConfig]) -> dict[str, Scalar | Choice]:
    """The dimensions in which all of several configurations agree; none for a single one."""
    if len(configs) < 2:
        return {}
    first, *rest = [dict(c.values) for c in configs]
    return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in rest)}


def differing(config: ServingConfig, common: Mapping[str, Scalar | Choice]) -> str:
    """`describe`, without the values it has in common with those beside it."""
    values = tuple((k, v) for k, v in config.values if not (k in common and common[k] == v))
    return ServingConfig(config.pool, config.layout, values, config.only).describe()
