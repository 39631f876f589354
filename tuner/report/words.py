"""Numbers and configurations as people read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.space.config import Choice, Layout, Scalar, ServingConfig
from tuner.space.workload import Length, Workload
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

OUTCOMES: Mapping[str, str] = {
    "measured": "measured",
    "pruned": "dropped early",
    "infeasible": "over a limit",
    "failed": "failed",
    "invalid": "invalid",
    "confirmation": "confirmations",
}
"""What became of a trial, as reports say it."""


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


_LIMITS = {
    "ttft_p95_s": ("TTFT p95", 1, " s"),
    "tpot_p95_ms": ("TPOT p95", 1, " ms"),
    "e2e_p95_s": ("end-to-end p95", 1, " s"),
    "error_rate": ("error rate", 100, "%"),
}


def limits_text(limits: Mapping[str, float]) -> str:
    """`TTFT p95 <= 5 s, error rate <= 0.5%`."""
    named = ((*_LIMITS.get(key, (key, 1, "")), value) for key, value in limits.items())
    return ", ".join(f"{name} <= {factor * value:g}{unit}" for name, factor, unit, value in named)


def limit_name(key: str) -> str:
    """`TTFT p95` for `ttft_p95_s`."""
    return _LIMITS.get(key, (key, 1, ""))[0]


def traffic_text(workload: Workload) -> str:
    """`20,000 tokens in (60% of them cached) and 1,000 out, poisson arrivals`; means where lengths differ."""
    cached = f" ({workload.cached_fraction:.0%} of them cached)" if workload.cached_fraction else ""
    return (
        f"{_tokens(workload.input_tokens)} tokens in{cached} and {_tokens(workload.output_tokens)} out, "
        f"{workload.arrivals} arrivals"
    )


def _tokens(length: Length) -> str:
    return f"{'' if length.kind == 'fixed' else 'about '}{length.mean_tokens:,.0f}"


def layout_text(layout: Layout) -> str:
    """A layout's label in words: `tp4-dp2-ep4: 2 copies (dp) of 4 GPUs (tp), experts over 4 (ep)`."""
    parts = [f"{f'{layout.dp} copies (dp) of ' if layout.dp > 1 else ''}{several(layout.tp, 'GPU')} (tp)"]
    parts += [f"{layout.attn_dp} attention groups (attn_dp)"] if layout.attn_dp > 1 else []
    parts += [f"experts over {layout.ep} (ep)"] if layout.ep > 1 else []
    return f"{layout.label}: {', '.join(parts)}"


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
