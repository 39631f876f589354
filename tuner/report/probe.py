"""One measurement of an endpoint, and the client's self-test, as plain lines."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from tuner.errors import EXIT_OK, EXIT_UNCONFIRMED, UsageError
from tuner.probe.command import ProbeAnswer, ProbeRequest, check, probe_endpoint
from tuner.probe.probe import Watch, run
from tuner.probe.selftest import Step, highest, selftest


def probe_request(
    url: str | None,
    input_tokens: int | None,
    output_tokens: int | None,
    rate_req_per_s: float | None,
    concurrency: int | None,
    ttft_p95_s: float | None,
    *,
    find_capacity: bool,
    **rest: Any,
) -> ProbeRequest:
    """Options -> request.

    Raises:
        UsageError: an option is missing, or two contradict each other.
    """
    needed: dict[str, object] = {"--url": url}
    if rest.get("prompts") is None and rest.get("trace") is None:
        needed |= {"--input-tokens": input_tokens, "--output-tokens": output_tokens}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise UsageError(f"probe needs {', '.join(missing)} (or --prompts or --trace FILE), or --selftest")
    loads = {"--rate": rate_req_per_s, "--concurrency": concurrency, "--find-capacity": find_capacity or None}
    given = [name for name, value in loads.items() if value is not None]
    if len(given) != 1:
        told = f"not {' and '.join(given)} together" if given else "none is given"
        raise UsageError(f"probe needs one of --rate, --concurrency and --find-capacity; {told}")
    if find_capacity != (ttft_p95_s is not None):
        raise UsageError("--find-capacity and --ttft-p95 SECONDS go together")
    assert url is not None
    request = ProbeRequest(
        url,
        input_tokens,
        output_tokens,
        rate_req_per_s=rate_req_per_s,
        concurrency=concurrency,
        ttft_p95_s=ttft_p95_s,
        **rest,
    )
    check(request)
    return request


def run_probe(request: ProbeRequest, say: Callable[[str], None]) -> ProbeAnswer:
    """Measure; progress is said as it comes. The first Ctrl-C ends the load, the second one the program."""

    async def until_stopped() -> ProbeAnswer:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            say("interrupted: here is what was measured; once more to leave at once")
            stopped.set()

        loop.add_signal_handler(signal.SIGINT, stop)
        return await probe_endpoint(request, Watch(on_progress=say, stop_requested=stopped.is_set))

    return run(until_stopped())


def run_selftest(out: TextIO) -> tuple[dict[str, Any], int]:
    """Run the self-test with its steps on `out`: its document and exit code."""
    steps = run(selftest(lambda step: print_step(step, out)))
    print_selftest(steps, out)
    best = highest(steps)
    document = {"valid": best is not None, "chunks_per_s": best, "steps": [asdict(step) for step in steps]}
    return document, EXIT_OK if best is not None else EXIT_UNCONFIRMED


def print_probe(document: Mapping[str, Any], out: TextIO) -> None:
    """What was measured, and why it is not to be trusted where it is not."""
    rows = [
        ("requests", f"{document['requests']}, {document['errors']} failed"),
        ("TTFT p50 / p95", f"{_s(document['ttft_p50_s'])} / {_s(document['ttft_p95_s'])} from the scheduled time"),
        ("TTFT p95 from send", _s(document["ttft_sent_p95_s"])),
        ("time per output token", _ms(document["tpot_p50_s"])),
        ("chunk gap p95", _ms(document["chunk_gap_p95_s"])),
        ("output tokens/s", _number(document["output_tokens_per_s"])),
        ("cached share", f"{_number(document['cached_fraction'])}, offered {document['cached_fraction_offered']:.2f}"),
        ("client", _client(document["client"])),
    ]
    if "levels" in document:
        rows.insert(0, ("capacity", _capacity(document)))
    for name, text in rows:
        print(f"{name:22} {text}", file=out)
    for warning in document["warnings"]:
        print(f"{'note':22} {warning}", file=out)
    for reason in document["invalid_reasons"]:
        print(f"{'INVALID':22} {reason}", file=out)


def print_step(step: Step, out: TextIO) -> None:
    """One step of the self-test."""
    why = f": {'; '.join(step.reasons)}" if step.verdict == "lies" else ""
    late = f": the server was {step.server_lateness_p99_s * 1e3:.1f} ms late (p99)" if step.verdict == "void" else ""
    cost = f"{step.cpu_share:4.0%} of a core  {step.cpu_ms_per_1k_chunks:5.1f} ms/1,000"
    errors = f"TTFT p95 {step.ttft_p95_error:+.1%}  chunk gap p95 {step.chunk_gap_p95_error:+.1%}"
    print(f"{step.chunks_per_s:8,.0f} chunks/s  {cost}  {errors}  {step.verdict}{why}{late}", file=out, flush=True)


def print_selftest(steps: Sequence[Step], out: TextIO) -> None:
    """The verdict of the self-test."""
    best = highest(tuple(steps))
    if best is None:
        print("no load at all could be measured truly here: this machine is too busy", file=out)
    elif steps[-1].verdict == "true":
        print(f"this machine's client takes at least {best:,.0f} chunks/s", file=out)
    else:
        print(f"this machine's client takes {best:,.0f} chunks/s", file=out)


def _capacity(document: Mapping[str, Any]) -> str:
    if document["capacity_req_per_s"] is None:
        miss = document["nearest_miss_ttft_p95_s"]
        return f"none: {document['reason']}" + (f"; nearest miss TTFT p95 {_s(miss)}" if miss is not None else "")
    low, high = document["bracket"]
    return f"{low:.3g} req/s (holds), {high:.3g} req/s does not; {len(document['levels'])} levels"


def _client(client: Mapping[str, Any]) -> str:
    per_chunk = client["cpu_ms_per_1k_chunks"]
    cost = "" if per_chunk is None else f", {per_chunk:.1f} ms CPU per 1,000"
    lags = f"send lag p99 {client['send_lag_p99_s'] * 1e3:.1f} ms, loop lag p99 {client['loop_lag_p99_s'] * 1e3:.1f} ms"
    return f"{client['chunks_per_s']:,.0f} chunks/s{cost}, {lags}"


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.2f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
