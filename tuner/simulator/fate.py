"""How a configuration fails, if it does: by its shape, by known issues, by the hidden world, or on demand.

Knows no log line and no clock. What holds in every world is listed here with its source; the rest is `world`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from packaging.specifiers import SpecifierSet

from tuner.errors import UsageError
from tuner.model.architecture import Architecture
from tuner.model.catalogue import Accelerator
from tuner.model.memory import MemoryPlan
from tuner.model.settings import EngineSettings
from tuner.simulator.world import CrashKind, World
from tuner.space.nearest import did_you_mean

Fate = CrashKind | Literal["checkpoint"]
FAILURES: tuple[str, ...] = (*get_args(CrashKind), "checkpoint")
"""What can be asked for by `--fail`."""

_VOCABULARY_PAD = 64


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """Configurations that fail on real hardware in these engine versions ("" is all of them)."""

    kind: Fate
    source: str
    versions: str
    hits: Callable[[EngineSettings, Architecture, Accelerator], bool]


KNOWN_ISSUES = (
    KnownIssue(
        "checkpoint",
        "sglang#30379: the bf16 draft layer of an MXFP4 checkpoint is built as FP4",
        "<0.5.16",
        lambda s, arch, acc: acc.vendor == "amd" and arch.sparse and s.precision == "mxfp4" and s.speculation_steps > 0,
    ),
    KnownIssue(
        "crash_first_request",
        "sglang#29876: EAGLE with sparse attention on gfx950",
        ">=0.5.14,<0.5.15",
        lambda s, arch, acc: acc.vendor == "amd" and arch.sparse and s.speculation_steps > 0,
    ),
    KnownIssue(
        "hang",
        "sglang#33978: attention DP with sparse attention, long prefill, 0.5.14 and 0.5.16; no fix known",
        "",
        lambda s, arch, acc: acc.vendor == "amd" and arch.sparse and s.attn_dp > 1,
    ),
)


def known_issue(settings: EngineSettings, plan: MemoryPlan, version: str | None) -> Fate | None:
    """The first known issue this configuration runs into; without a version, only what no version has fixed."""
    for issue in KNOWN_ISSUES:
        there = version is not None and SpecifierSet(issue.versions).contains(version, prereleases=True)
        if (there or not issue.versions) and issue.hits(settings, plan.arch, plan.acc):
            return issue.kind
    return None


def demanded(kind: str | None) -> Fate | None:
    """The failure somebody asked for. Raises UsageError where there is no such failure."""
    if kind is None:
        return None
    if kind not in FAILURES:
        raise UsageError(f"--fail {kind}: no such failure{did_you_mean(kind, FAILURES)}; known: {', '.join(FAILURES)}")
    return kind  # type: ignore[return-value]  # one of the literals


def fate_of(
    settings: EngineSettings, plan: MemoryPlan, world: World, version: str | None, fail: str | None
) -> Fate | None:
    """How this engine will fail, None: it works. First what was asked for, then memory, known issues, the world."""
    asked = demanded(fail)
    if asked is not None:
        return asked
    memory = world.memory_fate(plan)
    return memory or known_issue(settings, plan, version) or world.incompatibility(settings)


def indivisible(arch: Architecture, settings: EngineSettings) -> str | None:
    """What the engine says of a model that cannot be cut into so many parts, None: it can.

    The argument parser lets it pass; the schedulers fail while they build the layers (sglang#31799).
    """
    group = max(1, settings.tp // settings.attn_dp)
    vocabulary = -(-arch.vocab // _VOCABULARY_PAD) * _VOCABULARY_PAD
    if vocabulary % group:
        return f"AssertionError: {vocabulary} is not divisible by {group}"
    if arch.heads % group or (arch.experts and arch.experts % settings.ep):
        return "AssertionError"  # a bare assert
    return None
