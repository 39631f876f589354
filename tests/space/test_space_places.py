"""Every mistake of shape is told where it stands, by its dotted path, with what to write instead."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import pytest

CASES = {
    # unknown and misspelt keys
    "top key": ({"budget:": "§bugdet:"}, "bugdet: unknown key; did you mean 'budget'?"),
    "pool key": ({"    billing: gpu": "    §biling: gpu"}, "pools.nv.biling: unknown key; did you mean 'billing'?"),
    "deep key": ({"ttft_p95_s: 2.0": "ttft_p95_s: 2.0, §tpot_p95_s: 3"}, "did you mean 'tpot_p95_ms'?"),
    "key in a bundle": ({"org/M-FP8}": "org/M-FP8, §arg: {}}"}, "space.weights.choice.fp8.arg: unknown key; did you"),
    "key beside values": ({"[64, 128]}": "[64, 128], §stpe: 2}"}, "max-running-requests.stpe: unknown key"),
    "kind of a value": ({"{values: [64": "{§valeus: [64"}, "valeus: unknown key; did you mean 'values'?"),
    "kind of a range": ({"{float:": "{§flaot:"}, "flaot: unknown key; did you mean 'float'?"),
    "kind unlike any": ({"{values: [64": "{§zzz: [64"}, "zzz: unknown key; known: choice, float, int, values"),
    "kind of a length": ({": 2000": ": {§unifrom: [1, 2]}"}, "unifrom: unknown key; did you mean 'uniform'?"),
    # missing
    "no price": ({"  amd:\n    ": "  amd:\n    §", "    usd_per_gpu_hour: 2.5\n": ""}, "usd_per_gpu_hour: is missing"),
    "no layout": ({"  layout: {tp: [4, 8], dp: [1, 2], attn_dp: [1, 8], gpus: 8}\n  w": "  §w"}, "layout: is missing"),
    "no latency limit": ({"{ttft_p95_s: 2.0}": "§{}"}, "give at least one latency limit"),
    "no pools": ({"pools: [amd]}": "pools: §[]}"}, "pools: must have at least 1 item"),
    # numbers
    "negative price": ({"hour: 2.5": "hour: §-2.5"}, "usd_per_gpu_hour: must be greater than 0, not -2.5"),
    "price of nothing": ({"hour: 2.5": "hour: §0"}, "must be greater than 0"),
    "not a number": ({"hour: 2.5": "hour: §.nan"}, "`.nan` is not a finite number"),
    "infinite": ({"hour: 2.5": "hour: §.inf"}, "not a finite number"),
    "overflowing": ({"hour: 2.5": "hour: §1e999"}, "`1e999` is not a finite number"),
    "nan in a list": ({"[64, 128]": "[64, §.nan]"}, "space.max-running-requests.values.1: `.nan` is not"),
    "nan where anything goes": ({"billing: gpu": "pod_patch: {a: {b: §.nan}}"}, "pod_patch.a.b: `.nan` is not"),
    "huge": ({"hour: 2.5": "hour: §" + "9" * 400}, "is beyond 64 bits"),
    "beyond what Python converts": ({"hour: 2.5": "hour: §" + "9" * 5000}, "is not a number"),
    "huge hexadecimal": ({"hour: 2.5": "hour: §0x" + "f" * 5000}, "is beyond 64 bits"),
    "a float for tokens": ({": 2000": ": §2e3"}, "must be a valid integer, not 2000.0"),
    "share of one": ({": 2000": ": 2000\n  cached_fraction: §1.0"}, "must be less than 1"),
    "text for a number": ({": 2000": ": §many"}, "workload.input_tokens: must be a valid integer, not 'many'"),
    "empty uniform": ({": 2000": ": {uniform: §[9, 2]}"}, "the lower end 9 is above the upper end 2"),
    "lognormal out of its ends": ({": 2000": ": {lognormal: §{median: 9, sigma: 1, max: 5}}"}, "min <= median <= max"),
    "backward range": ({"[0.8, 0.84]": "§[0.84, 0.8]"}, "the lower end 0.84 is above the upper end 0.8"),
    "float without step": ({", step: 0.02}": "}", "{float": "§{float"}, "give `step`, or `log: true`"),
    "step of nothing": ({"step: 0.02": "step: §0"}, "must be greater than 0"),
    "log from zero": ({"{values: [64, 128]}": "§{int: [0, 8], log: true}"}, "a `log` range starts above 0"),
    "log and step": ({"{values: [64, 128]}": "§{int: [1, 8], log: true, step: 2}"}, "not both"),
    "int range without end": ({"{values: [64, 128]}": "§{int: [1, 999999999999]}"}, "more than 1000 values"),
    "float range without end": ({"step: 0.02": "step: 1e-300", "{float": "§{float"}, "more than 1000 values"),
    "values twice": ({"[64, 128]": "§[64, 64.0]"}, "the value 64.0 stands twice"),
    "true is 1": ({"[64, 128]": "§[1, true]"}, "the value True stands twice"),
    "no values": ({"[64, 128]": "§[]"}, "must have at least 1 item"),
    "params beyond count": (
        {"mtp:\n        params: {steps: {values: [1, 2, 3]}}": "mtp:\n        §params: {steps: {int: [1, 99]}, b: {int: [1, 99]}}"},
        "have 9801 combinations",
    ),
    # YAML traps
    "yes": ({"billing: gpu": "exclusive: §yes"}, "`yes` is text in YAML 1.2; write true or false"),
    "off": ({"billing: gpu": "exclusive: §off"}, "`off` is text"),
    "sexagesimal": ({"trials: 4": "wall: §12:30:00"}, "a duration is a number of seconds or text such as 90s"),
    "leading zero": ({"trials: 4": "trials: §010"}, "`010` has a leading zero"),
    "version as a number": ({'version: "0.5.23"': "version: §0.5"}, "must be text; put 0.5 in quotes"),
    "environment as a number": ({'AITER: "1"': "AITER: §1"}, "must be text; put 1 in quotes"),
    "environment as a boolean": ({'AITER: "1"': "AITER: §true"}, "must be text; put true in quotes"),
    "a key that is a number": ({"  nv:": "  nv: &n\n    §5: 1"}, 'pools.nv.5: a key must be text; write "5" in quotes'),
    "a key that is true": ({"budget:": "§true: 1\nbudget:"}, 'a key must be text; write "true" in quotes'),
    "a key that is null": ({"budget:": "§~: 1\nbudget:"}, "a key must be text"),
    "a key that is a list": ({"budget:": "? §[a, b]\n: 1\nbudget:"}, "a key must be text"),
    "a key that is a mapping": ({"budget:": "? §{a: b}\n: 1\nbudget:"}, "a key must be text"),
    # shapes and names
    "scalar for a mapping": ({"budget: {trials: 4}": "budget: §4"}, "budget: must be a mapping of keys to values, not 4"),
    "null for a mapping": ({"budget: {trials: 4}": "budget:§"}, "must be a mapping of keys to values, not nothing"),
    "list for a mapping": ({"{architecture: glm-5.2}": "§[a]"}, "model: must be a mapping of keys to values"),
    "scalar for a list": ({"{tp: [4, 8]": "{tp: §8"}, "layout.tp: must be a list, not 8"),
    "null dimension": ({" {values: [64, 128]}": " §~"}, "must be a value, {values: [...]}, {int: [a, b]}"),
    "list for a flag": ({"code: true": "code: §[1]"}, "args.trust-remote-code: must be a number, text, true or false"),
    "null for a flag": ({"code: true": "code: §null"}, "must be a number, text, true or false"),
    "long name": ({"name: demo": "name: §" + "x" * 21}, "must have at most 20 characters"),
    "unicode name": ({"name: demo": "name: §größe"}, "a name has lower-case letters, digits and hyphens"),
    "unicode dimension": ({"  max-running": "  §mäx-running", "max_running_requests / l": "64 / l", "max-running-requests: 64, ": ""}, "a dimension's name has lower-case"),
    "dotted dimension": ({"  max-running": "  page-size: 1\n  §a.b: 1\n  max-running"}, "space.a.b: a dimension's name"),
    "parameter's name": ({"{steps: {v": "{§num-steps: {v"}, "a parameter's name has lower-case letters"),
    "choice's name": ({"      fp8:": "      §f(p=8):"}, "a choice's name has letters"),
    "flag with its dashes": ({"{trust": "{§--trust"}, "args.--trust-remote-code: a flag is written without its leading dashes"),
    "variable's name": ({"{SGLANG_USE": "{§2SGLANG_USE"}, "a variable's name has letters"),
    "rule's name": ({"id: shallow": "id: §Too Deep"}, "rules.0.id: a name has lower-case letters"),
    "version with words": ({'version: "0.5.23"': "version: §latest"}, "a version such as 0.5.16 or 0.5.15.post1"),
    "version beyond comparing": ({'version: "0.5.23"': "version: §0.5.foo"}, "a version such as 0.5.16"),
    "format of the future": ({"version: 1": "version: §2"}, "version: must be 1, not 2"),
    "unknown precision": ({"org/M-FP8}": "org/M-FP8, precision: §int4}"}, "must be 'bf16', 'fp8', 'mxfp4' or 'nvfp4'"),
    "unknown billing": ({"billing: gpu": "billing: §nodes"}, "must be 'node' or 'gpu', not 'nodes'"),
    "two homes of a cache": ({"billing: gpu": "model_cache: §{pvc: a, host_path: /b}"}, "exactly one of pvc and host_path"),
    "forbid and warn": ({"  - id: shallow": "  - §id: shallow\n    warn: pool == 'nv'"}, "exactly one of forbid and warn"),
    "expression in the environment": ({'AITER: "1"': "AITER: §'${pool}'"}, "no ${...} here"),
    "expression in an image": ({"image: repo/nv:1": "image: §repo/nv:${pool}"}, "no ${...} here"),
    "expression in a value": ({"[64, 128]": "[64, §'${layout.tp}']"}, "no ${...} here"),
    "expression in a parameter": ({"{values: [1, 2, 3]}": "§'${layout.tp}'"}, "no ${...} here"),
    "expression in a checkpoint": ({"org/M-FP8}": "§'org/${pool}-FP8'}"}, "no ${...} here"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_once_at_its_place(desk, case):
    edits, words = CASES[case]
    desk.expect(edits, words)


def test_the_unedited_base_has_no_problem(desk):
    assert desk.problems(desk.base) == []


def test_mistakes_of_all_stages_are_told_at_once_in_the_order_of_the_file(desk):
    """A duplicate key, an unknown key, a bad number, a call in a rule, an unknown flag and a bad seed: one run."""
    text = desk.edited(
        {
            "    billing: gpu": "    billing: gpu\n    billing: node",
            "  output_tokens: 100": "  output_tokens: 100\n  arivals: poisson",
            "ttft_p95_s: 2.0": "ttft_p95_s: 2.0, error_rate: -1",
            "code: true": "code: true, no-such-flag: 1",
            "speculation.steps > 2": "max(1, 2) > 1",
            "weights: fp8,": "weights: fp9,",
        }
    )
    found = desk.problems(text, lambda _v, flag, _value: "unknown flag" if flag == "no-such-flag" else None)
    assert [p.message.split(": ")[0] for p in found] == [
        "pools.amd.args.no-such-flag",
        "pools.nv.billing",
        "workload.arivals",
        "objective.subject_to.error_rate",
        "rules.0.forbid",
        "seeds.baseline.weights",
    ]


def test_a_message_stays_one_line_whatever_the_file_holds(desk):
    """Keys, values and expressions with line breaks do not break the report."""
    text = desk.edited({"budget:": '"bud\\nget": 1\nbudget:', "hour: 2.5": 'hour: "a\\nb\\u2028c"'})
    assert len(desk.problems(text)) == 2
    rule = desk.edited({"forbid: pool == 'nv' and speculation.steps > 2": "forbid: |\n      pool ==\n      'nv'"})
    assert len(desk.problems(rule)) == 1
