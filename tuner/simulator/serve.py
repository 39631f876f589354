"""`tuner engine` and `python -m tuner.simulator`: a process that starts, serves and dies like sglang.

Parses its own options, plays the start-up with sglang's log lines at their times, then hands over to `server`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence

from tuner.errors import UsageError
from tuner.launch.flags import flag_table
from tuner.simulator.assemble import EXIT_KILLED, SimulatedEngine, StartUpFailure, simulated_engine
from tuner.simulator.options import SimulatorOptions, split_arguments
from tuner.simulator.server import Address, Server
from tuner.simulator.startup_log import Line

LISTEN_SHARE = 0.96
"""Connections are refused for nearly all of the start-up; the rest is the warm-up, answered with 503."""

USAGE = """usage: tuner engine --accelerator NAME [--architecture NAME] [--precision bf16|fp8|mxfp4|nvfp4]
                    [--engine-version V] [--world N] [--seed N] [--startup-scale F] [--fail KIND]
                    [--] <sglang arguments>

KIND is a failure to play: oom_weights, oom_kv, checkpoint (while starting), oom_runtime, crash_first_request, hang
(under load). Otherwise an engine fails where the model says that it would.
A simulated sglang server. Its figures are model predictions, never measurements."""


def main(argv: list[str]) -> int:
    """Run the simulated engine until it ends; returns its exit code."""
    if argv in (["-h"], ["--help"]):
        print(USAGE)  # noqa: T201 - results go to stdout
        return 0
    try:
        options, engine_argv = split_arguments(argv)
        started = _assemble(options, engine_argv)
    except UsageError as exc:
        sys.stderr.write(f"{USAGE}\ntuner engine: error: {exc}\n")
        return 2
    if isinstance(started, StartUpFailure):
        return _fail(started, options.startup_scale)
    return _serve(started, options, engine_argv)


def _assemble(options: SimulatorOptions, engine_argv: Sequence[str]) -> SimulatedEngine | StartUpFailure:
    if not options.accelerator:
        raise UsageError("--accelerator is needed: the GPU to simulate, for example mi355x or b200")
    return simulated_engine(
        engine_argv,
        accelerator=options.accelerator,
        architecture=options.architecture,
        world=options.world,
        seed=options.seed,
        precision=options.precision,
        engine_version=options.engine_version,
        env=os.environ,
        fail=options.fail,
        start=f"seed {options.seed}",
    )


def _fail(failure: StartUpFailure, scale: float) -> int:
    _play(failure.lines, failure.after_s * scale)
    if failure.exit_code == EXIT_KILLED:
        kill_self()
    return failure.exit_code


def _serve(sim: SimulatedEngine, options: SimulatorOptions, engine_argv: Sequence[str]) -> int:
    total_s = sim.seconds_to_ready * options.startup_scale
    _play([(min(1.0, at / LISTEN_SHARE), line) for at, line in sim.lines], total_s * LISTEN_SHARE)
    newest = ".".join(map(str, flag_table().newest))
    address = Address(
        host=str(sim.flags.get("host", "127.0.0.1")),
        port=int(sim.flags.get("port", 30000)),
        command=shlex.join(engine_argv),
        version=options.engine_version or newest,
    )

    async def run() -> int:
        server = Server(sim, address, log, kill_self)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        return await server.run(total_s * (1 - LISTEN_SHARE))

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run())


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional: not on every platform
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop


def _play(lines: Sequence[Line], total_s: float) -> None:
    """Write each line when its share of the time has passed, and stay until all of it has."""
    begun_s = time.monotonic()
    for share, line in [*lines, (1.0, "")]:
        rest_s = begun_s + share * total_s - time.monotonic()
        if rest_s > 0:
            time.sleep(rest_s)
        if line:
            log(line)


def log(line: str) -> None:
    """One line (or block) on stderr with its time filled in."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    sys.stderr.write(line.format(now=now, pid=os.getpid()) + "\n")
    sys.stderr.flush()


def kill_self() -> None:
    """End as sglang does when a child fails: SIGKILL to its own tree, exit code 137 to whoever looks."""
    os.kill(os.getpid(), signal.SIGKILL)
