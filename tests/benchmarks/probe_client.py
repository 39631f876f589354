"""The load client against a server of known schedule: one line per bar.

    python tests/benchmarks/probe_client.py [--quick]

Truth is what the server wrote and when. Client and server run on a core each, before everything else where that is
permitted. A run in which the server itself was more than 1 ms late (p99) is void, not failed: it is repeated a few
times. Exit 1 when a bar is missed, 2 when a line stayed void.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from tuner.probe.gates import gates
from tuner.probe.probe import run
from tuner.probe.selftest import PROMPT, TOKENS, Run, load, paced_server

ATTEMPTS = 5
LONG_PROMPT = b" word" * 20_000

SPAWN = """
import asyncio, sys, time
from tuner.probe.client import Order, StreamClient
from tuner.probe.probe import run
body = b'{"messages":[{"role":"user","content":" word"}],"stream":true,"max_tokens":2}'
async def main():
    client = StreamClient(sys.argv[1], "/v1/chat/completions")
    await client.send(Order(0, 0, 0.0, body), on_sent=lambda at_s: print(at_s))
    client.close()
run(main())
"""

Judge = Callable[[Run], tuple[bool, str]]


def accuracy(run_: Run) -> tuple[bool, str]:
    ttft, gap, tpot = (run_.error(f) for f in ("ttft_p95_s", "chunk_gap_p95_s", "tpot_p50_s"))
    text = f"TTFT p95 {ttft:+.2%} (1 %), chunk gap p95 {gap:+.2%} (5 %), TPOT {tpot:+.3%} (0.2 %)"
    return abs(ttft) <= 0.01 and abs(gap) <= 0.05 and abs(tpot) <= 0.002, text


def no_gate(run_: Run) -> tuple[bool, str]:
    tripped = [g.message for g in gates(run_.report, errors={}, judged_ttft_s=run_.ttft_p95_s)]
    return (
        not tripped and run_.chunks_per_s >= 39_000,
        f"{run_.report.cpu_share:.0%} of a core; gates: {tripped or '-'}",
    )


def cheap(run_: Run) -> tuple[bool, str]:
    cost_ms = run_.report.cpu_s * 1e6 / max(1, run_.report.chunks)
    return cost_ms <= 20, f"{cost_ms:.1f} ms CPU per 1,000 chunks (20)"


def punctual(run_: Run) -> tuple[bool, str]:
    return run_.report.send_lag_p99_s <= 0.002, f"send lag p99 {run_.report.send_lag_p99_s * 1e3:.2f} ms (2)"


def both_rates(run_: Run) -> tuple[bool, str]:
    tpot, gap = run_.error("tpot_p50_s"), run_.error("chunk_gap_p95_s")
    text = f"TPOT {run_.tpot_p50_s * 1e3:.3f} ms ({tpot:+.3%}, 0.2 %), chunk gap p95 {gap:+.2%} (5 %)"
    return abs(tpot) <= 0.002 and abs(gap) <= 0.05, text


async def line(
    name: str,
    judge: Judge,
    *,
    rate: float,
    seconds: float,
    prompt: bytes = PROMPT,
    options: tuple[str, ...] = (),
    tokens: int = TOKENS,
    paced: bool = True,
) -> str:
    """One bar: its line printed, its word returned. `paced`: the server's own lateness voids it."""
    word, text = "void", ""
    for _ in range(ATTEMPTS):
        async with paced_server("--cpu", str(max(os.sched_getaffinity(0) | _CORES)), *options) as server:
            seen = await load(server, rate_req_per_s=rate, duration_s=seconds, tokens=tokens, prompt=prompt)
        good, text = judge(seen)
        late_ms = (seen.truth["lateness_p99_s"] or 0.0) * 1e3
        text += f"; {seen.chunks_per_s:,.0f} chunks/s, server late p99 {late_ms:.2f} ms"
        void = paced and seen.void
        word = "void" if void else "ok" if good else "MISSED"
        if word != "void":  # a bar that was missed stays missed
            break
    print(f"{name:42} {text}  {word}", flush=True)
    return word


async def spawn() -> str:
    """From starting the program to its first request, best of three: others run here too."""
    async with paced_server() as server:
        taken = []
        for _ in range(3):
            began_s = time.perf_counter()
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", SPAWN, server.url, stdout=subprocess.PIPE
            )
            out, _ = await child.communicate()
            taken.append(float(out) - began_s)
    word = "ok" if min(taken) <= 0.5 else "MISSED"
    print(f"{'spawn to first request':42} {min(taken):.2f} s (0.5)  {word}", flush=True)
    return word


async def benchmark(seconds: float) -> list[str]:
    return [
        await line("true at 20,000 chunks/s", accuracy, rate=20_000 / TOKENS, seconds=seconds),
        await line("no gate at 40,000 chunks/s", no_gate, rate=40_000 / TOKENS, seconds=seconds),
        await line(
            "cheap at 10,000 chunks/s, decode in step", cheap, rate=50, seconds=seconds, tokens=200, paced=False
        ),
        await line(
            "  the same, every chunk alone", cheap, rate=10_000 / 499, seconds=3 * seconds, tokens=499, paced=False
        ),
        await line("20,000-token prompts at 10 req/s", punctual, rate=10, seconds=2 * seconds, prompt=LONG_PROMPT),
        await line("four tokens a chunk", both_rates, rate=50, seconds=seconds, options=("--tokens-per-chunk", "4")),
        await spawn(),
    ]


_CORES = set(os.sched_getaffinity(0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seconds a run instead of six")
    options = parser.parse_args()
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    os.sched_setaffinity(0, {min(_CORES)})
    words = run(benchmark(2.0 if options.quick else 6.0))
    return 1 if "MISSED" in words else 2 if "void" in words else 0


if __name__ == "__main__":
    sys.exit(main())
