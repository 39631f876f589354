"""`tuner probe`: one measurement of any running endpoint, as one JSON document. Prints nothing, knows no study.

The same client, prompts, search and gates as in a trial.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx

from tuner.errors import EXIT_INTERRUPTED, EXIT_NOTHING_FEASIBLE, EXIT_OK, EXIT_UNCONFIRMED, RuntimeUnusable, UsageError
from tuner.probe.capacity import CapacitySearch
from tuner.probe.control import total_max_running
from tuner.probe.events import RequestRecord
from tuner.probe.gaps import gap_quantile_s
from tuner.probe.outcome import ProbeSettings, Search
from tuner.probe.preparation import Bench
from tuner.probe.probe import ProbeReport, Watch, measure
from tuner.probe.statistics import quantile
from tuner.probe.steady import SteadyLoad, SteadySettings
from tuner.probe.summary import achieved_cached_share
from tuner.space.traffic import BLOCK_TOKENS, Kind, Traffic, TrafficError, read_traffic
from tuner.space.workload import Arrivals, Length, Limits, Workload

ANSWERS_S = 10.0
FIRST_TOKEN_S = 600.0
CAPACITY_S = 1800.0
STEADY_S = 60.0


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What to measure. One of `rate_req_per_s`, `concurrency` and `ttft_p95_s` (find the capacity) is set.

    `duration_s` None: a minute for a steady load, up to half an hour for a capacity search. `api_key_env` names the
    variable that holds the endpoint's key.
    """

    url: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    cached_fraction: float = 0.0
    rate_req_per_s: float | None = None
    concurrency: int | None = None
    ttft_p95_s: float | None = None
    duration_s: float | None = None
    arrivals: Arrivals = "poisson"
    seed: int = 0
    records: Path | None = None
    prompts: Path | None = None
    trace: Path | None = None
    block_tokens: int = BLOCK_TOKENS
    api_key_env: str | None = None

    @property
    def finds_capacity(self) -> bool:
        return self.ttft_p95_s is not None

    def traffic(self) -> Traffic | None:
        """The content of the file of prompts or the trace.

        Raises:
            UsageError: it cannot be used, or does not go with the other options.
        """
        path = self.trace or self.prompts
        if path is None:
            return None
        try:
            kind: Kind = "trace" if self.trace else "file"
            traffic = read_traffic(path, kind, name=str(path), block_tokens=self.block_tokens)
        except TrafficError as error:
            raise UsageError(error.told(str(path))) from error
        if self.arrivals == "trace" and not traffic.timed:
            raise UsageError(f"--arrivals trace: {path} has no timestamps that go on")
        if self.output_tokens is None and traffic.output_tokens is None:
            raise UsageError(f"--output-tokens is needed: not every line of {path} has `output_tokens`")
        return traffic

    def workload(self, traffic: Traffic | None) -> Workload:
        """What is sent; of a file what it amounts to."""
        if traffic is None:
            assert self.input_tokens is not None
            asked, cached, groups = Length.fixed(self.input_tokens), self.cached_fraction, 32
        else:
            asked, cached, groups = traffic.input_tokens, traffic.cached_fraction, traffic.prefix_groups
        answered = traffic.output_tokens if traffic else None
        return Workload(
            asked,
            answered or Length.fixed(self.output_tokens or 1),
            cached_fraction=cached,
            prefix_groups=groups,
            arrivals=self.arrivals,
            prompts=traffic.kind if traffic else "builtin",
            traffic=traffic.file if traffic else None,
        )


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The document to show, and the exit code it means. A run that was stopped has its figures all the same."""

    document: dict[str, Any]
    exit_code: int


def check(request: ProbeRequest) -> None:
    """Refuse what cannot be measured.

    Raises:
        UsageError: with the option and what it may be.
    """
    url = urlsplit(request.url)
    if url.scheme != "http" or not url.hostname or url.path not in ("", "/"):
        raise UsageError(f"--url {request.url}: give http://HOST:PORT, without a path; the load client speaks no TLS")
    try:
        _ = url.port
    except ValueError as error:
        raise UsageError(f"--url {request.url}: {error}") from error
    for option, value in (
        ("--rate", request.rate_req_per_s),
        ("--ttft-p95", request.ttft_p95_s),
        ("--duration", request.duration_s),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} {value}: must be a number above 0")
    if not 0.0 <= request.cached_fraction < 1.0:
        raise UsageError(f"--cached-fraction {request.cached_fraction}: must be at least 0 and below 1")
    if request.arrivals not in get_args(Arrivals):
        raise UsageError(f"--arrivals {request.arrivals}: must be one of {', '.join(get_args(Arrivals))}")
    _check_source(request)
    api_key_of(request)
    if request.records is not None and not request.records.parent.is_dir():
        raise UsageError(f"--records {request.records}: no such folder")


def api_key_of(request: ProbeRequest) -> str:
    """The endpoint's key, "" where it needs none.

    Raises:
        UsageError: the variable is not set, or holds what no header can.
    """
    if request.api_key_env is None:
        return ""
    key = os.environ.get(request.api_key_env, "").strip()
    if not key:
        raise UsageError(f"--api-key-env {request.api_key_env}: this variable is not set, or empty")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"--api-key-env {request.api_key_env}: what this variable holds is no key (one ASCII word)")
    return key


def _check_source(request: ProbeRequest) -> None:
    """Lengths come from the options or from a file, never from both."""
    files = [name for name, path in (("--prompts", request.prompts), ("--trace", request.trace)) if path is not None]
    if len(files) > 1:
        raise UsageError("give --prompts or --trace, not both")
    if request.arrivals == "trace" and not files:
        raise UsageError("--arrivals trace goes with --trace FILE (or --prompts FILE with timestamps)")
    if request.block_tokens < 1 or (request.block_tokens != BLOCK_TOKENS and request.trace is None):
        raise UsageError("--block-tokens goes with --trace and is at least 1")
    own = {"--input-tokens": request.input_tokens, "--cached-fraction": request.cached_fraction or None}
    if request.trace is not None:
        own["--output-tokens"] = request.output_tokens
    given = [name for name, value in own.items() if value is not None]
    if files and given:
        raise UsageError(f"{given[0]} goes without {files[0]}: the file says it")


async def probe_endpoint(request: ProbeRequest, watch: Watch) -> ProbeAnswer:
    """Measure the endpoint and write the records file.

    Raises:
        UsageError: a request that cannot be measured.
        RuntimeUnusable: nobody answers at the URL.
    """
    check(request)
    traffic = request.traffic()
    workload = request.workload(traffic)
    base_url = request.url.rstrip("/")
    await _answers(base_url)
    made: list[SteadyLoad | CapacitySearch] = []

    def search(bench: Bench, left_s: float) -> Search:
        made.append(_search(request, workload, bench, left_s))
        return made[-1]

    duration_s = request.duration_s or (CAPACITY_S if request.finds_capacity else STEADY_S)
    report = await measure(
        base_url,
        search,
        workload=workload,
        traffic=traffic,
        seed=request.seed,
        ttft_limit_s=request.ttft_p95_s,
        probe_s=duration_s if request.finds_capacity else duration_s + 2 * FIRST_TOKEN_S,
        first_token_s=FIRST_TOKEN_S,
        watch=watch,
        model=request.model,
        estimate=True,
        api_key=api_key_of(request),
    )
    records = made[-1].book.flights.records if made else []
    if request.records is not None:
        _write_records(request.records, records)
    sent_for_s = made[-1].sent_for_s if made and isinstance(made[-1], SteadyLoad) else None
    reasons = _reasons(report, stopped=watch.stop_requested())
    document = document_of(request, workload, report, records, sent_for_s, reasons)
    return ProbeAnswer(document, EXIT_INTERRUPTED if watch.stop_requested() else _exit_code(request, report))


async def _answers(base_url: str) -> None:
    """Any HTTP answer will do: what it means is found out by measuring."""
    try:
        async with httpx.AsyncClient(base_url=base_url, timeout=ANSWERS_S, trust_env=False) as http:
            await http.get("/health")
    except httpx.TransportError as error:
        why = str(error) or type(error).__name__
        raise RuntimeUnusable(
            f"{base_url}: nobody answers ({why}); is the engine running, and is the port right?"
        ) from error


def _search(request: ProbeRequest, workload: Workload, bench: Bench, left_s: float) -> SteadyLoad | CapacitySearch:
    if request.ttft_p95_s is None:
        duration_s = request.duration_s or STEADY_S
        return SteadyLoad(
            SteadySettings(duration_s, request.rate_req_per_s, request.concurrency, duration_s + FIRST_TOKEN_S)
        )
    return CapacitySearch(
        ProbeSettings(
            limits=Limits(ttft_p95_s=request.ttft_p95_s),
            mean_output_tokens=workload.output_tokens.mean_tokens,
            max_running=total_max_running(bench.info),
            max_duration_s=left_s,
            poisson=request.arrivals == "poisson",
        )
    )


def document_of(
    request: ProbeRequest,
    workload: Workload,
    report: ProbeReport,
    records: list[RequestRecord],
    sent_for_s: float | None,
    reasons: list[str],
) -> dict[str, Any]:
    """The JSON document: figures of the steady level, or of the highest rate that held.

    A failed request is infinitely slow, so that a quantile it reaches is null and never small.
    """
    outcome = report.outcome
    shown = [r for r in records if r.level == outcome.shown_level]
    good = [r for r in shown if r.error is None]
    client = report.client
    document: dict[str, Any] = {
        "valid": not reasons,
        "invalid_reasons": reasons,
        "state": outcome.state,
        "reason": outcome.reason,
        "requests": outcome.requests,
        "errors": sum(outcome.errors.values()),
        "errors_by_kind": dict(outcome.errors),
        **_times(good, len(shown) - len(good)),
        "chunk_gap_p95_s": gap_quantile_s(report.chunk_gaps.get(outcome.shown_level, {}), 0.95),
        "output_tokens_per_s": _output_rate(report, shown, sent_for_s),
        "cached_fraction": achieved_cached_share(good) if good and client.get("cached_told") else None,
        "cached_fraction_offered": workload.cached_fraction,
        "cached_fraction_by_counters": client.get("cached_share_by_counters"),
        "prompts": asdict(workload.traffic) if workload.traffic else "builtin",
        "duration_s": outcome.duration_s,
        "client": {
            "chunks_per_s": client.get("chunks_per_s", 0.0),
            "cpu_ms_per_1k_chunks": client.get("cpu_ms_per_1k_chunks"),
            "loop_lag_p99_s": client.get("loop_lag_p99_ms", 0.0) / 1e3,
            "send_lag_p99_s": client.get("send_lag_p99_ms", 0.0) / 1e3,
            "cpu_share": client.get("cpu_share", 0.0),
            "throttled_s": client.get("throttled_s", 0.0),
            "bodies_late": client.get("bodies_late", 0),
            "longest_stall_s": client.get("longest_stall_ms", 0.0) / 1e3,
            "resent": client.get("resent", 0),
            "messages": client.get("messages", {}),
        },
        "warnings": list(report.warnings),
        "request": _request_json(request),
    }
    if request.finds_capacity:
        document |= _capacity_json(report)
    return document


def _reasons(report: ProbeReport, *, stopped: bool) -> list[str]:
    reasons = [f"{r.kind}: {r.message}" for r in report.reasons]
    if stopped:
        reasons.append("interrupted: stopped before its end; requests under way then are in no figure")
    elif report.outcome.state == "failed":
        reasons.append(f"{report.outcome.kind or 'failed'}: {report.outcome.reason}")
    return reasons


def _times(good: list[RequestRecord], failed: int) -> dict[str, float | None]:
    lost = [math.inf] * failed
    ttfts = [r.ttft_s if r.ttft_s is not None else math.inf for r in good] + lost
    sent = [r.ttft_from_send_s if r.ttft_from_send_s is not None else math.inf for r in good] + lost
    tpots = [r.tpot_s for r in good if r.tpot_s is not None]
    return {
        "ttft_p50_s": _finite(quantile(ttfts, 0.5)),
        "ttft_p95_s": _finite(quantile(ttfts, 0.95)),
        "ttft_p99_s": _finite(quantile(ttfts, 0.99)),
        "ttft_sent_p95_s": _finite(quantile(sent, 0.95)),
        "tpot_p50_s": quantile(tpots, 0.5),
        "tpot_p95_s": quantile(tpots, 0.95),
        "e2e_p95_s": _finite(quantile([r.done_s - r.scheduled_s for r in good] + lost, 0.95)),
    }


def _output_rate(report: ProbeReport, shown: list[RequestRecord], sent_for_s: float | None) -> float | None:
    """Tokens per second: of a rate that held what it means, of a steady load what came while it was sent."""
    if sent_for_s is None:
        return report.measurement.output_tokens_per_s if report.measurement else None
    if not shown or sent_for_s <= 0:
        return None
    began_s = min(r.scheduled_s for r in shown)
    inside = sum(_tokens_until(r, began_s + sent_for_s) for r in shown if r.error is None)
    return inside / sent_for_s


def _tokens_until(record: RequestRecord, end_s: float) -> float:
    """Tokens of an answer that came by then, as if they came evenly."""
    if record.done_s <= end_s:
        return float(record.output_tokens)
    if record.first_token_s is None or record.first_token_s >= end_s:
        return 0.0
    return record.output_tokens * (end_s - record.first_token_s) / (record.done_s - record.first_token_s)


def _capacity_json(report: ProbeReport) -> dict[str, Any]:
    outcome = report.outcome
    low, high = outcome.capacity_low_req_per_s, outcome.capacity_high_req_per_s
    return {
        "capacity_req_per_s": low,
        "bracket": None if low is None else [low, high],
        "bound_req_per_s": outcome.bound_req_per_s,
        "nearest_miss_ttft_p95_s": outcome.nearest_miss_ttft_p95_s,
        "levels": [asdict(level) for level in report.levels],
    }


def _request_json(request: ProbeRequest) -> dict[str, Any]:
    document = {k: v for k, v in asdict(request).items() if v is not None}
    document.pop("records", None)
    return {k: str(v) if isinstance(v, Path) else v for k, v in document.items()}


def _exit_code(request: ProbeRequest, report: ProbeReport) -> int:
    if _reasons(report, stopped=False):
        return EXIT_UNCONFIRMED
    if request.finds_capacity and report.outcome.state != "measured":
        return EXIT_NOTHING_FEASIBLE
    return EXIT_OK


def _write_records(path: Path, records: list[RequestRecord]) -> None:
    """One JSON line per request: times and counts, never a prompt or an answer."""
    try:
        with path.open("w", encoding="utf-8") as file:
            for record in records:
                row: Mapping[str, Any] = asdict(record)
                file.write(json.dumps({**row, "ttft_s": record.ttft_s, "tpot_s": record.tpot_s}) + "\n")
    except OSError as error:
        raise UsageError(f"--records {path}: cannot be written: {error.strerror}") from error


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
