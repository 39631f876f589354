"""A space file to begin with, as commented text, for a model and one or several pools. Pure.

What is known of the hardware comes from the catalogue and from the shipped spaces, rules and recipes included; what is
only guessed is marked CHECK. Asks nothing, writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from tuner.model.architecture import Architecture
from tuner.model.catalogue import accelerator, architecture
from tuner.space.find import find_space

# The native FP8 checkpoints, by their publishers' own names.
_FP8 = {
    "glm-5.2": "zai-org/GLM-5.2-FP8",
    "glm-5.1": "zai-org/GLM-5.1-FP8",
    "glm-5": "zai-org/GLM-5-FP8",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
    "deepseek-v3.1": "deepseek-ai/DeepSeek-V3.1",
    "deepseek-r1": "deepseek-ai/DeepSeek-R1",
}
_SHIPPED = {"mi355x": "amd-mi355x.yaml", "b200": "nvidia-b200.yaml"}
_REFERENCE_MODEL = "glm-5.2"
_ENGINE = {"amd": "0.5.16", "nvidia": "0.5.23"}
_IMAGE = {"nvidia": "lmsysorg/sglang:v0.5.23-cu130"}
_ALIGN = 46


@dataclass(frozen=True, slots=True)
class DraftPool:
    """One pool of the file. None or empty: taken from what ships for the accelerator, or guessed and marked."""

    accelerator: str
    image: str | None = None
    usd_per_gpu_hour: float | None = None
    gpus_per_node: int = 8
    nodes: int = 2
    node_selector: Mapping[str, str] | None = None
    tolerations: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What the file is for. `checkpoint` replaces the FP8 checkpoint known for the architecture."""

    architecture: str
    pools: Sequence[DraftPool]
    name: str
    checkpoint: str | None = None
    workload: Mapping[str, float] = field(default_factory=dict)
    ttft_p95_s: float = 5.0


def known_checkpoint(name: str) -> str | None:
    """The FP8 checkpoint of an architecture of the catalogue."""
    return _FP8.get(name)


def known_image(name: str) -> str | None:
    """The image a pool of this accelerator starts with, where one is known."""
    return str(_pool_recipe(name).get("image") or "") or _IMAGE.get(accelerator(name).vendor)


def draft(wanted: Draft) -> str:
    """The space file's text."""
    return "\n".join(_lines(wanted, architecture(wanted.architecture))) + "\n"


def _lines(wanted: Draft, arch: Architecture) -> Iterator[str]:
    hardware = " and ".join(pool.accelerator.upper() for pool in wanted.pools)
    yield f"# {wanted.architecture} with sglang on {hardware}: written by `tuner init`."
    yield "# Lines marked CHECK are guesses; then `tuner validate` and `tuner plan --space` this file."
    yield "version: 1"
    yield _noted(f"name: {wanted.name}", "also the study's; at most 20 characters")
    yield f"model: {{architecture: {wanted.architecture}}}"
    yield ""
    yield "pools:"
    for pool in wanted.pools:
        yield from _pool(pool, arch)
    yield ""
    yield from _workload(wanted)
    yield ""
    yield from _space(wanted, arch)
    rules = _rules(wanted)
    if rules:
        yield ""
        yield "rules:                                        # known issues of this hardware, with their sources"
        yield from rules
    yield ""
    yield from _ending(wanted)


# --- pools


def _pool(pool: DraftPool, arch: Architecture) -> Iterator[str]:
    acc, recipe = accelerator(pool.accelerator), _pool_recipe(pool.accelerator)
    engine = str((recipe.get("engine") or {}).get("version") or _ENGINE[acc.vendor])
    yield f"  {pool.accelerator}:"
    yield f"    accelerator: {pool.accelerator}"
    yield f'    engine: {{kind: sglang, version: "{engine}"}}'
    yield f"    image: {pool.image or known_image(pool.accelerator)}"
    yield f"    gpus_per_node: {pool.gpus_per_node}"
    yield _noted(f"    max_nodes: {pool.nodes}", "so many trials at once")
    yield _price(pool)
    yield _noted("    billing: node", "node: idle GPUs of a node are paid too; gpu: only those used")
    yield from _placement(pool, recipe)
    yield _noted("    # model_cache: {pvc: models}", "CHECK: where the weights lie; or host_path")
    yield "    env:"
    env = recipe.get("env") or {"SAFETENSORS_FAST_GPU": "1"}
    for name, value in env.items():
        yield f"      {name}: {json.dumps(str(value))}"
    yield "    args:"
    for name, value in _args(acc.vendor, recipe, arch).items():
        yield f"      {name}: {json.dumps(value) if isinstance(value, bool) else value}"


def _price(pool: DraftPool) -> str:
    if pool.usd_per_gpu_hour is not None:
        return f"    usd_per_gpu_hour: {pool.usd_per_gpu_hour:g}"
    known = accelerator(pool.accelerator).price
    shipped = _pool_recipe(pool.accelerator).get("usd_per_gpu_hour")
    assert known is not None, "every accelerator of the catalogue has a price"
    price = float(shipped or round((known.low_usd + known.high_usd) / 2, 2))
    span = f"CHECK: published prices span {known.low_usd:g} to {known.high_usd:g} ({known.as_of})"
    return _noted(f"    usd_per_gpu_hour: {price:g}", span)


def _placement(pool: DraftPool, recipe: Mapping[str, Any]) -> Iterator[str]:
    found = pool.node_selector is not None
    selector = pool.node_selector if found else recipe.get("node_selector")
    tolerations = pool.tolerations if found else recipe.get("tolerations")
    if selector:
        line = f"    node_selector: {_flow(selector)}"
        yield line if found else _noted(line, "CHECK: a label your nodes carry")
    else:
        yield _noted("    # node_selector: {label: value}", "CHECK: a label of these nodes")
    if tolerations:
        yield f"    tolerations: {_flow(list(tolerations))}"


def _args(vendor: str, recipe: Mapping[str, Any], arch: Architecture) -> dict[str, Any]:
    args: dict[str, Any] = dict(recipe.get("args") or {"trust-remote-code": True, "watchdog-timeout": 1800})
    if vendor == "amd" and arch.index_layers:
        return {"dsa-prefill-backend": "tilelang", "dsa-decode-backend": "tilelang"} | args
    return {name: value for name, value in args.items() if arch.index_layers or not name.startswith("dsa-")}


# --- workload, space, rules


def _workload(wanted: Draft) -> Iterator[str]:
    tokens_in, out, cached = (
        wanted.workload.get(k, v) for k, v in (("input", 20000), ("output", 1000), ("cached", 0.6))
    )
    yield "workload:                                     # CHECK: your traffic; capacity depends on it most"
    yield _noted(f"  input_tokens: {tokens_in:g}", "a number, {uniform: [a, b]} or {lognormal: {...}}")
    yield f"  output_tokens: {out:g}"
    yield _noted(f"  cached_fraction: {cached:g}", "share of the input that is a shared prefix")
    yield _noted("  prefix_groups: 32", "so many different shared prefixes")
    yield "  arrivals: poisson"
    yield "  endpoint: chat"
    yield "  sampling: {temperature: 1.0, top_p: 0.95, ignore_eos: true, thinking: true}"
    yield "  prompts: {corpus: builtin}"
    yield ""
    yield "objective:"
    yield "  minimize: usd_per_million_output_tokens"
    yield f"  subject_to: {{ttft_p95_s: {wanted.ttft_p95_s:g}, error_rate: 0.005}}"
    yield _noted("  guard: 0.05", "run, confirm and price at 95 % of the capacity found")


def _space(wanted: Draft, arch: Architecture) -> Iterator[str]:
    gpus = min(pool.gpus_per_node for pool in wanted.pools)
    powers = [n for n in (1, 2, 4, 8) if n <= gpus]
    most = powers[-1]
    yield "space:"
    yield f"  layout: {{tp: {powers[-2:]}, dp: {powers[:2]}, attn_dp: {powers}, ep: [1, tp], gpus: {most}}}"
    yield "  weights:"
    yield "    choice:"
    yield from _weights(wanted)
    if arch.mtp_layers:
        yield "  speculation:"
        yield "    choice:"
        yield '      "off": {}'
        yield "      mtp:                                    # the model's own draft layer; the whole triple or nothing"
        yield "        params: {steps: {values: [1, 2, 3]}}"
        yield "        args:"
        yield "          speculative-algorithm: EAGLE"
        yield "          speculative-num-steps: ${steps}"
        yield "          speculative-eagle-topk: 1"
        yield "          speculative-num-draft-tokens: ${steps + 1}"
    yield "  max-running-requests: {values: [32, 64, 96, 128, 192, 256]}"
    yield "  chunked-prefill-size: {values: [8192, 16384, 32768, 65536]}"
    yield "  mem-fraction-static: {float: [0.78, 0.88], step: 0.02}"


def _weights(wanted: Draft) -> Iterator[str]:
    """FP8 everywhere, and what the shipped spaces know beside it for this model."""
    names = [pool.accelerator for pool in wanted.pools]
    if wanted.architecture == _REFERENCE_MODEL and wanted.checkpoint is None:
        for name in names:
            for choice, bundle in _recipe(name).get("space", {}).get("weights", {}).get("choice", {}).items():
                if choice != "fp8":
                    only = {"pools": [name]} if len(names) > 1 else {}
                    yield f"      {choice}: {_flow({**bundle, **only})}"
    model = wanted.checkpoint or _FP8[wanted.architecture]
    yield f"      fp8: {_flow({'model': model, 'precision': 'fp8', 'args': {'kv-cache-dtype': 'fp8_e4m3'}})}"


def _rules(wanted: Draft) -> list[str]:
    """The shipped rules of these accelerators; where several pools meet, each holds for its own."""
    if wanted.architecture != _REFERENCE_MODEL or wanted.checkpoint is not None:
        return []
    lines: list[str] = []
    for pool in wanted.pools:
        for rule in _recipe(pool.accelerator).get("rules", []):
            lines += _rule(rule, pool.accelerator if len(wanted.pools) > 1 else "")
    return lines


def _rule(rule: Mapping[str, Any], only: str) -> Iterator[str]:
    yield f"  - id: {rule['id']}"
    for kind in ("forbid", "warn"):
        if kind in rule:
            text = f"pool == '{only}' and ({rule[kind]})" if only else str(rule[kind])
            yield f"    {kind}: {text}"
    for key in ("engine", "why", "source"):
        if key in rule:
            yield f"    {key}: {_scalar(rule[key])}"


def _ending(wanted: Draft) -> Iterator[str]:
    most = max(n for n in (1, 2, 4, 8) if n <= min(pool.gpus_per_node for pool in wanted.pools))
    base = f"layout: {{tp: {most}}}, weights: fp8"
    plain = ', speculation: "off"' if architecture(wanted.architecture).mtp_layers else ""
    rest = "max-running-requests: 128, chunked-prefill-size: 32768, mem-fraction-static: 0.80"
    yield "seeds:                                        # tried first; put what you run today as `baseline`"
    yield f"  engine-default: {{{base}, only: [model, tp]}}"
    yield f"  baseline: {{{base}{plain}, {rest}}}"
    yield ""
    yield _noted("budget: {trials: 40, wall: 24h}", "also gpu_hours and usd; whichever ends first")
    nodes = str(max(pool.nodes for pool in wanted.pools) > 1).lower()
    yield f"confirm: {{top: 3, repeats: 2, minutes: 10, different_nodes: {nodes}}}"


# --- text


def _recipe(name: str) -> Mapping[str, Any]:
    """The shipped space of the accelerator; empty where none ships."""
    if name not in _SHIPPED:
        return {}
    doc: Mapping[str, Any] = yaml.safe_load(find_space(_SHIPPED[name]).read_text(encoding="utf-8"))
    return doc


def _pool_recipe(name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (_recipe(name).get("pools") or {}).get(name) or {}
    return found


def _noted(line: str, note: str) -> str:
    return f"{line:{_ALIGN}}# {note}" if len(line) < _ALIGN else f"{line}  # {note}"


def _flow(value: Any) -> str:
    """One line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False)
    return text.strip()


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(str(value), width=2**31)
    return text.removesuffix("...\n").strip()
