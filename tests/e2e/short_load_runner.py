"""`python -m tuner.trial` with a load of three requests instead of the capacity search: for tests that run hundreds.

Started in place of the interpreter (`LocalRuntime(python=...)`). Everything else of the runner is the real one: its
process, its engine, readiness over HTTP, the control pipe, the end. It keeps a log of its own beginning and end in the
folder `TUNER_E2E_CASE` names.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path

# ruff: noqa: E402
sys.modules["httpx._main"] = None  # httpx's own command line would load rich and click: a third of a runner's start

from tuner.probe.client import Order, StreamClient
from tuner.probe.control import EngineControl, total_max_running
from tuner.probe.outcome import Outcome, TtftSample
from tuner.probe.probe import ProbeReport
from tuner.probe.summary import measurement
from tuner.trial import runner

REQUESTS = 3
REQ_PER_S_PER_SLOT = 2.0
"""What this load says of an engine: a figure that depends on the configuration alone."""


def note(*words: object) -> None:
    """One line of the log that all runners of a case share; short enough to be written whole."""
    line = " ".join(map(str, [*words, time.monotonic()])) + "\n"
    handle = os.open(Path(os.environ["TUNER_E2E_CASE"]) / "runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, line.encode())
    os.close(handle)


async def short_load(base_url, *, incumbent_req_per_s=None, confirm_rate_req_per_s=None, **_):
    """Stream a few answers from the engine; the capacity is a function of its batch limit."""
    async with EngineControl(base_url) as control:
        info = await control.server_info()
        model = await control.model_name()
    client = StreamClient(base_url, "/v1/completions", first_token_s=120.0, request_s=300.0)
    body = {"model": model, "prompt": "one two three", "max_tokens": 4, "stream": True, "ignore_eos": True}
    body["stream_options"] = {"include_usage": True}
    records = [
        await client.send(Order(index, 0, time.perf_counter(), json.dumps(body).encode())) for index in range(REQUESTS)
    ]
    client.close()
    assert [(r.error, r.output_tokens) for r in records] == [(None, 4)] * REQUESTS, (records, client.messages)
    note("served", name, REQUESTS, info["simulated"])
    outcome = decide(total_max_running(info) * REQ_PER_S_PER_SLOT, incumbent_req_per_s, confirm_rate_req_per_s, records)
    return ProbeReport(outcome, measurement(outcome, 0.0), (), {}, {})


def decide(rate, incumbent, confirm_rate, records):
    """Pruned where the incumbent is better, else measured."""
    if incumbent is not None and rate < incumbent:
        return Outcome("pruned", "cannot beat the incumbent", bound_req_per_s=rate)
    held = confirm_rate or rate
    ttft = tuple(TtftSample(r.scheduled_s, 0.5, 0.5) for r in records)
    return Outcome(
        "measured",
        "holds",
        capacity_low_req_per_s=held,
        capacity_high_req_per_s=held,
        ttft=ttft,
        records=tuple(records),
        requests=REQUESTS,
    )


if __name__ == "__main__":
    assert sys.argv[1:3] == ["-m", "tuner.trial"]
    spec = json.loads(Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
    name = f"{spec['id']} {spec['attempt']}"
    runner.run_trial.__kwdefaults__["probe"] = short_load
    sys.argv = sys.argv[2:]
    note("start", name)
    try:
        runpy.run_module("tuner.trial", run_name="__main__", alter_sys=True)
    finally:
        note("end", name)
