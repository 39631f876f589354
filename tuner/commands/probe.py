"""`tuner probe`: measure a running endpoint, or this machine's own load client."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tuner.commands.options import AsJson
from tuner.commands.output import print_json, say, show


def probe(
    url: Annotated[str | None, typer.Option("--url", help="http://HOST:PORT of a running engine.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Default: the first one the engine names.")] = None,
    input_tokens: Annotated[int | None, typer.Option("--input-tokens", min=1, help="Tokens of every prompt.")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output-tokens", min=1, help="Tokens of every answer.")] = None,
    cached_fraction: Annotated[
        float, typer.Option("--cached-fraction", help="Shared head of the prompts, 0 to 1.")
    ] = 0.0,
    rate: Annotated[float | None, typer.Option("--rate", help="Open loop: requests per second.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Closed loop: in flight.")] = None,
    find_capacity: Annotated[bool, typer.Option("--find-capacity", help="The highest rate within --ttft-p95.")] = False,
    ttft_p95: Annotated[float | None, typer.Option("--ttft-p95", help="Limit of the capacity search, seconds.")] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Seconds; default 60, for a capacity search at most 1800.")
    ] = None,
    arrivals: Annotated[str, typer.Option("--arrivals", help="poisson, constant or trace.")] = "poisson",
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Your own prompts, JSON Lines.")] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="A trace in Mooncake's format, JSON Lines.")] = None,
    block_tokens: Annotated[int, typer.Option("--block-tokens", help="Tokens of one hash id of the trace.")] = 512,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Variable that holds the endpoint's API key.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of prompts and arrivals.")] = 0,
    records: Annotated[Path | None, typer.Option("--records", help="Write one JSON line per request here.")] = None,
    selftest: Annotated[bool, typer.Option("--selftest", help="How many chunks/s this client can take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a running endpoint at a rate, at a concurrency, or find its capacity; or this machine's own client."""
    from tuner.report.probe import print_probe, probe_request, run_probe, run_selftest

    if selftest:
        document, code = run_selftest(sys.stdout if not as_json else sys.stderr)
        if as_json:
            print_json(document)
        raise typer.Exit(code)
    request = probe_request(
        url, input_tokens, output_tokens, rate, concurrency, ttft_p95, find_capacity=find_capacity, model=model,
        cached_fraction=cached_fraction, duration_s=duration, arrivals=arrivals, seed=seed, records=records,
        prompts=prompts, trace=trace, block_tokens=block_tokens, api_key_env=api_key_env,
    )  # fmt: skip
    answer = run_probe(request, say)
    if as_json:
        print_json(answer.document)
    else:
        show(lambda: print_probe(answer.document, sys.stdout))
    raise typer.Exit(answer.exit_code)
