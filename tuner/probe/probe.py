"""The load probe of one running engine: prepare, search (or confirm), summarise, and say what to think of it.

The trial runner calls `probe`; it never raises for what the engine does. Knows no processes and no specs.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tuner.probe.capacity import CapacitySearch
from tuner.probe.client import StreamClient
from tuner.probe.confirm import ConfirmSettings, RateConfirmation
from tuner.probe.control import EngineControl, EngineUnreachable, effective_settings, total_max_running
from tuner.probe.driver import Driver, DriveReport, Surroundings, drive
from tuner.probe.events import ClosedLoop, Command, OpenLoop, Stop
from tuner.probe.measurement import Level, Measurement
from tuner.probe.outcome import Outcome, ProbeSettings, Search
from tuner.probe.plan import RequestStream
from tuner.probe.preparation import Bench, NotReady, prepare
from tuner.probe.prompts import BodyPool
from tuner.probe.summary import measurement
from tuner.space.workload import Limits, Workload

T = TypeVar("T")

PREPARED_BODIES = 320
HEALTH_S = 3.0
MISMATCH_SHARE = 0.01
"""More requests than this share with another length than planned: what was measured is another workload."""

LEAST_LOAD_S = 30.0


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why the figures are not to be trusted: `kind` is a stable word (`client_bound`, `token_count`)."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What one probe found.

    With `invalid` the trial is invalid whatever `outcome` says. `outcome.kind` names a failure: `engine_died`, `hang`,
    `all_failed`, `undecided`, `no_tokenizer`, `first_requests`, `interrupted`. `effective` is what the engine says it
    runs with, `client` the load client's own health.
    """

    outcome: Outcome
    measurement: Measurement | None
    levels: tuple[Level, ...]
    client: Mapping[str, Any]
    effective: Mapping[str, Any]
    invalid: Invalid | None = None
    warnings: tuple[str, ...] = field(default=())


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
) -> ProbeReport:
    """Load the engine at `base_url` until its capacity is known, or a rate is confirmed, or `probe_s` are over.

    `max_running` None: as the engine itself reports. With `confirm_rate_req_per_s` that rate is held for
    `confirm_duration_s` instead of searching.
    """
    watch = watch or Watch()
    began_s = time.perf_counter()
    stream = RequestStream(workload, seed)
    async with EngineControl(base_url) as control:
        clients: list[StreamClient] = []

        def client_for(path: str) -> StreamClient:
            clients.append(StreamClient(base_url, path, first_token_s=first_token_s, request_s=first_token_s + probe_s))
            return clients[-1]

        preparing = prepare(control, client_for, workload, stream, nonce=str(seed), progress=watch.on_progress)
        try:
            bench = await _while_alive(preparing, watch, probe_s)
            left_s = max(LEAST_LOAD_S, probe_s - (time.perf_counter() - began_s))
            cap = max_running or total_max_running(bench.info)
            search: CapacitySearch | RateConfirmation
            if confirm_rate_req_per_s is not None:
                search = RateConfirmation(
                    ConfirmSettings(limits, confirm_rate_req_per_s, confirm_duration_s, cap, left_s)
                )
            else:
                search = CapacitySearch(
                    ProbeSettings(
                        limits=limits,
                        mean_output_tokens=workload.output_tokens.mean_tokens,
                        max_running=cap,
                        incumbent_req_per_s=incumbent_req_per_s,
                        tolerance=tolerance,
                        guess_req_per_s=guess_req_per_s,
                        max_duration_s=left_s,
                    )
                )
            report = await _load(search, bench, stream, control, watch)
            return await _conclude(search, report, bench, limits, control)
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
    search: CapacitySearch | RateConfirmation, bench: Bench, stream: RequestStream, control: EngineControl, watch: Watch
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
        arrivals=workload.arrivals,
        check_length=workload.sampling.ignore_eos,
    )
    making = asyncio.create_task(pool.keep_ahead(lambda: driver.next_index))
    # Prompts and records only accumulate: what exists now need not be walked by every full collection.
    gc.collect()
    gc.freeze()
    try:
        report = await drive(driver)
    finally:
        gc.unfreeze()
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
    if search.outcome is None:
        search.interrupt("stopped from outside")
    return report


class _Teller:
    """Tells the caller of levels begun and ended, at every command of the search."""

    def __init__(self, search: Search, watch: Watch) -> None:
        self._search, self._watch = search, watch
        self._told = 0
        self._level = -1

    def __call__(self, command: Command) -> None:
        if not isinstance(command, Stop) and command.level == self._level:
            return
        for level in self._search.ended_levels[self._told :]:
            self._watch.on_level(level)
            self._told += 1
        if isinstance(command, Stop):
            return
        self._level = command.level
        if isinstance(command, OpenLoop):
            self._watch.on_progress(f"level {command.level}: {command.rate_req_per_s:.3g} req/s")
        elif isinstance(command, ClosedLoop):
            self._watch.on_progress(f"level {command.level}: as many in flight as the engine takes")


async def _conclude(
    search: CapacitySearch | RateConfirmation, report: DriveReport, bench: Bench, limits: Limits, control: EngineControl
) -> ProbeReport:
    outcome = search.outcome
    assert outcome is not None
    offered = report.planned_prefix_tokens / max(1, report.planned_input_tokens)
    client = {**report.as_json(), "messages": dict(bench.client.messages)}
    return ProbeReport(
        outcome=outcome,
        measurement=measurement(outcome, offered),
        levels=outcome.levels,
        client=client,
        effective={**effective_settings(bench.info), **await _counters(control)},
        invalid=doubt(outcome, report, limits),
        warnings=tuple(bench.warnings),
    )


def doubt(outcome: Outcome, report: DriveReport, limits: Limits) -> Invalid | None:
    """What makes a measurement the client's fault, or one of another workload than asked for."""
    wrong = report.token_mismatches + outcome.errors.get("token_count", 0)
    if outcome.requests and wrong > MISMATCH_SHARE * outcome.requests:
        text = f"{wrong} of {outcome.requests} requests had another number of tokens than planned"
        return Invalid("token_count", text)
    if outcome.state in ("measured", "infeasible", "pruned") and (why := report.client_bound(limits.ttft_p95_s)):
        return Invalid("client_bound", f"{why}: the load client was the bottleneck; give the trial more CPU")
    return None


async def _counters(control: EngineControl) -> dict[str, float]:
    """Counters that explain a result afterwards; an engine without /metrics is as good."""
    wanted = ("num_retracted_reqs", "num_aborted_requests_total", "spec_accept_length", "token_usage")
    try:
        metrics = await control.metrics()
    except EngineUnreachable:
        return {}
    return {name: metrics[f"sglang:{name}"] for name in wanted if f"sglang:{name}" in metrics}
