"""The reference of the space file as Markdown: keys, types and defaults from the schema, meanings from here.

`make docs` writes docs/space-file.md with it. Knows nothing of what is done with a space.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.space.schema import json_schema

Doc = Mapping[str, Any]

_HEAD = """\
# The space file

Generated from the schema by `make docs`; do not edit. `search_spaces/space.schema.json` gives editors the same.

An unknown key is an error with the nearest right name; every mistake is reported at once, with file, line and column.
Sums of money are USD. Times are seconds unless the key's name says otherwise; where text is allowed, `90s`, `20m`
and `24h` are. A key without a default must be given.
"""
_TAIL = """
## Dimensions

Every further key of `space` is a launch flag of the engine, without its dashes, or the name of a choice. Its value is

| written as | means |
|---|---|
| `128` | fixed: the same in every point |
| `{values: [32, 64, 128]}` | one of these |
| `{int: [1, 9], step: 2}` | whole numbers from the first to the last |
| `{float: [0.78, 0.88], step: 0.02}` | numbers from the first to the last |
| `{int: [8, 64], log: true}` | doubled from the first to the last |
| `{choice: {name: bundle, ...}}` | one of the named bundles below |
| `${steps + 1}` | inside a bundle: computed from its parameters |

A flag set by two bundles at once is an error, and so is a flag that the engine's release does not have.

## Expressions

`forbid`, `warn` and `${...}` know numbers, strings, `+ - * / // %`, comparisons, `and`, `or`, `not`, `in`, and these
names: `pool`, `accelerator`, `layout.tp`, `layout.dp`, `layout.attn_dp`, `layout.ep`, `layout.gpus`,
`workload.input_tokens_mean`, `workload.input_tokens_max`, `workload.output_tokens_mean`, `workload.output_tokens_max`,
`workload.cached_fraction`, `workload.temperature`, every dimension with `_` for `-`, and `choice.parameter`. Nothing is
called, and a file's text is never run.
"""

_SECTIONS: tuple[tuple[str, str, str], ...] = (
    # definition, heading, where it stands
    ("", "Top level", ""),
    ("ModelSpec", "`model`", "model"),
    ("Pool", "`pools.NAME`", "pools.NAME"),
    ("Engine", "`pools.NAME.engine`", "engine"),
    ("Autoscale", "`pools.NAME.autoscale`", "autoscale"),
    ("Volume", "`model_cache`, `compile_cache`", "volume"),
    ("Files", "`pools.NAME.files`", "files"),
    ("AcceleratorSpec", "`accelerators.NAME`", "accelerators.NAME"),
    ("ArchitectureSpec", "`architectures.NAME`", "architectures.NAME"),
    ("WorkloadSpec", "`workload`", "workload"),
    ("Uniform", "lengths: equally often", "uniform"),
    ("LognormalShape", "lengths: `{lognormal: {...}}`", "lognormal"),
    ("SamplingSpec", "`workload.sampling`", "sampling"),
    ("Prompts", "`workload.prompts`", "prompts"),
    ("Objective", "`objective`", "objective"),
    ("SubjectTo", "`objective.subject_to`", "subject_to"),
    ("TokenWeights", "`objective.token_weights`", "token_weights"),
    ("LayoutSpec", "`space.layout`", "layout"),
    ("Bundle", "a bundle: `{choice: {NAME: ...}}`", "bundle"),
    ("Rule", "`rules`", "rule"),
    ("BudgetSpec", "`budget`", "budget"),
    ("ConfirmSpec", "`confirm`", "confirm"),
    ("DeadlinesSpec", "`deadlines`", "deadlines"),
)
SHOWN_ELSEWHERE = {"ChoiceSpec", "FloatSpec", "IntSpec", "ValuesSpec", "SpaceSection", "Lognormal"}
"""Definitions that the prose below the tables covers."""

MEANINGS: Mapping[str, str] = {
    "version": "of this format",
    "name": "of the space; also the study's, unless the command line says otherwise",
    "model": "what is served",
    "pools": "one entry per kind of node; the pool of a trial is its first choice, and cost makes pools comparable",
    "accelerators": "GPUs that the catalogue does not have, by name",
    "architectures": "models that the catalogue does not have, by name",
    "workload": "the traffic to tune for",
    "objective": "what is minimised, within which limits",
    "space": "what may be varied: `layout`, and one key per dimension",
    "rules": "what must not be combined, checked before anything is deployed",
    "seeds": "configurations tried first, in this order, by name; dimensions left out are the model's best; "
    "`only: [model, tp]` passes just these flags; `baseline` is what the result is compared with",
    "budget": "when the search ends",
    "confirm": "how the best are measured again",
    "deadlines": "how long the phases of a trial may take",
    "model.architecture": "a name of the catalogue, or the path of a config.json",
    "pools.NAME.accelerator": "a name of the catalogue: memory, bandwidth, arithmetic, resource name",
    "pools.NAME.engine": "the serving engine",
    "pools.NAME.image": "its container image; a bundle may have its own",
    "pools.NAME.gpus_per_node": "GPUs of a node",
    "pools.NAME.max_nodes": "so many trials run at once",
    "pools.NAME.usd_per_gpu_hour": "the price of a GPU; a changed price re-scores and measures nothing again",
    "pools.NAME.billing": "`node`: idle GPUs of a node are paid too; `gpu`: only those used",
    "pools.NAME.exclusive": "a trial has its node to itself",
    "pools.NAME.autoscale": "the pool may scale from zero",
    "pools.NAME.node_selector": "labels of its nodes",
    "pools.NAME.tolerations": "Kubernetes' own form",
    "pools.NAME.image_pull_secrets": "names of Secrets",
    "pools.NAME.priority_class": "of the pods",
    "pools.NAME.model_cache": "where the weights lie; mounted read-only",
    "pools.NAME.compile_cache": "where compiled kernels are kept; writable, one folder per image",
    "pools.NAME.files": "where the files lie that the workload names",
    "pools.NAME.pod_patch": "laid over the pod template: whatever else a cluster needs",
    "pools.NAME.context": "kubeconfig context, where pools lie in several clusters",
    "pools.NAME.namespace": "namespace of the trials",
    "pools.NAME.queue": "Kueue's local queue",
    "pools.NAME.env": "environment of every trial on the pool; never a secret",
    "pools.NAME.args": "launch flags of every trial on the pool",
    "engine.kind": "which engine",
    "engine.version": "its release: decides which flags there are; compared with what the engine says of itself",
    "engine.command": "program to start instead of the engine's own",
    "autoscale.wait": "so long an unschedulable trial waits for a node",
    "volume.pvc": "a PersistentVolumeClaim",
    "volume.host_path": "a folder of the node",
    "files.pvc": "a PersistentVolumeClaim",
    "files.host_path": "a folder of the node",
    "files.config_map": "a ConfigMap",
    "files.secret": "a Secret",
    "accelerators.NAME.like": "entry of the catalogue whose figures stand where none is given",
    "accelerators.NAME.vendor": "decides flags, images and the way memory is read",
    "accelerators.NAME.resource_name": "of the device plugin; `amd.com/gpu` or `nvidia.com/gpu` where it is not given",
    "accelerators.NAME.hbm_gib": "GiB the engine finds on an empty device",
    "accelerators.NAME.hbm_tb_s": "memory bandwidth, TB/s",
    "accelerators.NAME.scaleup_gb_s": "to the other GPUs of the node, one direction, GB/s",
    "accelerators.NAME.tflops": "dense, by number format; a missing format is not native",
    "accelerators.NAME.compute_capability": "as torch reports it: 9.5 is gfx950, 10.0 is sm_100",
    "accelerators.NAME.collective_latency_us": "of one hop of a collective, microseconds",
    "architectures.NAME.config": "path of a Hugging Face config.json beside the file, its keys, or a catalogue name",
    "architectures.NAME.tokens_per_verify": "mean tokens gained per verification with 1, 2, ... drafts",
    "workload.input_tokens": "length of prompts; a trace brings its own",
    "workload.output_tokens": "length of answers; a trace brings its own",
    "workload.cached_fraction": "share of a prompt that is a shared prefix; made, then verified",
    "workload.prefix_groups": "so many different shared prefixes; moves capacity noticeably",
    "workload.arrivals": "how requests arrive",
    "workload.endpoint": "the API that is loaded; `chat` is required while speculation is searched",
    "workload.sampling": "how answers are drawn; the acceptance of drafts depends on it",
    "workload.prompts": "where their text comes from",
    "uniform.uniform": "shortest and longest, in tokens",
    "lognormal.median": "tokens",
    "lognormal.sigma": "standard deviation of the logarithm",
    "lognormal.min": "shorter draws are lifted to it",
    "lognormal.max": "longer draws are cut to it",
    "sampling.temperature": "0 is greedy",
    "sampling.top_p": "nucleus",
    "sampling.ignore_eos": "answers have the drawn length exactly",
    "sampling.thinking": "whether the chat template asks for reasoning",
    "prompts.corpus": "text that ships with the tuner",
    "prompts.file": "JSON Lines of your prompts, beside the space file",
    "prompts.trace": "JSON Lines of a trace in Mooncake's format, beside the space file",
    "prompts.block_tokens": "tokens that one hash id of the trace stands for",
    "objective.minimize": "cost of a million output tokens",
    "objective.subject_to": "limits that must hold",
    "objective.token_weights": "what counts as a token paid for",
    "objective.guard": "run, confirm and price so much below the lower end of the capacity bracket",
    "subject_to.ttft_p95_s": "95 % of the first tokens come within it, counted from the scheduled send",
    "subject_to.tpot_p95_ms": "the same for the time per output token, milliseconds",
    "subject_to.e2e_p95_s": "the same for whole answers",
    "subject_to.error_rate": "share of failed requests over the whole trial",
    "token_weights.output": "an output token",
    "token_weights.input": "a prompt token that is not cached",
    "token_weights.cached_input": "a prompt token of a shared prefix",
    "layout.tp": "tensor parallel sizes",
    "layout.dp": "data parallel replicas",
    "layout.attn_dp": "data parallel attention groups",
    "layout.ep": "expert parallel sizes; may name `tp`",
    "layout.gpus": "tp x dp must be this, or one of these",
    "bundle.model": "checkpoint: a repository or a path",
    "bundle.precision": "of the weights; where it is not given it is taken from the checkpoint's name or config",
    "bundle.pools": "pools on which it may be used; all where it is not given",
    "bundle.engine_version": "release of the engine with this bundle",
    "bundle.image": "image with this bundle",
    "bundle.params": "parameters that exist only inside it, by name",
    "bundle.args": "launch flags; `${...}` computes from the parameters",
    "bundle.env": "environment",
    "rule.id": "its name in messages",
    "rule.forbid": "an expression: points where it holds are rejected",
    "rule.warn": "an expression: points where it holds are marked",
    "rule.engine": "releases it holds for, such as `>=0.5.14,<0.5.17`; all where it is not given",
    "rule.why": "the reason, shown wherever the rule is named",
    "rule.source": "where it is known from",
    "budget.trials": "trials that told something; lost ones do not count",
    "budget.wall": "time the controller has run",
    "budget.gpu_hours": "GPU-hours of trials and confirmations",
    "budget.usd": "money of trials and confirmations",
    "budget.recheck_every": "after so many trials of a pool its baseline is measured again, and once on every node",
    "confirm.top": "so many candidates at most; 0: no confirmation",
    "confirm.repeats": "every run must hold",
    "confirm.minutes": "of load per run, at the guarded rate",
    "confirm.different_nodes": "each run on another node than the runs before",
    "deadlines.ready": "from the engine's start until it generates: loading the weights, compiling kernels",
    "deadlines.first_token": "for one request",
    "deadlines.probe": "of load; what was shown by then is the result",
    "deadlines.stop": "to drain, before the engine is killed",
    "deadlines.memory_free": "before the start, until the GPUs have given back what an earlier engine held",
}


def reference() -> str:
    """The whole page."""
    schema = json.loads(json_schema())
    return _HEAD + "".join("\n" + "\n".join(_section(schema, *section)) + "\n" for section in _SECTIONS) + _TAIL


def keys(schema: Doc) -> Iterator[tuple[str, str]]:
    """(definition, meaning's name) of every key the page shows."""
    for definition, _, prefix in _SECTIONS:
        for key in _definition(schema, definition)["properties"]:
            yield definition, f"{prefix}.{key}" if prefix else key


def _definition(schema: Doc, name: str) -> Doc:
    found: Doc = schema["$defs"][name] if name else schema
    return found


def _section(schema: Doc, name: str, heading: str, prefix: str) -> Iterator[str]:
    found = _definition(schema, name)
    yield f"## {heading}"
    yield ""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = found.get("required", [])
    order = [*required, *(key for key in found["properties"] if key not in required)]
    for key in order:
        field = found["properties"][key]
        default = "" if key in required else _default(field)
        meaning = MEANINGS[f"{prefix}.{key}" if prefix else key]
        yield f"| `{key}` | {_type(field)} | {default} | {meaning} |"


def _default(field: Doc) -> str:
    value = field.get("default")
    return "-" if value in (None, [], {}) else f"`{json.dumps(value)}`"


_NAMES = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "object": "map",
    "Uniform": "`{uniform: [a, b]}`", "Lognormal": "`{lognormal: {...}}`",
}  # fmt: skip


def _type(field: Doc) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return _NAMES.get(name, "map")
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(o) for o in options if o.get("type") != "null"))
    kind = field.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(_NAMES.get(str(k), str(k)) for k in kind if k != "null")
    if kind == "array":
        inner = _type(field["items"]) if "items" in field else "any"
        return f"list of {inner}"
    return _NAMES.get(str(kind), str(kind))


if __name__ == "__main__":
    sys.stdout.write(reference())
