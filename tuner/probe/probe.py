"""The load probe of one running engine: prepare, search (or confirm), summarise, and say what to think of it.

The trial runner calls `probe`; it never raises for what the engine does. Knows no processes and no specs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from tuner.probe.capacity import CapacitySearch
from tuner.probe.client import StreamClient
from tuner.probe.confirm import ConfirmSettings, RateConfirmation
from tuner.probe.control import EngineControl, EngineUnreachable, effective_settings, total_max_running
from tuner.probe.driver import Driver, DriveReport, Surroundings, drive
from tuner.probe.events import ClosedLoop, Command, Hold, OpenLoop, Stop
from tuner.probe.gaps import gap_quantile_s
from tuner.probe.gates import Invalid, Offered, gates
from tuner.probe.measurement import Level, Measurement
from tuner.probe.outcome import Outcome, ProbeSettings, Search
from tuner.probe.plan import RequestStream, stream_of
from tuner.probe.preparation import Bench, NotReady, prepare
from tuner.probe.prompts import BodyPool
from tuner.probe.statistics import quantile
from tuner.probe.steady import SteadyLoad
from tuner.probe.summary import measurement
from tuner.space.traffic import Traffic
from tuner.space.workload import Limits, Workload

__all__ = ["Invalid", "ProbeReport", "Watch", "measure", "probe", "run"]

T = TypeVar("T")

PREPARED_BODIES = 320
HEALTH_S = 3.0
LEAST_LOAD_S = 30.0


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What one probe found.

    With `invalid` the trial is invalid whatever `outcome` says; `reasons` are all gates that tripped, it the first.
    `chunk_gaps` counts the gaps between chunks by level (`tuner.probe.gaps`). `outcome.kind` names a failure:
    `engine_died`, `hang`, `all_failed`, `undecided`, `no_tokenizer`, `first_requests`, `interrupted`.
    `effective` is what the engine says it runs with, `client` the load client's own health.
    """

    outcome: Outcome
    measurement: Measurement | None
    levels: tuple[Level, ...]
    client: Mapping[str, Any]
    effective: Mapping[str, Any]
    invalid: Invalid | None = None
    warnings: tuple[str, ...] = field(default=())
    reasons: tuple[Invalid, ...] = field(default=())
    chunk_gaps: Mapping[int, Mapping[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Watch:
    """What the caller can see and wants to hear while the load runs; called on the event loop, so quickly."""

    engine_alive: Callable[[], bool] = lambda: True
    stop_requested: Callable[[], bool] = lambda: False
    on_level: Callable[[Level], None] = lambda _: None
    on_progress: Callable[[str], None] = lambda _: None


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a probe on uvloop where there is one: asyncio's own loop costs three times the CPU per chunk."""
    try:
        import uvloop  # noqa: PLC0415 - optional off Linux
    except ImportError:
        return asyncio.run(main)
    result: T = uvloop.run(main)
    return result


async def probe(
    base_url: str,
    *,
    workload: Workload,
    limits: Limits,
    seed: int,
    incumbent_req_per_s: float | None = None,
    guess_req_per_s: float | None = None,
    max_running: int | None = None,
    tolerance: float = 0.05,
    probe_s: float = 1800.0,
    first_token_s: float = 600.0,
    confirm_rate_req_per_s: float | None = None,
    confirm_duration_s: float = 600.0,
    watch: Watch | None = None,
    traffic: Traffic | None = None,
) -> ProbeReport:
    """Load the engine at `base_url` until its capacity is known, or a rate is confirmed, or `probe_s` are over.

    `max_running` None: as the engine itself reports. With `confirm_rate_req_per_s` that rate is held for
    `confirm_duration_s` instead of searching.
    """

    def search(bench: Bench, left_s: float) -> Search:
        cap = max_running or total_max_running(bench.info)
        if confirm_rate_req_per_s is not None:
            return RateConfirmation(ConfirmSettings(limits, confirm_rate_req_per_s, confirm_duration_s, cap, left_s))
        return CapacitySearch(
            ProbeSettings(
                limits=limits,
                mean_output_tokens=workload.output_tokens.mean_tokens,
                max_running=cap,
                incumbent_req_per_s=incumbent_req_per_s,
                tolerance=tolerance,
                guess_req_per_s=guess_req_per_s,
                max_duration_s=left_s,
                poisson=workload.arrivals == "poisson",
            )
        )

    return await measure(
        base_url,
        search,
        workload=workload,
        seed=seed,
        ttft_limit_s=limits.ttft_p95_s,
        probe_s=probe_s,
        first_token_s=first_token_s,
        watch=watch,
        traffic=traffic,
    )


async def measure(
    base_url: str,
    make_search: Callable[[Bench, float], Search],
    *,
    workload: Workload,
    seed: int,
    ttft_limit_s: float | None,
    probe_s: float,
    first_token_s: float = 600.0,
    watch: Watch | None = None,
    model: str | None = None,
    traffic: Traffic | None = None,
    estimate: bool = False,
    api_key: str = "",
) -> ProbeReport:
    """Prepare the engine, drive the search that `make_search` makes of a prepared engine and the seconds left, sum up.

    `model` None: the one the engine names first. `estimate`: prompts for an engine that counts no tokens, too.
    """
    watch = watch or Watch()
    began_s = time.perf_counter()
    stream = stream_of(workload, seed, traffic)
    async with EngineControl(base_url, api_key=api_key) as control:
        clients: list[StreamClient] = []

        def client_for(path: str) -> StreamClient:
            # An engine may repeat a prompt in its complaint about it: the user's own are not kept.
            private = traffic is not None and traffic.kind == "file"
            request_s = first_token_s + probe_s
            clients.append(
                StreamClient(
                    base_url,
                    path,
                    first_token_s=first_token_s,
                    request_s=request_s,
                    quote=not private,
                    api_key=api_key,
                )
            )
            return clients[-1]

        preparing = prepare(
            control,
            client_for,
            workload,
            stream,
            nonce=str(seed),
            progress=watch.on_progress,
            model=model,
            estimate=estimate,
        )
        try:
            bench = await _while_alive(preparing, watch, probe_s)
            left_s = max(LEAST_LOAD_S, probe_s - (time.perf_counter() - began_s))
            search = make_search(bench, left_s)
            before = await _shared_counters(control)
            report = await _load(search, bench, stream, control, watch)
            counted = _share_since(before, await _shared_counters(control))
            return await _conclude(search, report, bench, ttft_limit_s, control, counted)
        except NotReady as error:
            outcome = Outcome("failed", str(error), kind=error.kind, duration_s=time.perf_counter() - began_s)
            return ProbeReport(outcome, None, (), {}, {})
        finally:
            for client in clients:
                client.close()


async def _while_alive(work: Coroutine[Any, Any, T], watch: Watch, within_s: float) -> T:
    """Await preparation, but not longer than the engine lives, the caller wants, or the time lasts."""
    task = asyncio.ensure_future(work)
    until_s = time.perf_counter() + within_s
    try:
        while True:
            done, _ = await asyncio.wait((task,), timeout=0.25)
            if done:
                return _prepared(task, watch)
            if not watch.engine_alive():
                raise NotReady("engine_died", "the engine ended while it was being prepared for load")
            if watch.stop_requested():
                raise NotReady("interrupted", "stopped before the load began")
            if time.perf_counter() > until_s:
                raise NotReady("hang", f"the engine answered no warm-up within {within_s:.0f} s")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _prepared(task: asyncio.Future[T], watch: Watch) -> T:
    try:
        return task.result()
    except NotReady as error:
        if watch.engine_alive():
            raise
        raise NotReady("engine_died", f"the engine ended while it was being prepared: {error}") from error


async def _load(
    search: Search, bench: Bench, stream: RequestStream, control: EngineControl, watch: Watch
) -> DriveReport:
    pool = BodyPool(bench.bodies, stream)
    await pool.prepare(PREPARED_BODIES)

    async def healthy() -> bool:
        return await control.healthy(HEALTH_S)

    around = Surroundings(watch.engine_alive, watch.stop_requested, healthy, _Teller(search, watch))
    workload = stream.workload
    driver = Driver(
        search,
        bench.client,
        stream,
        pool.body,
        around,
        check_length=workload.sampling.ignore_eos,
        exact=bench.bodies.exact,
    )
    making = asyncio.create_task(pool.keep_ahead(lambda: driver.next_index))
    try:
        report = await drive(driver)
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
    if search.outcome is None:
        search.interrupt("stopped from outside")
    return replace(report, bodies_late=pool.late)


class _Teller:
    """Tells the caller of levels begun and ended, at every command of the search."""

    def __init__(self, search: Search, watch: Watch) -> None:
        self._search, self._watch = search, watch
        self._told = 0
        self._level = -1

    def __call__(self, command: Command) -> None:
        # A pause follows the level that has just ended: what it has shown is told before the next one begins.
        if not isinstance(command, (Stop, Hold)) and command.level == self._level:
            return
        for level in self._search.ended_levels[self._told :]:
            self._watch.on_level(level)
            self._told += 1
        if isinstance(command, (Stop, Hold)):
            return
        self._level = command.level
        if isinstance(command, OpenLoop):
            self._watch.on_progress(f"level {command.level}: {command.rate_req_per_s:.3g} req/s")
        elif isinstance(command, ClosedLoop):
            many = command.concurrency if isinstance(self._search, SteadyLoad) else "as many"
            more = "" if isinstance(self._search, SteadyLoad) else " as the engine takes"
            self._watch.on_progress(f"level {command.level}: {many} in flight{more}")


async def _conclude(
    search: Search,
    report: DriveReport,
    bench: Bench,
    ttft_limit_s: float | None,
    control: EngineControl,
    counted_share: float | None,
) -> ProbeReport:
    outcome = search.outcome
    assert outcome is not None
    offered = report.planned_prefix_tokens / max(1, report.planned_input_tokens)
    client = {**report.as_json(), "messages": dict(bench.client.messages), "resent": bench.client.resent}
    client["cached_told"] = bench.client.cached_told
    if counted_share is not None:
        client["cached_share_by_counters"] = round(counted_share, 4)
    traffic = bench.bodies.traffic
    client["prompts"] = "builtin" if traffic is None else asdict(traffic.file)
    if traffic is not None and report.requests > len(traffic.rows):
        bench.warnings.append(
            f"{traffic.name} has {len(traffic.rows)} requests, {report.requests} were sent: it was gone through again"
        )
    reasons = doubt(outcome, report, ttft_limit_s, bench.offered)
    gaps: Mapping[int, int] = bench.client.gaps.get(outcome.shown_level, {})
    return ProbeReport(
        outcome=outcome,
        measurement=measurement(outcome, offered, gap_quantile_s(gaps, 0.95)),
        levels=outcome.levels,
        client=client,
        effective={**effective_settings(bench.info), **await _counters(control)},
        invalid=reasons[0] if reasons else None,
        warnings=tuple(bench.warnings),
        reasons=reasons,
        chunk_gaps=bench.client.gaps,
    )


def doubt(
    outcome: Outcome, report: DriveReport, ttft_limit_s: float | None, offered: Offered | None = None
) -> tuple[Invalid, ...]:
    """What makes a measurement the client's fault, or one of another workload than asked for.

    A client that was the bottleneck does not explain away an engine that died or hung.
    """
    ttft_s = ttft_limit_s or quantile([s.from_sent_s for s in outcome.ttft if s.from_sent_s is not None], 0.95)
    found = gates(report, errors=outcome.errors, judged_ttft_s=ttft_s, offered=offered)
    spoilt = outcome.levels[-1].invalid_reason if outcome.levels else ""
    if spoilt:
        found = (*found, Invalid("client_bound", spoilt))
    return found if outcome.state != "failed" else tuple(f for f in found if f.kind != "client_bound")


async def _shared_counters(control: EngineControl) -> tuple[float, float] | None:
    """Prompt tokens and cached ones so far, by the engine's own counters; None: it counts neither."""
    try:
        metrics = await control.metrics()
        return metrics["sglang:prompt_tokens_total"], metrics["sglang:cached_tokens_total"]
    except (EngineUnreachable, KeyError):
        return None


def _share_since(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None or after[0] <= before[0]:
        return None
    return (after[1] - before[1]) / (after[0] - before[0])


async def _counters(control: EngineControl) -> dict[str, float]:
    """Counters that explain a result afterwards; an engine without /metrics is as good."""
    wanted = ("num_retracted_reqs", "num_aborted_requests_total", "spec_accept_length", "token_usage")
    try:
        metrics = await control.metrics()
    except EngineUnreachable:
        return {}
    return {name: metrics[f"sglang:{name}"] for name in wanted if f"sglang:{name}" in metrics}
