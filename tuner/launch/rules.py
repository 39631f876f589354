"""Our own rules: what the engine lets pass at start-up but fails at later, or what would waste a trial.

Each has an id, a reason and its source. `start_up_check` puts the engine's own rules in front. A seed with `only` is
outside the grid and is not asked to spell everything out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from tuner.launch.argv import measured_flags
from tuner.launch.dialect import canonical
from tuner.launch.platform import Platform
from tuner.launch.resolve import resolve
from tuner.launch.start_up import StartUpError
from tuner.model.settings import EngineSettings, Precision
from tuner.space.config import Scalar
from tuner.space.deployment import Deployment, Rejection

_TENSOR_WIDTHS = (1, 2, 4, 8)
_EXPLICIT = ("kv-cache-dtype", "mem-fraction-static", "chunked-prefill-size", "max-running-requests")
_TRIPLE = ("speculative-num-steps", "speculative-eagle-topk", "speculative-num-draft-tokens")
_DRAFTS_BY_STEPS = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE")
_MODELLED_SPECULATION = (*_DRAFTS_BY_STEPS, "NGRAM")
_LEAST_MEM_FRACTION, _MOST_MEM_FRACTION = 0.5, 0.95


@dataclass(frozen=True, slots=True)
class Point:
    """What a rule looks at: the measured flags, what they resolve to, where. `written` is what the user wrote."""

    flags: Mapping[str, Scalar]
    written: Mapping[str, Scalar]
    settings: EngineSettings
    platform: Platform


@dataclass(frozen=True, slots=True)
class Rule:
    """`breaks` says what is wrong with a point, or None. `grid_only` rules do not bind a seed with `only`."""

    id: str
    why: str
    source: str
    breaks: Callable[[Point], str | None]
    grid_only: bool = False


def _tensor_width(p: Point) -> str | None:
    return None if p.settings.tp in _TENSOR_WIDTHS else f"tp {p.settings.tp} is none of {_TENSOR_WIDTHS}"


def _heads(p: Point) -> str | None:
    width, heads = p.settings.tp // p.settings.attn_dp, p.platform.attention_heads
    return f"{heads} attention heads do not divide by attention tp {width}" if heads % width else None


def _experts(p: Point) -> str | None:
    experts, ep = p.platform.routed_experts, p.settings.ep
    return f"{experts} experts do not divide by ep {ep}" if experts and experts % ep else None


def _expert_width(p: Point) -> str | None:
    return None if p.settings.ep in (1, p.settings.tp) else f"ep {p.settings.ep} is neither 1 nor tp {p.settings.tp}"


def _mem_fraction(p: Point) -> str | None:
    fraction = p.settings.mem_fraction
    if _LEAST_MEM_FRACTION <= fraction <= _MOST_MEM_FRACTION:
        return None
    how = "given" if "mem-fraction-static" in p.flags else "the engine's own choice"
    return f"mem-fraction-static {fraction:g} ({how}) is outside {_LEAST_MEM_FRACTION} to {_MOST_MEM_FRACTION}"


def _running(p: Point) -> str | None:
    running, attn_dp = p.settings.max_running_requests, p.settings.attn_dp
    if running is None or running >= attn_dp:
        return None
    return f"max-running-requests {running} is less than one per attention-DP group ({attn_dp})"


def _chunk(p: Point) -> str | None:
    given, unit = p.flags.get("chunked-prefill-size"), p.settings.page_size * p.settings.attn_dp
    if not isinstance(given, int) or given <= 0 or given % unit == 0:
        return None
    return f"chunked-prefill-size {given} is no multiple of {unit} (page size x attention dp)"


def _hardware(p: Point) -> str | None:
    allowed, precision = p.platform.precisions, p.settings.precision
    if precision in allowed:
        return None
    return f"{precision} weights do not run on {p.platform.name}, which takes {', '.join(sorted(allowed))}"


def _aiter(p: Point) -> str | None:
    used = {p.flags.get(name) for name in ("attention-backend", "moe-runner-backend", "dsa-decode-backend")}
    return None if p.platform.is_hip or "aiter" not in used else f"aiter kernels do not exist on {p.platform.name}"


def _modelled_speculation(p: Point) -> str | None:
    algorithm = p.flags.get("speculative-algorithm")
    return None if algorithm in (None, *_MODELLED_SPECULATION) else f"speculative-algorithm {algorithm} is not modelled"


def _modelled_kv(p: Point) -> str | None:
    dtype = str(p.flags.get("kv-cache-dtype", "auto"))
    return f"kv-cache-dtype {dtype} is not modelled; use bf16 or fp8_e4m3" if "fp4" in dtype else None


def _drafts(p: Point) -> str | None:
    given = p.written.get("speculative-num-draft-tokens")
    if p.settings.speculation_topk != 1 or given is None or given == p.settings.draft_tokens:
        return None
    return f"speculative-num-draft-tokens {given} would be rewritten to {p.settings.draft_tokens} (steps + 1)"


def _page(p: Point) -> str | None:
    given = p.written.get("page-size")
    if given is None or given == p.settings.page_size:
        return None
    return f"page-size {given} would be overridden to {p.settings.page_size}"


def _idle_switches(p: Point) -> str | None:
    if p.written.get("enable-dp-lm-head") and p.settings.schedulers == 1:
        return "enable-dp-lm-head does nothing without data parallelism"
    if p.written.get("enable-mixed-chunk") and not p.settings.mixed_chunk:
        return "enable-mixed-chunk is switched off by speculation"
    return None


def _explicit(p: Point) -> str | None:
    left = [name for name in _EXPLICIT if p.flags.get(name, "auto") == "auto"]
    return f"left to the engine: {', '.join(left)}; give each a value in the space file" if left else None


def _triple(p: Point) -> str | None:
    if p.flags.get("speculative-algorithm") not in _DRAFTS_BY_STEPS:
        stray = [name for name in _TRIPLE if name in p.flags and "speculative-algorithm" not in p.flags]
        return f"{', '.join(stray)} without speculative-algorithm" if stray else None
    missing = [name for name in _TRIPLE if name not in p.flags]
    if not missing and p.settings.speculation_steps < 1:
        return "speculation without a step; leave the flags out to switch it off"
    return f"speculation without {', '.join(missing)}" if missing else None


_EQUAL_POINTS = "two points that run the same would be measured twice"

RULES: tuple[Rule, ...] = (
    Rule("tensor-width", "sglang 0.5.23 accepts tp 3 and fails later", "argument resolution run", _tensor_width),
    Rule("attention-heads", "heads are split evenly over the attention tp group", "model config.json", _heads),
    Rule("expert-count", "experts are split evenly over the ep group", "model config.json", _experts),
    Rule("expert-width", "sglang 0.5.23 accepts ep 3 with tp 8 and fails when forming groups",
         "argument resolution run", _expert_width),
    Rule("mem-fraction", "sglang does not check the range; too high leaves no room for drafts and transients",
         "argument resolution run: 1.2 passes, chunk 4096 resolves to 0.965", _mem_fraction),
    Rule("running-per-rank", "each attention-DP rank would silently be given one request",
         "srt kv_cache_configurator.py", _running),
    Rule("chunk-multiple", "the chunk is divided by attention DP before it is checked against the page size",
         "srt parallel_hook.py, validation_hook.py", _chunk),
    Rule("hardware-precision", "the GPU has no kernels for it; found out after the pod has started",
         "model cards and the sglang cookbook for GLM-5.2", _hardware),
    Rule("aiter-rocm", "aiter is AMD's kernel library", "github.com/ROCm/aiter", _aiter),
    Rule("speculation-modelled", "the engine model would mispredict it", "tuner.model", _modelled_speculation),
    Rule("kv-modelled", "the engine model knows KV caches of 8 and 16 bit", "tuner.model", _modelled_kv),
    Rule("draft-tokens", _EQUAL_POINTS, "srt speculative_hook.py", _drafts),
    Rule("page-size", _EQUAL_POINTS, "argument resolution run", _page),
    Rule("idle-switch", _EQUAL_POINTS, "srt overrides.py", _idle_switches),
    Rule("explicit", "engine defaults differ between GPUs, versions and with speculation, so points would not compare",
         "srt memory_hook.py, speculative_hook.py", _explicit, grid_only=True),
    Rule("speculation-triple", "speculation is a whole triple or nothing: the engine fills gaps by version",
         "srt speculative_hook.py", _triple, grid_only=True),
)  # fmt: skip


def check(deployment: Deployment, settings: EngineSettings, platform: Platform) -> Rejection | None:
    """The first rule of ours a point breaks; None: it may be tried."""
    return _check(deployment, measured_flags(deployment), settings, platform)


def start_up_check(deployment: Deployment, platform: Platform) -> EngineSettings | Rejection:
    """What a deployment runs with, or why it is not tried: the engine's rules (`sglang-...`) first, then ours."""
    flags = measured_flags(deployment)
    try:
        settings = resolve(flags, platform, env=deployment.env, precision=cast("Precision", deployment.precision))
    except StartUpError as error:
        return Rejection(f"sglang-{error.rule}", f"sglang would refuse to start: {error}")
    return _check(deployment, flags, settings, platform) or settings


def _check(
    deployment: Deployment, flags: Mapping[str, Scalar], settings: EngineSettings, platform: Platform
) -> Rejection | None:
    only = deployment.config.only
    written = flags if only else {canonical(name): value for name, value in deployment.flags.items()}
    point = Point(flags, written, settings, platform)
    for rule in RULES:
        if only and rule.grid_only:
            continue
        problem = rule.breaks(point)
        if problem is not None:
            return Rejection(rule.id, f"{problem}: {rule.why} ({rule.source})")
    return None
