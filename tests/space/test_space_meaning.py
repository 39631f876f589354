"""What no schema sees: parts of a file that contradict each other, told where they stand."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import pytest

STEPS = 'args: {speculative-num-steps: "${steps}"}'
FORBID = "pool == 'nv' and speculation.steps > 2"
DERIVED = "${max_running_requests / layout.attn_dp}"
LAYOUT = "{tp: [4, 8], dp: [1, 2], attn_dp: [1, 8], gpus: 8}"
SEED = 'layout: {tp: 8}, weights: fp8, speculation: "off", max-running-requests: 64, mem-fraction-static: 0.8'
VALUES = "{values: [64, 128]}"

CASES = {
    # layouts
    "tp 3": ({LAYOUT: "§{tp: [3], gpus: 8}"}, "space.layout: no valid layout: GPUs = tp x dp must be one of"),
    "tp 3 among others": ({"tp: [4, 8]": "tp: [4, 8, §3]"}, "space.layout.tp.2: 3 is part of no valid layout"),
    "attn_dp 3": ({"attn_dp: [1, 8]": "attn_dp: [1, 8, §3]"}, "space.layout.attn_dp.2: 3 is part of no valid layout"),
    "dp 5": ({"dp: [1, 2]": "dp: [1, 2, §5]"}, "space.layout.dp.2: 5 is part of no valid layout"),
    "ep 16": ({"gpus: 8}": "ep: [1, tp, §16], gpus: 8}"}, "space.layout.ep.2: 16 is part of no valid layout"),
    "gpus 7": ({"gpus: 8}": "gpus: [8, §7]}"}, "space.layout.gpus.1: 7 is part of no valid layout"),
    "wider than a node": ({LAYOUT: "§{tp: [8], dp: [1, 2], gpus: [8, 16]}"}, "tp8-dp2 needs more GPUs than a node"),
    "pool of small nodes": (
        {"  nv:\n    accelerator: b200": "  nv:\n    §accelerator: b200\n    gpus_per_node: 4"},
        "pools.nv: no point of the space can run on it; check `gpus_per_node`",
    ),
    # expressions
    "call in a rule": ({FORBID: "§exit(1) == 0"}, "rules.0.forbid: a call (`exit(1)`) is not allowed here"),
    "syntax of a rule": ({FORBID: "§pool = 'nv'"}, "is not an expression"),
    "unknown name": ({FORBID: "§pol == 'nv'"}, "unknown name `pol`; did you mean 'pool'?"),
    "unknown parameter": ({FORBID: "§speculation.step > 1"}, "did you mean 'speculation.steps'?"),
    "private attribute": ({FORBID: "§pool.__class__ == 1"}, "is not a documented name"),
    "text compared with a number": ({FORBID: "§weights < 3"}, "'<' not supported between instances of 'str' and 'int'"),
    "rarely read comparison": ({FORBID: "§max_running_requests > 100 and mem_fraction_static > 0.83 and weights < 3"}, "'<' not"),
    "rule that is a number": ({FORBID: "§layout.tp"}, "`layout.tp` is 4, neither true nor false (where layout.tp = 4)"),
    "rule in braces": ({FORBID: "§${weights > 3}"}, "`weights > 3`: '>' not supported"),
    "rule with text around": ({FORBID: "§not ${pool == 'nv'}"}, "one `${...}` and nothing else"),
    "version range": ({"why: too": "engine: §0.5.16\n    why: too"}, "`0.5.16` is not a version range such as"),
    "rule twice": (
        {"    why: too deep there": "    why: too deep there\n  - id: §shallow\n    warn: pool == 'nv'\n    why: x"},
        "rules.1.id: the id `shallow` is already taken by rule 1",
    ),
    "empty expression": ({DERIVED: "§${}"}, "space.cuda-graph-max-bs: the expression is empty"),
    "text around": ({DERIVED: "§a${layout.tp}"}, "one `${...}` and nothing else"),
    "absent in a sum": ({DERIVED: "§${speculation.steps + 1}"}, "not None and 1 (where speculation.steps = None)"),
    "absent alone": ({DERIVED: "§${speculation.steps}"}, "has no value here"),
    "a list": ({DERIVED: "§${[1, layout.tp]}"}, "is a list"),
    "division by zero": ({DERIVED: "§${64 / (layout.attn_dp - 1)}"}, "division by zero (where layout.attn_dp = 1)"),
    "division by zero in a bundle": ({STEPS: "args: {speculative-num-steps: §'${6 / (steps - 2)}'}"}, "(where steps = 2)"),
    "text in a bundle's sum": ({STEPS: "args: {speculative-num-steps: §'${pool + steps}'}"}, "arithmetic needs numbers"),
    "number a bundle cannot see": ({STEPS: "args: {speculative-num-steps: §'${max_running_requests}'}"}, "unknown name"),
    "another's parameter": ({"{model: org/M-FP8}": "{model: org/M-FP8, args: {a: §'${steps}'}}"}, "unknown name `steps`"),
    "pool's sum": ({"code: true": "code: true, x: §'${accelerator * 2}'"}, "pools.amd.args.x: `accelerator * 2`: arith"),
    "very long": ({FORBID: "§" + "1 + " * 400 + "1 > 0"}, "longer than 1000 characters"),
    "very deep": ({FORBID: "§" + "(" * 300 + "1" + ")" * 300}, "is not an expression"),
    "many nots": ({FORBID: "§" + "not " * 200 + "True"}, "nested too deeply"),
    # bundles
    "pool of a bundle": ({"pools: [amd]": "pools: [amd, §amdd]"}, "no pool 'amdd'; did you mean 'amd'?"),
    "no checkpoint": ({"space:\n  l": "space:\n  §l", "{model: org/M-FP8}": "{}", "model: org/M-MXFP4, ": ""}, "none does"),
    "two checkpoints": (
        {"space:\n  l": "space:\n  §l", '"off": {}': '"off": {model: org/a-fp8}', "        params": "        model: org/b-fp8\n        params"},
        "exactly one dimension must choose the checkpoint (`model`) in its bundles; weights and speculation do",
    ),
    "checkpoint of one bundle": ({"fp8: {model: org/M-FP8}": "fp8: §{}"}, "space.weights.choice.fp8: needs a `model`"),
    "precision": ({"fp8: {model: org/M-FP8}": "big: {model: §org/M}", "weights: fp8,": "weights: big,"}, "add `precision:`"),
    # names
    "reserved": ({"  max-running": "  §pool: {values: [1]}\n  max-running"}, "space.pool: the name `pool` is taken"),
    "only": ({"  max-running": "  §only: {values: [1]}\n  max-running"}, "the name `only` is taken"),
    "workload": ({"  max-running": "  §workload: ${1}\n  max-running"}, "the name `workload` is taken"),
    "same variable": ({"  mem-fr": "  §max_running_requests: 3\n  mem-fr"}, "the same name as `max-running-requests` in"),
    "same label": ({VALUES: "§{values: [64, '64']}", DERIVED: "${layout.tp}"}, "two of its values read `64`"),
    "same label of parameters": (
        {"{steps: {values: [1, 2, 3]}}": "{steps: {values: ['1', '1, y=2']}, y: {values: ['2', '2, y=2']}}",
         FORBID: "pool == 'nv' and speculation.steps == 'x'", "  speculation:\n    ch": "  speculation:\n    §ch"},
        "two of its values read `mtp(steps=1, y=2, y=2)`",
    ),
    # set twice
    "pool and bundle": ({'"off": {}': '"off": {args: {§trust-remote-code: true}}'}, "set twice: by pool amd and by dimension spec"),
    "pool and number": ({"  mem-fr": "  §trust-remote-code: true\n  mem-fr"}, "set twice: by pool amd and by dimension trust"),
    "pool and derived": ({"code: true": "code: true, cuda-graph-max-bs: 3", "  cuda-g": "  §cuda-g"}, "is set twice"),
    "bundle and number": ({'"off": {}': '"off": {args: {max-running-requests: 3}}', "  max-r": "  §max-r"}, "flag max-running-requests is set twice"),
    "bundle and derived": ({'"off": {}': '"off": {args: {cuda-graph-max-bs: 3}}', "  cuda-g": "  §cuda-g"}, "is set twice"),
    "two bundles": (
        {"org/M-FP8}": "org/M-FP8, args: {page-size: 1}}", '"off": {}': '"off": {args: {§page-size: 1}}'},
        "space.speculation.choice.off.args.page-size: the flag page-size is set twice: by dimension weights and by",
    ),
    "two images": (
        {"org/M-FP8}": "org/M-FP8, image: a}", '"off": {}': '"off": {§image: b}'},
        "`image` is set twice",
    ),
    "variable": ({'"off": {}': '"off": {env: {§SGLANG_USE_AITER: "0"}}'}, "the variable SGLANG_USE_AITER is set twice"),
    # workload
    "completions with speculation": (
        {"workload:": "workload:\n  endpoint: §completions", '"${steps}"': '"${steps}", speculative-algorithm: EAGLE'},
        "workload.endpoint: must be chat while speculation is searched",
    ),
    "completions with derived speculation": (
        {"workload:": "workload:\n  endpoint: §completions", '"${steps}"': '"${steps}", speculative-algorithm: "${\'EAGLE\'}"'},
        "must be chat while speculation is searched",
    ),
    "completions with a speculative number": (
        {"workload:": "workload:\n  endpoint: §completions", "  mem-fr": "  speculative-algorithm: {values: [EAGLE, NGRAM]}\n  mem-fr",
         SEED: "weights: fp8"},
        "must be chat while speculation is searched",
    ),
    # seeds
    "dimension of a seed": ({"weights: fp8,": "§weihgts: fp8,"}, "seeds.baseline.weihgts: unknown dimension; did you mean"),
    "choice of a seed": ({"weights: fp8,": "weights: §fp9,"}, "seeds.baseline.weights: no choice 'fp9'; did you mean 'fp8'?"),
    "value of a seed": ({"requests: 64": "requests: §65"}, "65 is not a value of this dimension (64, 128)"),
    "truth for a number": ({VALUES: "{values: [1, 64]}", "requests: 64": "requests: §true"}, "True is not a value"),
    "list for a choice": ({"weights: fp8,": "weights: §[fp8],"}, "is not a choice; write its name"),
    "two choices": ({"weights: fp8,": "weights: §{fp8: {}, mxfp4: {}},"}, "is not a choice; write its name"),
    "number for a choice": ({"weights: fp8,": "weights: §8,"}, "8 is not a choice"),
    "choice without its parameter": ({'speculation: "off"': "speculation: §mtp"}, "is not one of mtp(steps=1), mtp(steps=2)"),
    "parameter of a seed": ({'speculation: "off"': "speculation: §{mtp: {steps: 4}}"}, "is not one of mtp(steps=1)"),
    "truth for a parameter": ({'speculation: "off"': "speculation: §{mtp: {steps: true}}"}, "is not one of mtp(steps=1)"),
    "list for a parameter": ({'speculation: "off"': "speculation: §{mtp: {steps: [1]}}"}, "is not one of mtp(steps=1)"),
    "pool of a seed": ({SEED: "pool: §amdd"}, "seeds.baseline.pool: no pool 'amdd'; did you mean 'amd'?"),
    "list for a pool": ({SEED: "pool: §[amd]"}, "no pool ['amd']"),
    "layout as a list": ({SEED: "layout: §[8]"}, "write it as {tp: 8}"),
    "layout as text": ({SEED: "layout: §{tp: '8'}"}, "write it as {tp: 8}"),
    "layout of truth": ({SEED: "layout: §{tp: true}"}, "write it as {tp: 8}"),
    "layout without tp": ({SEED: "layout: §{dp: 2}"}, "tp is missing"),
    "part of a layout": ({SEED: "layout: §{tp: 8, atn_dp: 2}"}, "unknown key `atn_dp`; did you mean 'attn_dp'?"),
    "layout outside the grid": ({"{" + SEED: "§{layout: {tp: 2}"}, "no point of the space agrees with it"),
    "checkpoint not for the pool": ({"{" + SEED: "§{weights: mxfp4, pool: nv"}, "no point of the space agrees with it"),
    "forbidden seed": ({"{" + SEED: "§{pool: nv, speculation: {mtp: {steps: 3}}"}, "the rule shallow forbids it: too deep there"),
    "only of nothing": ({SEED: "weights: fp8, only: §[]"}, "lists `model`, `tp` or both"),
    "only of a word": ({SEED: "weights: fp8, only: §model"}, "lists `model`, `tp` or both"),
    "only of more": ({SEED: "weights: fp8, only: §[model, ep]"}, "lists `model`, `tp` or both"),
    "only of lists": ({SEED: "weights: fp8, only: §[[model]]"}, "lists `model`, `tp` or both"),
    "only and a number": ({SEED: "weights: fp8, only: [model], max-running-requests: §64"}, "does not pass it"),
    "only and another bundle": ({SEED: "weights: fp8, only: [model], speculation: §'off'"}, "does not pass it"),
    "only and dp": ({SEED: "weights: fp8, only: [model], layout: §{tp: 4, dp: 2}"}, "passes at most tp; write {tp: N}"),
    "only without checkpoint": ({"{" + SEED: "§{only: [model], layout: {tp: 8}"}, "names its checkpoint; add weights"),
    "only on a wrong pool": ({"{" + SEED: "§{weights: mxfp4, pool: nv, only: [model, tp]"}, "no pool takes it"),
    "only wider than a node": ({"{" + SEED: "§{weights: fp8, layout: {tp: 16}, only: [model, tp]"}, "no pool takes it"),
    # points
    "no point left": ({"space:\n  l": "space:\n  §l", FORBID: "layout.tp > 0", SEED: "only: [model], weights: fp8"}, "no point is left of 216: shallow forbids 216"),
    "too many points": (
        {"space:\n  l": "space:\n  §l", "  mem-fr": "  a: {int: [1, 1000]}\n  b: {int: [1, 1000]}\n  mem-fr"},
        "more than 500,000; use fewer values",
    ),
    "nothing for a pool": ({"org/M-FP8}": "org/M-FP8, pools: [amd]}", "accelerator: b200": "§accelerator: b200"}, "pools.nv: no point of"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_told_once_at_its_place(desk, case):
    edits, words = CASES[case]
    desk.expect(edits, words)


FINE = {
    "two choices of one dimension set a flag": {'"off": {}': '"off": {args: {speculative-num-steps: 0}}'},
    "a pool and a bundle that never meet": {"{model: org/M-MXFP4, pools: [amd]}": "{model: org/M-MXFP4, pools: [nv], args: {trust-remote-code: true}}"},
    "two bundles that never meet": {"[amd]}": "[amd], args: {page-size: 1}}", '"off": {}': '"off": {pools: [nv], args: {page-size: 64}}', SEED: "pool: amd"},
    "two pools set a flag": {"billing: gpu": "args: {trust-remote-code: true}"},
    "an absent parameter in a comparison": {FORBID: "speculation.steps > 1 or speculation.steps in [1]"},
    "a guarded division": {DERIVED: "${64 / layout.attn_dp}", FORBID: "layout.attn_dp > 1 and 8 / (layout.attn_dp - 1) > 9"},
    "an open seed": {SEED: "speculation: {mtp: {steps: 2}}"},
    "an empty seed": {'{layout: {tp: 8}, weights: fp8, speculation: "off", max-running-requests: 64, mem-fraction-static: 0.8}': "{}"},
    "a seed outside the grid": {SEED: "layout: {tp: 2}, weights: fp8, only: [model, tp]"},
    "a seed with an equal float": {"requests: 64,": "requests: 64.0,"},
    "a precision of its own": {"{model: org/M-FP8}": "{model: org/M, precision: bf16}"},
    "a range of versions": {"why: too": 'engine: ">=0.5.14,<0.5.17,!=0.5.15"\n    why: too'},
    "a fixed text": {"  mem-fr": "  kv-cache-dtype: fp8_e4m3\n  mem-fr"},
    "no rules, no seeds, no budget": {f"rules:\n  - id: shallow\n    forbid: {FORBID}\n    why: too deep there\n": "", f"seeds:\n  baseline: {{{SEED}}}\n": "", "budget: {trials: 4}\n": ""},
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_what_does_not_contradict_is_not_refused(desk, case):
    assert desk.problems(desk.edited(FINE[case])) == []


def test_every_flag_is_checked_for_every_engine_version_that_may_run_it(desk):
    asked = set()
    desk.problems(desk.base, lambda version, flag, value: asked.add((version, flag, value)))
    both = {"0.5.16", "0.5.23"}
    assert {v for v, flag, _ in asked if flag == "max-running-requests"} == both
    assert {v for v, flag, _ in asked if flag == "speculative-num-steps"} == both
    assert {v for v, flag, _ in asked if flag == "trust-remote-code"} == {"0.5.16"}
    assert ("0.5.16", "cuda-graph-max-bs", None) in asked
    assert ("0.5.16", "max-running-requests", 128) in asked


@pytest.mark.parametrize(
    ("flag", "edits"),
    [
        ("trust-remote-code", {"{trust": "{§trust"}),
        ("speculative-num-steps", {"{speculative": "{§speculative"}),
        ("mem-fraction-static", {"  mem-fraction-static: {": "  §mem-fraction-static: {"}),
        ("cuda-graph-max-bs", {"  cuda": "  §cuda"}),
    ],
)
def test_a_flag_the_engine_refuses_is_told_at_its_key(desk, flag, edits):
    desk.expect(
        edits, "unknown flag; did you mean", lambda _v, f, _x: "unknown flag; did you mean" if f == flag else None
    )
