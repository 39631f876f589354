"""From the options of `tuner predict` to the case to compute: a point of a space, or a layout without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from tuner.errors import UsageError
from tuner.model.catalogue import accelerator, architecture
from tuner.model.settings import EngineSettings, Precision, Routing
from tuner.model.standard import standard_settings
from tuner.report.predict import Case
from tuner.runtime.steady import Load
from tuner.space.config import Choice, Scalar, ServingConfig
from tuner.space.nearest import did_you_mean
from tuner.space.space import Space
from tuner.space.workload import Length, Limits, Workload
from tuner.study.points import Machine, Point, evaluate, evaluate_point

DEFAULT_TTFT_P95_S = 5.0
_LAYOUT = ("tp", "dp", "attn_dp", "ep", "gpus")


@dataclass(frozen=True, slots=True)
class Traffic:
    """The load, and what of the traffic the command line says; None is left to the space."""

    rate_req_per_s: float | None = None
    concurrency: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_fraction: float | None = None
    ttft_p95_s: float | None = None
    routing: str | None = None

    def routed(self, settings: EngineSettings) -> EngineSettings:
        """The settings with the routing the command line asks for."""
        if self.routing is None:
            return settings
        known = get_args(Routing)
        if self.routing not in known:
            raise UsageError(f"--routing {self.routing}: no such routing{did_you_mean(self.routing, known)}")
        return replace(settings, routing=self.routing)  # type: ignore[arg-type]  # one of the literals

    def load(self) -> Load:
        if self.rate_req_per_s is not None and self.concurrency is not None:
            raise UsageError("--rate and --concurrency exclude each other: an open loop or a closed one")
        return Load(self.rate_req_per_s, self.concurrency)

    def over(self, workload: Workload, limits: Limits) -> tuple[Workload, Limits]:
        """The given traffic and limits with what the command line says instead."""
        if self.input_tokens is not None:
            workload = replace(workload, input_tokens=Length.fixed(self.input_tokens))
        if self.output_tokens is not None:
            workload = replace(workload, output_tokens=Length.fixed(self.output_tokens))
        if self.cached_fraction is not None:
            workload = replace(workload, cached_fraction=self.cached_fraction)
        if self.ttft_p95_s is not None:
            limits = replace(limits, ttft_p95_s=self.ttft_p95_s)
        return workload, limits


@dataclass(frozen=True, slots=True)
class Hardware:
    """The second group of options: a deployment without a space file."""

    architecture: str | None = None
    accelerator: str | None = None
    gpus: int | None = None
    precision: str | None = None
    tp: int | None = None
    dp: int | None = None
    attn_dp: int | None = None
    ep: int | None = None
    speculation_steps: int | None = None

    @property
    def given(self) -> list[str]:
        return [f"--{n.replace('_', '-')}" for n in self.__slots__ if getattr(self, n) is not None]


def case_without_space(hardware: Hardware, traffic: Traffic) -> Case:
    """A layout on an accelerator with a recipe's usual settings. Raises UsageError."""
    missing = [
        n
        for n in ("architecture", "accelerator", "precision", "input_tokens", "output_tokens")
        if not _has(hardware, traffic, n)
    ]
    if missing:
        options = ", ".join(f"--{n.replace('_', '-')}" for n in missing)
        raise UsageError(f"{options} must be given where there is no --space")
    assert hardware.architecture is not None
    assert hardware.accelerator is not None
    arch, acc = architecture(hardware.architecture), accelerator(hardware.accelerator)
    tp, dp = _tensor_and_data_parallel(hardware)
    whole = Workload(Length.fixed(1), Length.fixed(1))
    workload, limits = traffic.over(whole, Limits(ttft_p95_s=DEFAULT_TTFT_P95_S))
    longest = workload.max_context_tokens
    if longest > arch.max_context_tokens:
        raise UsageError(f"a request of {longest:,} tokens exceeds the {arch.max_context_tokens:,} of {arch.name}")
    settings = standard_settings(
        arch,
        acc,
        precision=_precision(hardware.precision),
        tp=tp,
        dp=dp,
        attn_dp=hardware.attn_dp or 1,
        ep=hardware.ep or 1,
        speculation_steps=hardware.speculation_steps or 0,
        concurrency=traffic.concurrency,
        max_context_tokens=workload.max_context_tokens,
    )
    name = f"{settings.precision} tp{tp} dp{dp} attn-dp{settings.attn_dp} ep{settings.ep}"
    name += f" mtp{settings.speculation_steps}" if settings.speculation_steps else ""
    return Case(name, arch, acc, traffic.routed(settings), workload, limits, traffic.load())


def _has(hardware: Hardware, traffic: Traffic, name: str) -> bool:
    return getattr(hardware if hasattr(hardware, name) else traffic, name) is not None


def _tensor_and_data_parallel(hardware: Hardware) -> tuple[int, int]:
    """GPUs are tp x dp; whichever is not given follows from the others."""
    tp, dp, gpus = hardware.tp, hardware.dp, hardware.gpus
    if tp is None and gpus is None:
        raise UsageError("--tp or --gpus must be given where there is no --space")
    if tp is None:
        assert gpus is not None
        tp = gpus // (dp or 1)
    dp = dp or (gpus // tp if gpus else 1) or 1
    if gpus is not None and tp * dp != gpus:
        raise UsageError(
            f"--tp {tp} x --dp {dp} is {tp * dp} GPUs, not --gpus {gpus}; replicas (dp) need GPUs of their own"
        )
    return tp, dp


def _precision(name: str | None) -> Precision:
    known = get_args(Precision)
    if name not in known:
        raise UsageError(f"--precision {name}: no such precision{did_you_mean(str(name), known)}")
    return name  # type: ignore[return-value]  # one of the literals


# ---- a point of a space -----------------------------------------------------------------------------------------


def case_of_space(space: Space, sets: Sequence[str], traffic: Traffic) -> Case:
    """The point of the space that `key=value` pairs name; what they leave open takes the model's best.

    Raises:
        UsageError: an unknown key, or values no valid point has.
    """
    wanted = _pairs(space, sets)
    machine = Machine(space)
    point = _point(space, machine, wanted)
    acc, _ = machine.of(point.config.pool)
    workload, limits = traffic.over(space.workload, space.limits)
    settings = traffic.routed(point.settings)
    return Case(point.config.describe(), machine.architecture, acc, settings, workload, limits, traffic.load())


def _pairs(space: Space, sets: Sequence[str]) -> dict[str, str]:
    known = {"pool": "pool", "layout": "layout"} | {n: f"layout.{n}" for n in _LAYOUT}
    known |= {f"layout.{n}": f"layout.{n}" for n in _LAYOUT}
    for dimension in space.dimensions:
        known[dimension.name] = dimension.variable
        for bundle in dimension.bundles.values():
            known |= {f"{dimension.name}.{p}": f"{dimension.variable}.{p}" for p in bundle.params}
    wanted = {}
    for pair in sets:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: expected key=value")
        name = key.strip().replace("attn-dp", "attn_dp")
        if name not in known:
            raise UsageError(f"--set {pair}: {space.name} has no {key}{did_you_mean(name, known)}")
        wanted[known[name]] = value.strip()
    return wanted


def _point(space: Space, machine: Machine, wanted: Mapping[str, str]) -> Point:
    """The best valid point that agrees; a number outside the grid replaces that of the nearest one."""
    numbers = {d.variable: d for d in space.dimensions if not d.bundles}
    outside = {
        n: _number(n, v)
        for n, v in wanted.items()
        if n in numbers and not any(_same(member, v) for member in numbers[n].values)
    }
    inside = {n: v for n, v in wanted.items() if n not in outside}
    agreeing = [p for p in evaluate(space).valid if _agrees(space, p.config, inside)]
    if not agreeing:
        raise UsageError(_why_none(space, machine, inside))
    if not outside:
        return agreeing[0]
    names = {numbers[n].name: value for n, value in outside.items()}
    values = tuple((k, names.get(k, v)) for k, v in agreeing[0].config.values)
    found = evaluate_point(machine, replace(agreeing[0].config, values=values))
    if not isinstance(found, Point):
        raise UsageError(f"that configuration is rejected by {found.rule}: {found.reason}")
    return found


def _agrees(space: Space, config: ServingConfig, wanted: Mapping[str, str]) -> bool:
    if not wanted:
        return True
    names: dict[str, Any] = {**space.names(config), "layout": config.layout.label}
    return all(_same(names.get(n), v) for n, v in wanted.items())


def _same(have: Scalar | Choice | None, text: str) -> bool:
    if isinstance(have, bool) or have is None or isinstance(have, str | Choice):
        return str(have).lower() == text.lower()
    try:
        return abs(float(have) - float(text)) < 1e-9
    except ValueError:
        return False


def _number(name: str, text: str) -> Scalar:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError(f"--set {name}={text}: expected a number")


def _why_none(space: Space, machine: Machine, wanted: Mapping[str, str]) -> str:
    said = " ".join(f"{n}={v}" for n, v in wanted.items())
    for config in space.grid():
        if _agrees(space, config, wanted):
            found = evaluate_point(machine, config)
            if not isinstance(found, Point):
                return f"{said}: rejected by {found.rule}: {found.reason}"
    return f"{said}: no point of {space.name} has these values; `tuner plan --space` shows its dimensions"
