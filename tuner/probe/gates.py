"""What makes a measurement invalid: the load client's own fault, or another traffic than asked for. Never "slow".

Pure judgement of a `DriveReport`; all gates are looked at, so that the reasons come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.probe.driver import DriveReport

LAG_LIMIT_S = 0.005
SEND_LAG_LIMIT_S = 0.002
LAG_SHARE = 0.01
"""Own delays (p99) up to these, or to 1 % of the TTFT that is judged, are no fault."""

CPU_LIMIT = 0.70
"""Of one core; the event loop runs on one."""

THROTTLED_SHARE = 0.005
"""Of the time: a tenth of the 5 % that a p95 limit lets miss."""

MISMATCH_SHARE = 0.01
"""More requests than this share with another length than planned: what was measured is another workload."""

MEAN_LENGTH_TOLERANCE = 0.02
"""All prompts together, where a single one may differ."""

SHARE_TOLERANCE = 0.02

LATE_SHARE = 0.01
"""More prompts than this share that had to be made while they were due."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why figures are not to be trusted: `kind` is a stable word (`client_bound`, `token_count`, `cached_share`)."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Offered:
    """Cached share of the first requests as their prompts were made, counted by the engine's own tokenizer."""

    wanted: float
    counted: float


def gates(
    report: DriveReport,
    *,
    errors: Mapping[str, int],
    judged_ttft_s: float | None,
    offered: Offered | None = None,
) -> tuple[Invalid, ...]:
    """Every gate that tripped. `judged_ttft_s` is the TTFT limit, or the TTFT measured where there is none."""
    found = [Invalid("client_bound", why) for why in _client(report, LAG_SHARE * (judged_ttft_s or 0.0))]
    wrong = report.token_mismatches + errors.get("token_count", 0)
    if report.requests and wrong > MISMATCH_SHARE * report.requests:
        text = f"{wrong} of {report.requests} requests had another number of tokens than planned"
        found.insert(0, Invalid("token_count", text))
    if abs(report.input_tokens_ratio - 1) > MEAN_LENGTH_TOLERANCE:
        text = f"prompts had {report.input_tokens_ratio:.1%} of their planned tokens on average"
        found.insert(0, Invalid("token_count", text))
    if offered is not None and abs(offered.counted - offered.wanted) > SHARE_TOLERANCE:
        text = f"the first prompts share {offered.counted:.2f} of their tokens; {offered.wanted:.2f} was to be offered"
        found.insert(0, Invalid("cached_share", text))
    return tuple(found)


def _client(report: DriveReport, allowed_s: float) -> list[str]:
    found = []
    if report.send_lag_p99_s > max(SEND_LAG_LIMIT_S, allowed_s):
        found.append(f"requests left up to {report.send_lag_p99_s * 1e3:.1f} ms late (p99)")
    if report.loop_lag_p99_s > max(LAG_LIMIT_S, allowed_s):
        found.append(f"the client's event loop lagged by {report.loop_lag_p99_s * 1e3:.1f} ms (p99)")
    if report.cpu_share > CPU_LIMIT:
        found.append(f"the client used {report.cpu_share:.0%} of a core")
    lost = report.throttled
    if lost is not None and lost.periods and lost.seconds > THROTTLED_SHARE * report.duration_s:
        found.append(f"the container's CPU quota stopped the client for {lost.seconds:.2f} s ({lost.periods} times)")
    if report.bodies_late > LATE_SHARE * max(1, report.requests):
        found.append(f"{report.bodies_late} of {report.requests} prompts were not ready when they were due")
    return found
