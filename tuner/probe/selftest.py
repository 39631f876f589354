"""How many chunks a second this machine's load client takes before its figures are its own.

Loads a server of known schedule in steps, each judged by the gates of every measurement and by the times the server
really wrote at.
A step in which the server itself was late proves nothing about the client: it is void.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx

from tuner.probe.client import StreamClient
from tuner.probe.driver import Driver, DriveReport, Surroundings, drive
from tuner.probe.gaps import gap_quantile_s
from tuner.probe.gates import gates
from tuner.probe.plan import PlannedRequest, RequestStream
from tuner.probe.statistics import quantile
from tuner.probe.steady import SteadyLoad, SteadySettings
from tuner.space.workload import Length, Workload

STEPS_CHUNKS_PER_S = (2_500, 5_000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000)
STEP_S = 4.0
TTFT_S, INTERVAL_S = 0.2, 0.01
PROMPT = b" word" * 1000
ATTEMPTS = 3
"""A step is tried so often before it counts: other programs disturb a shared machine now and then."""

TOKENS = 197
"""At 100 tokens a second an answer takes 2 s: a step is soon at its full load. A prime, so that answers begun at a
constant rate do not all write at the same instant."""

SERVER_LATE_S = 0.001
"""A server whose own writes were later than this (p99) has no known schedule."""

TTFT_ERROR = 0.01
START_S = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running paced server."""

    url: str
    pid: int

    async def truth(self) -> dict[str, Any]:
        """What it wrote since it was asked before."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=10.0) as http:
            return dict((await http.get("/truth")).json())


@asynccontextmanager
async def paced_server(*options: str) -> AsyncIterator[Server]:
    """Start a paced server as a process of its own; it ends with this context, or with this process."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tuner.probe.paced_server", *options, stdin=pipe, stdout=pipe
    )
    try:
        assert child.stdout is not None
        port = int(await asyncio.wait_for(child.stdout.readline(), START_S))
        yield Server(f"http://127.0.0.1:{port}", child.pid)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@dataclass(frozen=True, slots=True)
class Run:
    """One steady load against a paced server: what the client saw, and what was true."""

    report: DriveReport
    truth: dict[str, Any]
    ttft_p95_s: float
    ttft_sent_p95_s: float
    chunk_gap_p95_s: float
    tpot_p50_s: float
    chunks_per_s: float

    @property
    def void(self) -> bool:
        return (self.truth["lateness_p99_s"] or 0.0) > SERVER_LATE_S

    def error(self, figure: Literal["ttft_p95_s", "chunk_gap_p95_s", "tpot_p50_s", "ttft_sent_p95_s"]) -> float:
        """Relative error of one figure."""
        true = self.truth[figure.replace("_sent", "")]
        return float(getattr(self, figure) / true - 1) if true else 0.0


async def load(server: Server, *, rate_req_per_s: float, duration_s: float, tokens: int, prompt: bytes) -> Run:
    """Send one prompt at a constant rate for a while, in this process."""
    stream = RequestStream(Workload(Length.fixed(16), Length.fixed(tokens), arrivals="constant"), seed=0)
    search = SteadyLoad(SteadySettings(duration_s, rate_req_per_s=rate_req_per_s))
    client = StreamClient(server.url, "/v1/chat/completions", first_token_s=30.0, request_s=120.0)
    head, tail = b'{"messages":[{"role":"user","content":"', b'"}],"stream":true,"max_tokens":%d}' % tokens
    body = head + prompt + tail

    def always(_: PlannedRequest) -> bytes:
        return body

    async def healthy() -> bool:
        return True

    around = Surroundings(lambda: True, lambda: False, healthy)
    driver = Driver(search, client, stream, always, around)
    await server.truth()
    try:
        report = await drive(driver)
    finally:
        client.close()
    # Prompts are of any length here: that they were not planned so is no fault.
    report = replace(report, token_mismatches=0, input_tokens_ratio=1.0)
    good = [r for r in search.records if r.error is None]
    full_s = max(duration_s, 1e-9)
    return Run(
        report=report,
        truth=await server.truth(),
        ttft_p95_s=quantile([r.ttft_s for r in good if r.ttft_s is not None], 0.95) or 0.0,
        ttft_sent_p95_s=quantile([r.ttft_from_send_s for r in good if r.ttft_from_send_s is not None], 0.95) or 0.0,
        chunk_gap_p95_s=gap_quantile_s(client.gaps.get(0, {}), 0.95) or 0.0,
        tpot_p50_s=quantile([r.tpot_s for r in good if r.tpot_s is not None], 0.5) or 0.0,
        chunks_per_s=sum(r.chunks for r in good) / full_s,
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One load of the self-test. `verdict`: `true` figures, `lies` (for `reasons`), or `void`: the server was late."""

    chunks_per_s: float
    cpu_share: float
    cpu_ms_per_1k_chunks: float
    ttft_p95_error: float
    chunk_gap_p95_error: float
    loop_lag_p99_s: float
    server_lateness_p99_s: float
    verdict: Literal["true", "lies", "void"]
    reasons: tuple[str, ...] = ()


async def selftest(told: Callable[[Step], None], steps: tuple[int, ...] = ()) -> tuple[Step, ...]:
    """Raise the load until the client's figures are no longer true, or the server cannot pace any more."""
    taken: list[Step] = []
    async with paced_server("--ttft-s", str(TTFT_S), "--interval-s", str(INTERVAL_S)) as server:
        for chunks_per_s in steps or STEPS_CHUNKS_PER_S:
            rate = chunks_per_s / TOKENS
            for _ in range(ATTEMPTS):
                run = await load(server, rate_req_per_s=rate, duration_s=STEP_S, tokens=TOKENS, prompt=PROMPT)
                taken.append(judged(run))
                told(taken[-1])
                if taken[-1].verdict == "true":
                    break
            if taken[-1].verdict != "true":
                break
    return tuple(taken)


def judged(run: Run) -> Step:
    """A run -> the step's verdict."""
    why = [g.message for g in gates(run.report, errors={}, judged_ttft_s=run.ttft_p95_s)]
    error = run.error("ttft_p95_s")
    if abs(error) > TTFT_ERROR:
        why.append(f"TTFT p95 reads {error:+.1%}")
    verdict: Literal["true", "lies", "void"] = "void" if run.void else "lies" if why else "true"
    report = run.report
    return Step(
        chunks_per_s=run.chunks_per_s,
        cpu_share=report.cpu_share,
        cpu_ms_per_1k_chunks=report.cpu_s * 1e6 / max(1, report.chunks),
        ttft_p95_error=error,
        chunk_gap_p95_error=run.error("chunk_gap_p95_s"),
        loop_lag_p99_s=report.loop_lag_p99_s,
        server_lateness_p99_s=run.truth["lateness_p99_s"] or 0.0,
        verdict=verdict,
        reasons=tuple(why),
    )


def highest(steps: tuple[Step, ...]) -> float | None:
    """Chunks per second of the highest step whose figures were true."""
    return max((s.chunks_per_s for s in steps if s.verdict == "true"), default=None)
