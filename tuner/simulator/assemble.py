"""From a command line (or resolved settings) to a simulated engine, or to the way it fails to start.

The one place where flags, physics, the hidden world and the scheduler meet; the HTTP server and the in-process
runtime both come through here. Knows no clock and no sockets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuner.errors import UsageError
from tuner.launch.argv import PORT_PLACEHOLDER
from tuner.launch.dialect import dialect
from tuner.launch.flags import flag_table
from tuner.launch.parse import parse_argv
from tuner.launch.platform import platform_of
from tuner.launch.resolve import resolve
from tuner.launch.start_up import ArgumentsError, StartUpError
from tuner.model.architecture import Architecture
from tuner.model.catalogue import GIB, Accelerator
from tuner.model.definition import Said, accelerator_of, architecture_of
from tuner.model.memory import MemoryPlan, plan_memory
from tuner.model.settings import EngineSettings, Precision
from tuner.model.startup import seconds_to_ready
from tuner.model.steps import RooflineSteps
from tuner.simulator import startup_log
from tuner.simulator.engine import Engine, max_running_per_scheduler
from tuner.simulator.events import Trap
from tuner.simulator.fate import Fate, demanded, fate_of, indivisible
from tuner.simulator.options import split_arguments
from tuner.simulator.startup_log import Facts, Line
from tuner.simulator.world import DistortedSteps, World

StartUpKind = Literal["bad_flag", "refused", "indivisible", "checkpoint", "oom_weights", "oom_kv", "oom_runtime"]

EXIT_ARGUMENTS = 2
EXIT_REFUSED = 1
EXIT_KILLED = 137

# Seen with sglang 0.5.23: argparse answers after 21-30 s, the start-up rules after 42-92 s.
_ARGUMENTS_S, _REFUSED_S = 25.0, 60.0
_FATAL_SHARE = {"indivisible": 0.09, "checkpoint": 0.4, "oom_weights": 0.5, "oom_kv": 0.62, "oom_runtime": 0.70}

# A crash "on the first request" spares the engine's own warm-up (12 tokens) and health checks (1 token).
_CRASH_PREFILL_TOKENS = 64
_HANG_PREFILL_TOKENS = 2048
_DEMANDED_OOM_PREFILL_TOKENS = 1024
_CAPTURE_TOKENS = 512
"""A step this small is what graph capture runs; an engine without memory for it dies while it starts."""

ASSUMED_CONTEXT_TOKENS = 32768
"""Longest request assumed where nothing says so; it matters only when chunking is off."""


@dataclass(frozen=True, slots=True)
class StartUpFailure:
    """An engine that never answers: its log, its exit code, and how long it took to die."""

    kind: StartUpKind
    message: str
    lines: tuple[Line, ...]
    exit_code: int
    after_s: float


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """An engine that starts. `fate` says what the world will do to it under load, None: nothing."""

    engine: Engine
    settings: EngineSettings
    flags: Mapping[str, Any]
    facts: Facts
    fate: Fate | None
    seconds_to_ready: float
    lines: tuple[Line, ...]

    @property
    def plan(self) -> MemoryPlan:
        return self.facts.plan

    @property
    def context_tokens(self) -> int:
        return self.facts.context_tokens


def simulated_engine(
    argv_or_settings: Sequence[str] | EngineSettings,
    *,
    accelerator: Said | Accelerator,
    architecture: Said | Architecture,
    world: World | int,
    seed: int,
    precision: Precision | str | None = None,
    engine_version: str | None = None,
    env: Mapping[str, str] | None = None,
    max_context_tokens: int = ASSUMED_CONTEXT_TOKENS,
    noise_sd: float = 0.02,
    fail: str | None = None,
    start: str = "",
) -> SimulatedEngine | StartUpFailure:
    """An engine for this command line on this hardware in this world, or how it fails to start.

    `argv` may carry its program and the simulator's own options in front; they are ignored here. `fail` is a failure
    to play whatever the configuration, `start` names this start: in most worlds some land on a slow node.

    Raises:
        UsageError: an accelerator or architecture the catalogue does not have, or no such failure.
    """
    acc = accelerator if isinstance(accelerator, Accelerator) else accelerator_of(accelerator)
    arch = architecture if isinstance(architecture, Architecture) else architecture_of(architecture)
    demanded(fail)
    flags: Mapping[str, Any] = {}
    if isinstance(argv_or_settings, EngineSettings):
        settings = argv_or_settings
    else:
        try:
            argv = [word.replace(PORT_PLACEHOLDER, "0") for word in split_arguments(argv_or_settings)[1]]
            flags = _parse(argv, engine_version)
            settings = resolve(flags, platform_of(acc, arch), env=env or {}, precision=_precision(precision))
        except ArgumentsError as exc:
            return _failed("bad_flag", str(exc), startup_log.bad_flag(str(exc)), EXIT_ARGUMENTS, _ARGUMENTS_S)
        except StartUpError as exc:
            lines = startup_log.refused(exc.rule, str(exc))
            return _failed("refused", str(exc), lines, EXIT_REFUSED, _REFUSED_S)
    plan = plan_memory(arch, acc, settings, max_context_tokens)
    hidden = world if isinstance(world, World) else World(world)
    fate = fate_of(settings, plan, hidden, engine_version, fail)
    return _on_hardware(flags, plan, fate, hidden, seed, noise_sd, start)


def _failed(kind: StartUpKind, message: str, lines: list[Line], exit_code: int, after_s: float) -> StartUpFailure:
    return StartUpFailure(kind, message, tuple(lines), exit_code, after_s)


def _parse(argv: Sequence[str], engine_version: str | None) -> dict[str, Any]:
    """Flags in the dialect named, or in the newest one that reads them."""
    if engine_version:
        return parse_argv(argv, dialect(engine_version))
    try:
        return parse_argv(argv)
    except ArgumentsError:
        for version in _older_dialects():
            try:
                return parse_argv(argv, dialect(version))
            except ArgumentsError:
                continue
        raise


def _older_dialects() -> list[str]:
    """Versions at which some flag came, went or changed, newest first."""
    keys = {key for flag in flag_table().flags.values() for key in (flag.first, flag.last) if key}
    return [".".join(map(str, key)) for key in sorted(keys, reverse=True)]


def _precision(name: str | None) -> Precision | None:
    match name:
        case None | "bf16" | "fp8" | "mxfp4" | "nvfp4":
            return name
    raise UsageError(f"precision {name!r} is not known: bf16, fp8, mxfp4 or nvfp4")


def _on_hardware(
    flags: Mapping[str, Any],
    plan: MemoryPlan,
    fate: Fate | None,
    world: World,
    seed: int,
    noise_sd: float,
    start: str,
) -> SimulatedEngine | StartUpFailure:
    arch, acc, settings = plan.arch, plan.acc, plan.settings
    ready_s = seconds_to_ready(arch, acc, settings)
    running = max_running_per_scheduler(settings, plan.kv_capacity_tokens)
    context = settings.context_length or arch.max_context_tokens
    facts = Facts(flags, plan, running * settings.attn_dp, context, acc.vendor)
    trap = _trap(fate, plan, world)
    failure = _dies_starting(fate, trap, facts, ready_s)
    if failure is not None:
        return failure
    steps = DistortedSteps(RooflineSteps(arch, acc, settings), world, settings, start)
    engine = Engine(settings, steps, plan.kv_capacity_tokens, seed, noise_sd, trap, watchdog_s=facts.watchdog_s)
    return SimulatedEngine(engine, settings, flags, facts, fate, ready_s, tuple(startup_log.starting(facts)))


def _trap(fate: Fate | None, plan: MemoryPlan, world: World) -> Trap | None:
    """The prefill step at which this engine's fate catches up with it."""
    if fate == "crash_first_request":
        return Trap(fate, _CRASH_PREFILL_TOKENS)
    if fate == "hang":
        return Trap(fate, _HANG_PREFILL_TOKENS)
    if fate == "oom_runtime":
        missing_gib = world.memory_shift_gib - plan.dynamic_margin_gib
        if missing_gib <= 0:  # asked for, not due
            return Trap(fate, _DEMANDED_OOM_PREFILL_TOKENS)
        share = 1 - missing_gib * GIB / plan.activation_bytes
        return Trap(fate, max(1, int(share * _largest_step(plan))))
    return None


def _largest_step(plan: MemoryPlan) -> int:
    chunk = plan.settings.chunked_prefill_tokens
    return chunk if chunk > 0 else max(plan.settings.max_prefill_tokens, plan.max_context_tokens)


def _dies_starting(fate: Fate | None, trap: Trap | None, facts: Facts, ready_s: float) -> StartUpFailure | None:
    shape = indivisible(facts.plan.arch, facts.plan.settings)
    if shape is not None:
        return _dies_at("indivisible", startup_log.indivisible(facts, shape), ready_s)
    if fate == "checkpoint":
        return _dies_at(fate, startup_log.wrong_shape(facts), ready_s)
    if fate == "oom_weights":
        return _dies_at(fate, startup_log.out_of_memory_loading(facts), ready_s)
    if fate == "oom_kv":
        return _dies_at(fate, startup_log.out_of_memory_pool(facts), ready_s)
    if fate == "oom_runtime" and trap is not None and trap.prefill_tokens <= _CAPTURE_TOKENS:
        return _dies_at(fate, startup_log.out_of_memory_capture(facts), ready_s)
    return None


def _dies_at(kind: StartUpKind, lines: list[Line], ready_s: float) -> StartUpFailure:
    share = _FATAL_SHARE[kind]
    scaled = [(min(1.0, at / share), line) for at, line in lines]
    return _failed(kind, _error_of(lines[-2][1]), scaled, EXIT_KILLED, share * ready_s)


def _error_of(traceback: str) -> str:
    """The first line of the exception: the first one after the head that is not indented."""
    return next(line for line in traceback.splitlines()[1:] if not line.startswith(" "))
